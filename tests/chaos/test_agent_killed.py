"""An agent killed with -9 in the middle of its work costs no task and no second one."""

from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest
import redis

import bus
from bus import keys
from tests.support import agents
from tests.support.waiting import wait_until

HAND_OVER_S = 5.0
TASKS = 1_000
SLOTS = ("--concurrency", "4")


def _server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()  # type: ignore[misc]
    return int(seconds * 1000 + micros // 1000)


def _registered(agent_id: str) -> bool:
    return any(row["agent_id"] == agent_id for row in bus.list_agents())


def _holds(client: redis.Redis, topic: str, agent_id: str) -> bool:
    """Whether tasks are pending for a consumer of the agent."""
    summary: Any = client.xpending(bus.task_stream(topic), "default")
    return any(keys.agent_of(row["name"]) == agent_id for row in summary["consumers"])


def _kill(child: subprocess.Popen[bytes]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)


def _lost_at(client: redis.Redis, topic: str) -> list[int]:
    """When tasks were handed over from a dead owner, server ms."""
    entries: Any = client.xrange(keys.named("events", topic))
    return [
        int(entry_id.partition("-")[0])
        for entry_id, fields in entries
        if fields["event"] == "lost"
    ]


def _results(client: redis.Redis, topic: str) -> list[str]:
    """The task id of every result entry."""
    entries: Any = client.xrange(bus.result_stream(topic))
    return [fields["id"] for _, fields in entries]


def _half_done(topic: str) -> None:
    wait_until(lambda: bus.stats(topic)["done"] > 150, 30, "the agents are at work")


def _all_done(topic: str, count: int = TASKS, timeout_s: float = 40.0) -> None:
    wait_until(
        lambda: bus.stats(topic)["done"] == count, timeout_s, "all tasks are done"
    )


def test_an_agent_started_after_the_kill_takes_over(
    test_topic: str, redis_client: redis.Redis
) -> None:
    handler = "tests.support.work:block"
    ids = bus.enqueue_many(test_topic, range(TASKS))
    with agents.process(test_topic, handler, *SLOTS, "--agent-id", "victim") as victim:
        _half_done(test_topic)
        _kill(victim)

    with agents.process(test_topic, handler, *SLOTS, "--agent-id", "second"):
        wait_until(lambda: _registered("second"), 20, "the second agent is there")
        came_ms = _server_ms(redis_client)
        _all_done(test_topic)

    took_s = [(ms - came_ms) / 1000 for ms in _lost_at(redis_client, test_topic)]
    stats = bus.stats(test_topic)
    assert took_s, "the victim held nothing: the kill came too late"
    assert max(took_s) < HAND_OVER_S
    assert sorted(_results(redis_client, test_topic)) == sorted(ids)
    assert (stats["dead"], stats["ledger"]["drift"]) == (0, 0)


@pytest.mark.chaos
def test_agents_killed_again_and_again_bury_no_innocent_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    handler = "tests.support.work:nap"
    ids: list[str] = []

    with agents.process(test_topic, handler, *SLOTS, "--agent-id", "steady"):
        for number in range(3):
            name = f"victim-{number}"
            options = (*SLOTS, "--agent-id", name)
            with agents.process(test_topic, handler, *options) as victim:
                wait_until(lambda name=name: _registered(name), 20, f"{name} is there")
                ids += bus.enqueue_many(test_topic, range(500))
                wait_until(
                    lambda name=name: _holds(redis_client, test_topic, name),
                    20,
                    f"{name} holds tasks",
                )
                _kill(victim)
        _all_done(test_topic, len(ids), 60)

    stats = bus.stats(test_topic)
    assert stats["lost"] >= 3
    assert sorted(_results(redis_client, test_topic)) == sorted(ids)
    assert (stats["dead"], stats["ledger"]["drift"]) == (0, 0)
