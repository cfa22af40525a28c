"""Tasks that kill their agents die alone."""

from __future__ import annotations

import asyncio
from typing import Any

import bus
from bus import janitor
from tests.support import agents
from tests.support.waiting import wait_until


def _lost_once_and_held(topic: str) -> str:
    """A task that lost one agent and is held by another, which will be the second."""
    task_id = bus.enqueue_task(topic, "suspect")
    assert bus.read_group(topic, "default", "first")
    assert janitor.take(topic, "default", "first", 0) == 1
    assert bus.read_group(topic, "default", "second")
    return task_id


def _lose_again(topic: str) -> None:
    assert janitor.take(topic, "default", "second", 0) == 1


def _during(log: list[tuple[str, Any]], payload: Any) -> list[tuple[str, Any]]:
    """What was logged between start and end of one task."""
    return log[log.index(("start", payload)) + 1 : log.index(("end", payload))]


def test_nothing_starts_beside_a_suspect_in_an_agent_that_was_idle(
    test_topic: str,
) -> None:
    log: list[tuple[str, Any]] = []

    async def handler(payload: Any, task: Any) -> None:
        log.append(("start", payload))
        await asyncio.sleep(3 if payload == "suspect" else 0.01)
        log.append(("end", payload))

    _lost_once_and_held(test_topic)
    with agents.running(test_topic, handler):
        bus.enqueue_task(test_topic, "warm")
        wait_until(lambda: ("end", "warm") in log, 10, "the agent is at work")
        _lose_again(test_topic)
        wait_until(lambda: ("start", "suspect") in log, 10, "the suspect runs")
        bus.enqueue_many(test_topic, range(5))
        wait_until(lambda: bus.stats(test_topic)["done"] == 7, 20, "all are done")

    assert _during(log, "suspect") == []


def test_a_suspect_waits_until_what_runs_already_has_ended(test_topic: str) -> None:
    log: list[tuple[str, Any]] = []

    async def handler(payload: Any, task: Any) -> None:
        log.append(("start", payload))
        await asyncio.sleep(4 if payload == "long" else 0.01)
        log.append(("end", payload))

    _lost_once_and_held(test_topic)
    with agents.running(test_topic, handler):
        bus.enqueue_task(test_topic, "long")
        wait_until(lambda: ("start", "long") in log, 10, "a long task runs")
        _lose_again(test_topic)
        wait_until(lambda: bus.stats(test_topic)["done"] == 2, 20, "both are done")

    assert _during(log, "long") == []
