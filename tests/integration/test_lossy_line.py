"""A line that loses requests, and replies after the server did what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, deliveries, judge, tasks
from tests.support import agents
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


async def echo(payload: Any, task: Any) -> Any:
    return payload


def _entries(client: redis.Redis, key: str) -> list[str]:
    """The task id of every entry of a stream."""
    rows: Any = client.xrange(key)
    return [fields["id"] for _, fields in rows]


def _insisted(topic: str, task_id: str, payload: Any) -> int:
    """Enqueue under one id until it is accepted, as a careful caller does; errors."""
    for failed in range(500):
        try:
            bus.enqueue_task(topic, payload, task_id=task_id)
        except bus.BusUnavailable:
            continue
        return failed
    raise AssertionError(f"500 tries were not enough for {task_id}")


class LossyLine:
    """Stands before the server; a share of messages is lost with their connection."""

    def __init__(self, url: str, *, requests: float = 0, replies: float = 0) -> None:
        self._server = urlsplit(url)
        self._share = {"requests": requests, "replies": replies}
        self._chance = random.Random(7)
        self.lost = 0
        self._lines: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.url = url.replace(f":{self._server.port}", f":{port}")

    def __enter__(self) -> LossyLine:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        for line in [self._listener, *self._lines]:
            _hang_up(line)

    def _accept(self) -> None:
        address = (self._server.hostname, self._server.port)
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(address)
                except OSError:
                    _hang_up(client)  # the next one may come through
                    continue
                self._lines += [client, server]
                for work in (self._requests, self._answers):
                    threading.Thread(
                        target=work, args=(client, server), daemon=True
                    ).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := client.recv(1 << 16)) and not self._loses("requests"):
                server.sendall(data)
        _hang_up(client)
        _hang_up(server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (data := server.recv(1 << 16)) and not self._loses("replies"):
                client.sendall(data)
        _hang_up(client)
        _hang_up(server)

    def _loses(self, what: str) -> bool:
        lost = self._chance.random() < self._share[what]
        self.lost += lost
        return lost


def _hang_up(line: socket.socket) -> None:
    with contextlib.suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()


@pytest.mark.parametrize("share", [0.2, 0.3])
@pytest.mark.parametrize("what", ["requests", "replies"])
def test_a_caller_who_insists_on_an_id_sends_every_task_once(
    test_topic: str,
    redis_client: redis.Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    what: str,
    share: float,
) -> None:
    settings.MESH_SEND_RETRY_S = 0.0
    ids = [tasks.new_id() for _ in range(100)]

    with LossyLine(redis_url, **{what: share}) as line:
        monkeypatch.setenv("REDIS_URL", line.url)
        failed = sum(_insisted(test_topic, task_id, "x") for task_id in ids)
        connection.reset()
    monkeypatch.setenv("REDIS_URL", redis_url)

    assert failed > 20
    assert line.lost > 20
    assert _entries(redis_client, bus.task_stream(test_topic)) == ids
    assert bus.stats(test_topic)["accepted"] == 100


@pytest.mark.parametrize("what", ["requests", "replies"])
def test_the_bus_itself_repeats_what_was_lost(
    test_topic: str,
    redis_client: redis.Redis,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    with LossyLine(redis_url, **{what: 0.1}) as line:
        monkeypatch.setenv("REDIS_URL", line.url)
        ids = [bus.enqueue_task(test_topic, number) for number in range(50)]
        ids += bus.enqueue_many(test_topic, range(950))
        connection.reset()
    monkeypatch.setenv("REDIS_URL", redis_url)

    assert line.lost > 3
    assert _entries(redis_client, bus.task_stream(test_topic)) == ids
    assert bus.stats(test_topic)["accepted"] == 1_000


async def second_time_for_some(payload: Any, task: Any) -> Any:
    """10 ms; every tenth task succeeds only when it is tried again."""
    await asyncio.sleep(0.01)
    if payload % 10 == 0 and task.attempt == 1:
        raise bus.Retry(0.01, "not yet")
    return payload


@pytest.mark.parametrize("share", [0.1, 0.25])
@pytest.mark.parametrize("what", ["requests", "replies"])
def test_what_is_lost_on_the_way_to_agents_gives_one_result_each(
    test_topic: str,
    redis_client: redis.Redis,
    redis_url: str,
    what: str,
    share: float,
) -> None:
    handler = "tests.integration.test_lossy_line:second_time_for_some"
    ids = bus.enqueue_many(test_topic, range(600))

    with LossyLine(redis_url, **{what: share}) as line:
        env = {"REDIS_URL": line.url}
        with (
            agents.process(test_topic, handler, "--concurrency", "5", env=env),
            agents.process(test_topic, handler, "--concurrency", "5", env=env),
        ):
            wait_until(lambda: bus.stats(test_topic)["done"] == 600, 60, "all are done")

    stats = bus.stats(test_topic)
    assert line.lost > 5
    assert sorted(_entries(redis_client, bus.result_stream(test_topic))) == sorted(ids)
    assert (stats["retried"], stats["dead"], stats["ledger"]["drift"]) == (60, 0, 0)


def _lose_claim_in(patch: pytest.MonkeyPatch, coroutine: str) -> list[Any]:
    """The answer of the next claim that brings tasks there, and only that, is lost."""
    real = deliveries.claim
    lost: list[Any] = []

    async def claim(*args: Any, **kwargs: Any) -> Any:
        claimed = await real(*args, **kwargs)
        task = asyncio.current_task()
        where = "" if task is None else getattr(task.get_coro(), "__qualname__", "")
        if where == coroutine and claimed.deliveries and not lost:
            lost.append(claimed)
            raise bus.OutcomeUnknown("simulated: reply lost")
        return claimed

    patch.setattr(deliveries, "claim", claim)
    return lost


def _held(topic: str, consumer: str, lost: int) -> str:
    """A task in a hand-written agent's hand that lost so many agents before."""
    task_id = bus.enqueue_task(topic, consumer)
    for _ in range(lost):
        assert bus.read_group(topic, "default", consumer, block_ms=0)
        assert judge.take(topic, "default", consumer, 0) == 1
    assert bus.read_group(topic, "default", consumer, block_ms=0)
    return task_id


@pytest.mark.parametrize(
    ("coroutine", "lost_before"),
    [
        pytest.param("Intake._take_over", 0, id="after a beat"),
        pytest.param("Intake._run_suspects", 1, id="alone"),
    ],
)
def test_tasks_whose_claim_was_not_answered_are_taken_up_at_once(
    test_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    coroutine: str,
    lost_before: int,
) -> None:
    settings.MESH_LEASE_S = (
        7.0 * PATIENCE
    )  # after which a task is found even if forgotten
    held = [
        (f"hand-{n}", _held(test_topic, f"hand-{n}", lost_before)) for n in range(9)
    ]
    lost = _lose_claim_in(monkeypatch, coroutine)
    took_s = 0.0

    with agents.running(test_topic, echo):
        bus.wait_result(bus.enqueue_task(test_topic, "warm"), test_topic, 10)
        # By chance the reader may be the one who takes it: another try then.
        while not lost:
            consumer, task_id = held.pop()
            judge.take(test_topic, "default", consumer, 0)
            began = time.monotonic()
            assert bus.wait_result(task_id, test_topic, 25 * PATIENCE).state == "done"
            took_s = time.monotonic() - began

    assert took_s < 5 * PATIENCE
