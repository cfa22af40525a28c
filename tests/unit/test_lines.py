"""Lines that are open: which of them are left behind together."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

import bus
from bus import connection, lines, patience, volley


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
