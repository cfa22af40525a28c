"""The server is killed, stopped or away for long: nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections import Counter
from typing import Any

import pytest
from pytest_django import Settings

import bus
from bus import tasks
from bus.server import EmbeddedServer
from tests.support import agents
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TOPIC = "lost"
BACK_S = 5.0


def _kill(server: EmbeddedServer) -> None:
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive(), 5, "the server is dead")


async def nap(payload: Any, task: Any) -> Any:
    await asyncio.sleep(0.01)
    return payload


class Producers:
    """Threads that enqueue one by one, and remember which calls returned."""

    def __init__(self, count: int, pause_s: float = 0.002) -> None:
        self.accepted: list[str] = []
        self.unsure: list[str] = []
        self._pause_s = pause_s
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]

    def __enter__(self) -> Producers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self) -> None:
        while not self._over.wait(self._pause_s):
            task_id = tasks.new_id()
            try:
                bus.enqueue_task(TOPIC, "x", task_id=task_id)
            except bus.BusUnavailable:
                self.unsure.append(task_id)
            else:
                self.accepted.append(task_id)


def _stats() -> dict[str, Any]:
    """Stats, or an empty dict while the server is away."""
    with contextlib.suppress(bus.BusUnavailable):
        return bus.stats(TOPIC)
    return {}


def _result_ids() -> list[str]:
    rows: Any = bus.get_redis().xrange(bus.result_stream(TOPIC))
    return [fields["id"] for _, fields in rows]


def _nobody_is_deaf(*names: str) -> None:
    """Each agent takes some of a load that is too much for the others."""
    before = bus.get_redis().xrevrange(bus.result_stream(TOPIC), count=1)[0][0]

    def served() -> set[str]:
        bus.enqueue_many(TOPIC, range(100))
        rows = bus.get_redis().xrange(bus.result_stream(TOPIC), f"({before}")
        return {bus.get_task(f["id"], TOPIC).agent or "" for _, f in rows[-200:]}

    seen: set[str] = set()
    wait_until(lambda: seen.update(served()) or seen >= set(names), 15, "all serve")


@pytest.mark.parametrize("outage_s", [0.0, 6.0], ids=["restarted at once", "after 6 s"])
def test_a_server_killed_under_load_loses_nothing_it_acknowledged(
    own_server: EmbeddedServer, outage_s: float
) -> None:
    handler, slots = "tests.support.work:nap", ("--concurrency", "5")
    with (
        agents.process(TOPIC, handler, *slots, "--agent-id", "one"),
        agents.process(TOPIC, handler, *slots, "--agent-id", "two"),
    ):
        wait_until(lambda: len(bus.list_agents()) == 2, 20, "both agents are there")
        with Producers(2) as producers:
            wait_until(lambda: _stats().get("done", 0) > 100, 20, "they are at work")
            _kill(own_server)
            time.sleep(outage_s)  # the outage itself
            own_server.start()
            restarted = time.monotonic()
            before = _stats()["done"]
            wait_until(lambda: _stats().get("done", 0) > before + 20, 20, "they go on")
            back_s = time.monotonic() - restarted
        wait_until(lambda: bus.stats(TOPIC)["backlog"] == 0, 30, "all have ended")
        ids, stats = _result_ids(), bus.stats(TOPIC)
        _nobody_is_deaf("one", "two")

    assert back_s < BACK_S
    assert len(ids) == len(set(ids)) == stats["done"]
    assert set(producers.accepted) <= set(ids)
    assert set(ids) <= {*producers.accepted, *producers.unsure}
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


def test_an_outage_longer_than_a_lease_robs_nobody(
    own_server: EmbeddedServer, settings: Settings
) -> None:
    settings.MESH_LEASE_S = 5.0
    began: Counter[str] = Counter()

    async def long(payload: Any, task: Any) -> Any:
        began[task.id] += 1
        await asyncio.sleep(11)
        return payload

    ids = bus.enqueue_many(TOPIC, range(10))
    with (
        agents.running(TOPIC, long, concurrency=5, agent_id="one"),
        agents.running(TOPIC, long, concurrency=5, agent_id="two"),
    ):
        wait_until(lambda: len(began) == 10, 10, "all tasks run")
        _kill(own_server)
        time.sleep(7)  # longer than the lease
        own_server.start()
        wait_until(lambda: _stats().get("done", 0) == 10, 30, "all are done")

    stats = bus.stats(TOPIC)
    assert set(began) == set(ids)
    assert set(began.values()) == {1}
    assert sorted(_result_ids()) == sorted(ids)
    assert (stats["lost"], stats["ledger"]["drift"]) == (0, 0)


def test_a_server_stopped_for_10_s_robs_nobody(own_server: EmbeddedServer) -> None:
    began: Counter[str] = Counter()

    async def mixed(payload: Any, task: Any) -> Any:
        began[task.id] += 1
        await asyncio.sleep(12 if payload == "long" else 0.01)
        return payload

    ids = bus.enqueue_many(TOPIC, ["long"] * 10)
    with (
        agents.running(TOPIC, mixed, concurrency=20, agent_id="one"),
        agents.running(TOPIC, mixed, concurrency=20, agent_id="two"),
    ):
        wait_until(lambda: len(began) == 10, 10, "the long tasks run")
        ids += bus.enqueue_many(TOPIC, range(1_000))
        assert own_server.pid is not None
        os.kill(own_server.pid, signal.SIGSTOP)
        time.sleep(10)  # the outage itself
        os.kill(own_server.pid, signal.SIGCONT)
        wait_until(lambda: _stats().get("done", 0) == len(ids), 30, "all are done")
        results, stats = _result_ids(), bus.stats(TOPIC)
        _nobody_is_deaf("one", "two")

    assert sorted(results) == sorted(ids)
    assert max(began[task_id] for task_id in ids) == 1
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


def test_an_agent_that_starts_before_its_server_serves_as_soon_as_it_is_there(
    own_server: EmbeddedServer,
) -> None:
    task_id = bus.enqueue_task(TOPIC, "early")
    _kill(own_server)

    with agents.running(TOPIC, nap):
        time.sleep(1)  # it finds nobody
        own_server.start()
        began = time.monotonic()
        wait_until(lambda: bus.get_task(task_id, TOPIC).ended, 10, "the task ended")

    assert bus.get_task(task_id, TOPIC).state == "done"
    assert time.monotonic() - began < BACK_S


def test_a_server_killed_while_tasks_wait_for_their_retry_keeps_their_history(
    own_server: EmbeddedServer,
) -> None:
    task_id = bus.enqueue_task(TOPIC, "x", max_attempts=2)

    async def second_time(payload: Any, task: Any) -> Any:
        if task.attempt == 1:
            raise bus.Retry(1.5, "not yet")
        return "now"

    with agents.running(TOPIC, second_time):
        wait_until(
            lambda: bus.get_task(task_id, TOPIC).state == "delayed", 10, "it waits"
        )
        _kill(own_server)
        own_server.start()
        wait_until(lambda: _stats().get("done") == 1, 15, "the task is done")

    task = bus.get_task(task_id, TOPIC)
    assert (task.state, task.result, task.attempt) == ("done", "now", 2)
