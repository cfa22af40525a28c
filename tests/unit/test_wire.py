"""The agent's own connection: replies in order, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
import uvloop

from bus import lines, wire
from bus.wire import Wire
from tests.support import tls

pytestmark = pytest.mark.asyncio

# What a server does with one connection, from its first byte on.
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def wired(
    serve: Serve,
    timeout_s: float = 5.0,
    path: Path | None = None,
    *,
    secure: bool = False,
) -> AsyncIterator[Wire]:
    """A wire to a server that does this, and no complaint of the loop."""
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, c: complaints.append(c))

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(ConnectionError):  # some of these break it off
            await serve(reader, writer)
        writer.close()

    if path is not None:
        server = await asyncio.start_unix_server(handle, path)
        url = f"unix://{path}"
    else:
        context = tls.context() if secure else None
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
        url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
        url = tls.trusted(url) if secure else url
    one = Wire(url, timeout_s, "")
    yield one
    await one.aclose()
    server.close()
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer `ECHO word` with the word, whatever the word is."""
    while await reader.readline():  # *2
        words = [(await reader.readline(), await reader.readline()) for _ in range(2)]
        writer.write(b"+" + words[1][1])


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Take a request and go."""
    await reader.read(1)


async def test_a_cancelled_call_shifts_no_reply_of_others() -> None:
    async with wired(echo) as one:
        first = asyncio.create_task(one.execute_command("ECHO", "first"))
        await one.execute_command("ECHO", "connected")
        lost = asyncio.create_task(one.execute_command("ECHO", "lost"))
        asks = [
            asyncio.create_task(one.execute_command("ECHO", f"{n}")) for n in range(9)
        ]
        await asyncio.sleep(0)
        lost.cancel()

        assert await asyncio.gather(*asks) == [str(n) for n in range(9)]
        assert await first == "first"
        assert lost.cancelled()


async def test_a_lost_connection_fails_all_who_wait_and_is_made_again() -> None:
    served: list[Serve] = [hang_up, echo]

    async def by_turns(*pair: Any) -> None:
        await served.pop(0)(*pair)

    async with wired(by_turns) as one:
        asks = [one.execute_command("ECHO", "x") for _ in range(3)]
        failed = await asyncio.gather(*asks, return_exceptions=True)

        assert [type(each) for each in failed] == [redis.ConnectionError] * 3
        assert await one.execute_command("ECHO", "back") == "back"


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("steps", range(6))
async def test_a_connection_that_is_lost_while_it_is_made_lets_nobody_wait(
    steps: int, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last word of the login and the first command, or so many steps of the
    loop around it: an agent whose server was killed just then stood still for good."""
    real = asyncio.wait_for

    async def meanwhile(work: Any, timeout: float) -> Any:
        protocol = await real(work, timeout)
        protocol.close()
        for _ in range(steps):
            await asyncio.sleep(0)
        return protocol

    async with wired(hang_up, secure=secure) as one:
        with monkeypatch.context() as patch:
            patch.setattr(wire.asyncio, "wait_for", meanwhile)  # type: ignore[attr-defined]
            asking = asyncio.create_task(one.execute_command("ECHO", "x"))
            done, _ = await asyncio.wait([asking], timeout=1.0)
        assert done
        assert isinstance(asking.exception(), redis.ConnectionError)


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "TLS"])
async def test_who_is_through_with_it_leaves_nothing_to_a_loop_that_closes(
    secure: bool,
) -> None:
    async with wired(echo, secure=secure) as one:
        await one.execute_command("ECHO", "x")
        protocol = one._protocol

        await one.aclose()

        assert protocol is not None and protocol.lost


async def test_several_commands_that_fail_together_leave_no_complaint() -> None:
    async with wired(hang_up) as one:
        with pytest.raises(redis.ConnectionError):
            await one.execute_all(*(("ECHO", "x") for _ in range(3)))


async def test_an_error_among_several_replies_leaves_the_connection_in_step() -> None:
    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"C\r\n")
        writer.write(b"-ERR first\r\n-ERR second\r\n+third\r\n")
        await reader.readuntil(b"D\r\n")
        writer.write(b"+after\r\n")
        await reader.read()

    async with wired(refuse) as one:
        with pytest.raises(redis.ResponseError, match="first"):
            await one.execute_all(("A",), ("B",), ("C",))

        assert await one.execute_command("D") == "after"


async def test_what_is_no_reply_ends_the_connection() -> None:
    async def babble(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()

    async with wired(babble) as one:
        with pytest.raises(redis.ConnectionError):
            await one.execute_command("PING")


async def be_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    await reader.read()


async def test_who_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "_WATCH_S", 0.02)

    async with wired(be_silent, timeout_s=0.1) as one:
        with pytest.raises(redis.ConnectionError):
            await asyncio.wait_for(one.execute_command("PING"), 2)


async def test_who_may_block_for_longer_is_given_up_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "_WATCH_S", 0.02)

    async with wired(be_silent, timeout_s=0.1) as one:
        began = asyncio.get_running_loop().time()
        with pytest.raises(redis.ConnectionError):
            await asyncio.wait_for(one.ask_all(("PING",), more_s=0.5), 5)

        assert asyncio.get_running_loop().time() - began > 0.55


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_who_leaves_after_the_server_did_has_left(
    run: Callable[..., None],
) -> None:
    async def leaves() -> None:
        async with asyncio.timeout(10), wired(hang_up) as one:
            with pytest.raises(redis.ConnectionError):
                await one.execute_command("ECHO", "x")
            protocol = one._protocol
            assert protocol is not None and protocol.lost

            await one.leave()
            protocol.lost = False  # it goes in this very turn of the loop
            one._protocol = protocol
            await one.leave()

    await asyncio.to_thread(run, leaves())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
async def test_what_is_sent_while_the_connection_goes_is_not_waited_for(
    run: Callable[..., None],
) -> None:
    async def goes() -> None:
        async with asyncio.timeout(10), wired(echo) as one:
            packed = lines.opening(("ECHO", "x"), 0)
            assert one.send_packed(packed) is None, "there is none yet"
            await one.execute_command("ECHO", "x")
            answer = one.send_packed(packed)
            assert answer is not None
            await answer
            assert one._protocol is not None
            one._protocol.close()  # it is told of it in the next turn of the loop

            assert one.send_packed(packed) is None
            with pytest.raises(redis.ConnectionError):
                await one.execute_command("ECHO", "x")

    await asyncio.to_thread(run, goes())


async def test_a_word_introduce_each_connection_and_to_a_server_that_forgot_it() -> (
    None
):
    async def forget(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while await reader.read(100):
            writer.write(b"-NOSCRIPT No matching script.\r\n")

    async with wired(forget) as one:
        assert not one.introduce("finish"), "nothing can be sent now"
        with pytest.raises(redis.exceptions.NoScriptError):
            await one.execute_command("EVALSHA", "x", 0)
        assert [one.introduce("finish") for _ in range(2)] == [True, False]
        with pytest.raises(redis.exceptions.NoScriptError):
            await one.execute_command("EVALSHA", "x", 0)

        assert one.introduce("finish")


async def test_who_leaves_stays_until_the_server_has_let_go() -> None:
    asked, let_go = asyncio.Event(), asyncio.Event()

    async def linger(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        asked.set()
        await reader.read()
        await let_go.wait()

    async with wired(linger) as one:
        asking = asyncio.create_task(one.execute_command("BLOCK"))
        await asked.wait()
        leaving = asyncio.create_task(one.leave())
        assert not (await asyncio.wait([leaving], timeout=0.05))[0]
        let_go.set()

        await leaving
        with pytest.raises(redis.ConnectionError):
            await asking


async def test_who_leaves_a_server_that_is_gone_does_not_wait() -> None:
    async with wired(hang_up) as one:
        with pytest.raises(redis.ConnectionError):
            await one.execute_command("PING")

        await one.leave()


async def test_a_server_behind_a_unix_socket_is_spoken_to(tmp_path: Path) -> None:
    async with wired(echo, path=tmp_path / "s") as one:
        assert await one.execute_command("ECHO", "word") == "word"


async def test_a_server_behind_tls_is_spoken_to_and_may_come_and_go() -> None:
    served: list[Serve] = [echo, hang_up, echo]

    async def by_turns(*pair: Any) -> None:
        await served.pop(0)(*pair)

    async with wired(by_turns, secure=True) as one:
        assert await one.ask_all(("ECHO", "a"), ("ECHO", "b")) == ["a", "b"]
        await one.disconnect()
        with pytest.raises(redis.ConnectionError):
            await one.execute_command("ECHO", "lost")

        assert await one.execute_command("ECHO", "back") == "back"


async def test_a_server_that_nobody_vouches_for_is_not_spoken_to() -> None:
    async with wired(echo, secure=True) as one:
        one._facts.pop("ssl_ca_certs")

        with pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            await one.execute_command("PING")


async def test_a_password_that_is_wrong_is_told_as_that(redis_url: str) -> None:
    wrong = Wire(f"redis://:wrong@{redis_url.rpartition('@')[2]}", 5.0, "")

    with pytest.raises(redis.AuthenticationError):
        await wrong.execute_command("PING")

    await wrong.aclose()


async def test_a_database_of_its_own_is_selected(redis_url: str) -> None:
    other = Wire(f"{redis_url.rpartition('/')[0]}/3", 5.0, "me")

    assert "db=3" in await other.execute_command("CLIENT", "INFO")
    assert await other.execute_command("CLIENT", "GETNAME") == "me"

    await other.aclose()
