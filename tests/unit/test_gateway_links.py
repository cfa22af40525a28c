"""HTTP to the model server: connections are kept, and nothing is ever asked twice."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Self

import pytest

from bus.gateway import links
from tests.support.waiting import wait_until_async

pytestmark = pytest.mark.asyncio

PATIENCE_S = 30.0
SIZED = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Script = Callable[["Server", asyncio.StreamReader, asyncio.StreamWriter], Awaitable]


class Server:
    """Plays a script for each connection; counts those, keeps what was asked."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.connections = 0
        self.heads: list[str] = []
        self.url = ""
        self._running: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        links.close_all()
        self._server.close()
        await self._server.wait_closed()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def asked(self, reader: asyncio.StreamReader) -> None:
        """Read one request."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.heads.append(head)
        _, _, size = head.lower().partition("content-length: ")
        await reader.readexactly(int(size.split()[0]) if size else 0)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        with contextlib.suppress(
            OSError, asyncio.IncompleteReadError, asyncio.CancelledError
        ):
            await self.script(self, reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self._running.discard(task)


@contextlib.asynccontextmanager
async def asked(url: str, path: str = "/x") -> AsyncIterator[links.Answer]:
    """A POST of `{}` there, with more time than any machine needs."""
    until = asyncio.get_running_loop().time() + PATIENCE_S
    where = links.place(url)
    async with links.asked(where, path, b"{}", connect_s=30, until=until) as answer:
        yield answer


async def read(answer: links.Answer) -> bytes:
    """The body, to its end."""
    until, body = asyncio.get_running_loop().time() + PATIENCE_S, b""
    while (part := await answer.more(until)) is not None:
        body += part
    return body


async def said(url: str) -> bytes:
    async with asked(url) as answer:
        return await read(answer)


def saying(*parts: bytes) -> Script:
    """These bytes for every request of a connection."""

    async def script(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await server.asked(reader)
            for part in parts:
                writer.write(part)
                await writer.drain()

    return script


async def once(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One answer that promises to stay, then the end of the connection."""
    await server.asked(reader)
    writer.write(SIZED)


async def once_and_silent(
    server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Takes a second request and hangs up instead of an answer."""
    await once(server, reader, writer)
    await server.asked(reader)


async def test_requests_one_after_the_other_share_a_connection() -> None:
    async with Server(saying(SIZED)) as server:
        assert [await said(server.url) for _ in range(3)] == [b"ok"] * 3

    assert (server.connections, len(server.heads)) == (1, 3)


async def test_of_requests_at_once_each_has_its_own() -> None:
    async with (
        Server(saying(SIZED)) as server,
        asked(server.url) as one,
        asked(server.url) as other,
    ):
        assert [await read(one), await read(other)] == [b"ok"] * 2

    assert server.connections == 2


async def test_a_kept_connection_that_the_server_closed_is_found_before_the_send() -> (
    None
):
    async with Server(once) as server:
        for _ in range(5):
            # The end of the one before has come, or waits in the socket.
            assert await said(server.url) == b"ok"

    assert (server.connections, len(server.heads)) == (5, 5)


async def test_what_breaks_after_the_send_is_not_asked_again() -> None:
    async with Server(once_and_silent) as server:
        assert await said(server.url) == b"ok"
        with pytest.raises(links.Broken):
            await said(server.url)

        assert (server.connections, len(server.heads)) == (1, 2)


async def test_an_answer_whose_end_comes_late_keeps_its_connection() -> None:
    go = asyncio.Event()

    async def late(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        while True:
            await server.asked(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            writer.write(b"2\r\nok\r\n")
            await go.wait()
            writer.write(b"0\r\n\r\n")

    async with Server(late) as server:
        async with asked(server.url) as answer:
            assert await answer.more(asyncio.get_running_loop().time() + 30) == b"ok"
        go.set()
        await wait_until_async(lambda: links._links(links.place(server.url)))
        assert await said(server.url) == b"ok"

    assert server.connections == 1


async def test_one_whose_end_is_still_to_come_is_closed_with_all_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = asyncio.Event()

    async def endless(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"2\r\nok\r\n")
        with contextlib.suppress(ConnectionError):
            await reader.read()
        ended.set()

    monkeypatch.setattr(links, "_END_S", 600.0)
    async with Server(endless) as server:
        async with asked(server.url) as answer:
            assert await answer.more(asyncio.get_running_loop().time() + 30) == b"ok"

        links.close_all()

        await wait_until_async(ended.is_set, 10)


async def test_who_leaves_midway_closes_the_connection() -> None:
    gone = asyncio.Event()

    async def stalling(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.asked(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        with contextlib.suppress(OSError):
            await reader.read()
        gone.set()

    async with Server(stalling) as server:
        with pytest.raises(ZeroDivisionError):
            async with asked(server.url) as answer:
                await answer.more(asyncio.get_running_loop().time() + 30)
                raise ZeroDivisionError
        await asyncio.wait_for(gone.wait(), 30)


async def test_a_server_that_says_nothing_is_late() -> None:
    async with Server(saying()) as server:
        now = asyncio.get_running_loop().time()
        with pytest.raises(TimeoutError):
            async with links.asked(
                links.place(server.url), "/", None, connect_s=30, until=now + 0.1
            ):
                raise AssertionError("nothing was said")


@pytest.mark.parametrize(
    ("text", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n" + SIZED, b"ok"),
        (b"HTTP/1.1 204 Nothing\r\n\r\n", b""),
    ],
    ids=["close", "1.0", "hints", "empty"],
)
async def test_every_kind_of_answer_is_read_to_its_end(
    text: bytes, body: bytes
) -> None:
    async def script(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.asked(reader)
        writer.write(text)

    async with Server(script) as server:
        assert await said(server.url) == body


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200_000,
    ],
    ids=["nothing", "ssh", "upgrade", "short", "cut", "chunk", "head"],
)
async def test_what_is_no_whole_answer_is_broken(text: bytes) -> None:
    async def script(
        server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await server.asked(reader)
        writer.write(text)
        await writer.drain()

    async with Server(script) as server:
        with pytest.raises(links.Broken):
            await said(server.url)


async def test_an_answer_nobody_asked_for_is_not_the_next_one() -> None:
    async with Server(saying(SIZED + SIZED.replace(b"ok", b"no"))) as server:
        assert [await said(server.url) for _ in range(2)] == [b"ok"] * 2

    assert server.connections == 2


async def test_without_a_server_it_is_unreachable() -> None:
    async with Server(saying()) as server:
        url = server.url
    with pytest.raises(links.Unreachable):
        await said(url)


async def test_a_request_names_the_place_of_the_url_and_who_asks() -> None:
    async with Server(saying(SIZED)) as server:
        rest = server.url.removeprefix("http://")
        await said(f"http://ada:p%40ss@{rest}/sub path/")

    [head] = server.heads
    assert head.startswith("POST /sub%20path/x HTTP/1.1\r\n")
    basic = base64.b64encode(b"ada:p@ss").decode()
    fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
    assert fields["Authorization"] == f"Basic {basic}"
    assert (fields["Host"], fields["Accept-Encoding"]) == (rest, "identity")


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:1", "ftp://x", "http://", "http://x:y", "http://a b"]
)
async def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises(ValueError):
        links.place(url)


async def test_a_connection_that_ends_before_it_is_asked_lets_nobody_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server that takes connections and is killed in the same moment."""
    real = links._connected

    async def gone(where: links.Place, connect_s: float) -> links.Answer:
        link = await real(where, connect_s)
        link.close()
        await asyncio.sleep(0.01)
        return link

    monkeypatch.setattr(links, "_connected", gone)
    async with Server(saying(SIZED)) as server, asyncio.timeout(PATIENCE_S / 2):
        with pytest.raises(links.Broken, match="before it was asked"):
            await said(server.url)
        assert server.heads == []
