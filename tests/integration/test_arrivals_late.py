"""What a blocking read brought is started at once, or looked at again before it is."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import connection, deliveries, judge
from bus.deliveries import Seat
from tests.support import agents
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

GROUP = "default"
TOUCH = "tests.support.work:told"
ME, OTHER = "me#00000001", "other#00000001"
LATE_S = 1.2  # an agent looks again at what is older than half a second


@contextmanager
def stopped(agent: subprocess.Popen[bytes]) -> Iterator[None]:
    """The process stands still, with what the server sends it in its sockets."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.pid, signal.SIGCONT)


def waits_in_a_read(client: redis.Redis) -> bool:
    """Whether an agent blocks in the server."""
    return any(row["flags"] == "b" for row in client.client_list())


def delivered_to_its_socket(client: redis.Redis, topic: str, path: Path) -> str:
    """The id of a task that is in the hand of an agent which stands still."""
    task_id = bus.enqueue_task(topic, str(path))
    wait_until(lambda: bus.stats(topic)["running"] == 1, 5, "it is delivered")
    time.sleep(LATE_S)  # what is tested: it lies there for a while
    assert not path.exists()
    return task_id


def has_done(topic: str, count: int) -> bool:
    """Whether so many tasks have ended."""
    return bool(bus.stats(topic)["done"] == count)


@contextmanager
def idle_agent(
    client: redis.Redis, topic: str, warm: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """An agent that blocks in the server and has been brought tasks by such reads."""
    with agents.process(topic, TOUCH) as agent:
        for count in (1, 2):
            bus.enqueue_task(topic, str(warm))
            wait_until(partial(has_done, topic, count), 20)
            wait_until(lambda: waits_in_a_read(client), 20, "the agent is idle")
        yield agent


def test_an_agent_that_stood_still_starts_nothing_in_a_topic_paused_meanwhile(
    test_topic: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "started"
    with idle_agent(redis_client, test_topic, tmp_path / "warm") as agent:
        with stopped(agent):
            task_id = delivered_to_its_socket(redis_client, test_topic, path)
            bus.pause(test_topic)
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "waiting", 10)
        assert not path.exists(), "it was started in a paused topic"
        bus.resume(test_topic)
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "done", 10)

    assert wounds(redis_client, test_topic) == []


def test_an_agent_that_stood_still_does_not_run_what_is_anothers_by_now(
    test_topic: str, redis_client: redis.Redis, tmp_path: Path
) -> None:
    path = tmp_path / "started"
    with idle_agent(redis_client, test_topic, tmp_path / "warm") as agent:
        with stopped(agent):
            task_id = delivered_to_its_socket(redis_client, test_topic, path)
            [row] = redis_client.xpending_range(
                bus.task_stream(test_topic), GROUP, "-", "+", 1
            )
            assert judge.take(test_topic, GROUP, row["consumer"], 0) == 1
            [(entry_id, _)] = bus.read_group(test_topic, GROUP, OTHER)
        # It waits again, so it has seen to what it was sent.
        wait_until(lambda: waits_in_a_read(redis_client), 10)
        assert not path.exists(), "it ran beside the one that has it"
        assert bus.ack(test_topic, GROUP, entry_id) == 1

    stats = bus.stats(test_topic)
    assert (bus.get_task(task_id, test_topic).state, stats["done"]) == ("done", 3)
    assert wounds(redis_client, test_topic) == []


def test_a_claim_leaves_alone_what_its_consumer_holds_no_more(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_many(test_topic, range(3))
    sids = [sid for sid, _ in bus.read_group(test_topic, GROUP, ME, count=3)]
    assert judge.take(test_topic, GROUP, ME, 0) == 3
    [(first, _)] = bus.read_group(test_topic, GROUP, OTHER)
    bus.pause(test_topic)  # what is in hand would be handed over by the claim

    async def claimed() -> Any:
        client = connection.adedicated()
        seat = Seat(client, test_topic, GROUP, ME)
        try:
            return await deliveries.claim(seat, 3, False, sids)
        finally:
            await client.aclose()

    assert asyncio.run(claimed()).deliveries == []
    rows: Any = redis_client.xpending_range(
        bus.task_stream(test_topic), GROUP, "-", "+", 5
    )
    held = {row["message_id"]: row["consumer"] for row in rows}
    assert held == dict.fromkeys(sids, "~") | {first: OTHER}
