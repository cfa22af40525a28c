"""Lines that are open: which are left behind, and what is no reply on one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import hiredis
import pytest
import redis

import bus
from bus import connection, lines, patience, volley
from tests.support.scripted import ScriptedServer


@contextlib.contextmanager
def many_open(pool: lines.Lines, count: int) -> Iterator[None]:
    """So many lines, in use at the same time."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(pool.line())
        yield


@pytest.mark.parametrize(
    "call",
    [lambda topic: bus.enqueue_task(topic, 1), lambda _: volley.ask([("PING",)])],
    ids=["enqueue", "read"],
)
def test_lines_that_were_cut_while_idle_cost_one_try_together(
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[str], Any],
) -> None:
    """A server that restarted cuts all of them: one by one they took so long that it
    seemed to be away."""
    pauses: list[Exception] = []
    pause = patience.Pause.after

    def noted(self: patience.Pause, exc: Exception) -> float:
        pauses.append(exc)
        return pause(self, exc)

    bus.enqueue_task(test_topic, 0)
    with many_open(connection.writer(), 30):
        pass
    redis_client.execute_command("CLIENT", "KILL", "TYPE", "normal")
    monkeypatch.setattr(patience.Pause, "after", noted)

    call(test_topic)

    assert len(pauses) <= 1


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (redis.ConnectionError("Connection closed by server."), 0),
        (ConnectionResetError(104, "reset"), 0),
        (TimeoutError(110, "the kernel gave the peer up"), 0),
        (redis.exceptions.ReadOnlyError("READONLY a replica now"), 0),
        (TimeoutError("timed out"), 2),
        (ValueError("of whoever had the line"), 2),
        (redis.ResponseError("ERR no"), 3),
    ],
    ids=ascii,
)
def test_lines_are_left_behind_for_what_they_share_only(
    redis_client: redis.Redis, error: Exception, left: int
) -> None:
    """A server that was slow once is as slow to connect to."""
    connection.reset()
    pool = connection.writer()
    with many_open(pool, 3):
        pass

    with pytest.raises(type(error)), pool.line():
        raise error

    assert len([each for each in pool._places if each is not None]) == left
    assert len(pool._places) == pool.size


def test_what_a_server_says_unasked_is_no_reply() -> None:
    """RESP3 lets it: of a node that moves, say."""
    ours, theirs = socket.socketpair()
    client: Any = SimpleNamespace(
        connection=SimpleNamespace(connect=lambda: None, _sock=ours)
    )
    line = lines.Line(client)

    with ours, theirs:
        theirs.sendall(b">3\r\n$6\r\nMOVING\r\n:1\r\n:15\r\n+first\r\n>1\r\n+x\r\n")
        first = line.call(("PING",))
        theirs.sendall(b"+second\r\n")

        assert (first, line.call(("PING",))) == ("first", "second")


class Announcing(ScriptedServer):
    """Takes every wish, and remembers those to be told of its maintenance."""

    def __init__(self) -> None:
        super().__init__(b"+OK\r\n")
        self.wishes: list[list[bytes]] = []

    @property
    def url(self) -> str:
        return super().url.replace("protocol=2", "protocol=3")

    def reply(self, command: list[bytes]) -> bytes:
        if command[0] == b"HELLO":
            return b"%1\r\n+proto\r\n:3\r\n"
        if command[1:2] == [b"MAINT_NOTIFICATIONS"]:
            self.wishes.append(command)
        return super().reply(command)


@pytest.mark.parametrize(
    "ping",
    [
        lambda: connection.writer().execute_command("PING"),
        lambda: connection.get_redis().ping(),
        lambda: asyncio.run(apinged()),
    ],
    ids=["line", "client", "asyncio"],
)
def test_no_server_is_asked_to_tell_of_its_maintenance(
    monkeypatch: pytest.MonkeyPatch, ping: Callable[[], Any]
) -> None:
    with Announcing() as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        ping()
        connection.reset()

    assert server.connections == 1
    assert server.wishes == []


async def apinged() -> Any:
    client: Any = connection.get_redis_async()
    return await client.ping()


@pytest.mark.parametrize("kept", [("EVALSHA", "sha", 2, "{ä}:a", "", 1.5), ("PING",)])
@pytest.mark.parametrize("more", [(), ("", b"\r\n*3\r\n", "ü", -1)])
def test_a_command_in_two_parts_is_the_command(
    kept: tuple[Any, ...], more: tuple[Any, ...]
) -> None:
    whole = hiredis.pack_command((*kept, *more))

    assert lines.opening(kept, len(more)) + lines.rest(more) == whole
