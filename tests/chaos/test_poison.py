"""Tasks that kill their agents die alone."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import bus
from bus import judge
from tests.support import agents, chronicle, work
from tests.support.nursery import nursery
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

KILLERS = int(os.environ.get("MESH_POISON", "10"))
AGENTS = 8
EXECUTIONS_MOST = 5
# Each killer is five deaths, all of them forks: computing, on a machine others use too.
PATIENCE_S = 500 + 2 * KILLERS


async def deadly_and_counted(payload: Any, task: Any) -> Any:
    """Kills its agent where the payload names a file, after a line into that file."""
    if isinstance(payload, dict):
        with open(payload["log"], "a") as log:
            log.write(f"{task.id}\n")
        os._exit(137)
    await asyncio.sleep(0.005)
    return payload


def _lost_once_and_held(topic: str) -> str:
    """A task that lost one agent and is held by another, which will be the second."""
    task_id = bus.enqueue_task(topic, "suspect")
    assert bus.read_group(topic, "default", "first")
    assert judge.take(topic, "default", "first", 0) == 1
    assert bus.read_group(topic, "default", "second")
    return task_id


def _lose_again(topic: str) -> None:
    assert judge.take(topic, "default", "second", 0) == 1


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


def test_what_two_killed_agents_had_in_hand_does_not_take_minutes(
    test_topic: str,
) -> None:
    """All of it is suspect, and still runs one by one, but in a row."""
    count, at_once = 40, Counter[str]()

    async def handler(payload: Any, task: Any) -> None:
        at_once["now"] += 1
        at_once["most"] = max(at_once["most"], at_once["now"])
        await asyncio.sleep(0.001)
        at_once["now"] -= 1

    bus.enqueue_many(test_topic, range(count))
    bus.create_consumer_group(test_topic, "default")
    for name in ("first", "second"):
        assert len(bus.read_group(test_topic, "default", name, count)) == count
        assert judge.take(test_topic, "default", name, 0) == count
    with agents.running(test_topic, handler):
        # One per beat would be half a minute.
        wait_until(lambda: bus.stats(test_topic)["done"] == count, 10, "all are done")

    assert at_once["most"] == 1


async def deadly_or_slow(payload: Any, task: Any) -> Any:
    """Kills its agent where the payload says so, else takes 10 ms."""
    if payload == "kill":
        os._exit(137)
    await asyncio.sleep(0.01)
    return payload


@pytest.mark.chaos
def test_killers_do_not_starve_their_neighbours(
    test_topic: str, redis_url: str
) -> None:
    """Two processes of one command are killed some dozen times; each time again."""
    payloads: list[Any] = list(range(1_000))
    payloads[100::200] = ["kill"] * 5
    bus.enqueue_many(test_topic, payloads)
    handler = "tests.chaos.test_poison:deadly_or_slow"
    argv = ["manage.py", "agent", "--processes", "2"]
    argv += ["--topic", test_topic, "--handler", handler]
    began = time.monotonic()
    mesh = subprocess.Popen(
        [sys.executable, *argv],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        # 16 starts of Python on a loaded machine take longer; forks a tenth of it.
        wait_until(lambda: bus.stats(test_topic)["done"] == 995, 90, "the rest is done")
        took_s = time.monotonic() - began
        wait_until(lambda: bus.stats(test_topic)["dead"] == 5, 60, "killers are dead")
        all_s = time.monotonic() - began
    finally:
        mesh.terminate()
        mesh.wait(15)

    print(f"neighbours {took_s:.1f} s, killers dead after {all_s:.1f} s")


# Fifty deaths; `make nightly` asks for 500 killers among 5,000 others.
@pytest.mark.timeout(PATIENCE_S + 100)
@pytest.mark.chaos
def test_of_many_tasks_exactly_the_killers_die(test_topic: str, tmp_path: Path) -> None:
    log = tmp_path / "executions"
    log.touch()
    payloads: list[Any] = list(range(KILLERS * 11))
    places = range(5, len(payloads), 11)
    for at in places:
        payloads[at] = {"log": str(log)}
    bus.set_limits(test_topic, results_keep=100_000)
    ids = bus.enqueue_many(test_topic, payloads)
    killers = {ids[at] for at in places}

    handler = "tests.chaos.test_poison:deadly_and_counted"
    # The bystander serves another topic: somebody who may judge is always there.
    bystander = agents.running(f"{test_topic}-other", work.echo)
    with bystander, nursery(test_topic, handler, AGENTS):
        wait_until(
            lambda: bus.stats(test_topic)["backlog"] == 0, PATIENCE_S, "all have ended"
        )

    letters = bus.list_dead(test_topic, 10_000)
    executions = Counter(log.read_text().split())
    stats = bus.stats(test_topic)
    chronicle.record(
        "S7 poison",
        tasks=len(ids),
        faults={"agent killed by its task": executions.total()},
        hand_overs=stats["lost"],
        lost=len(ids) - stats["done"] - len(letters),
        double=stats["results"] - stats["done"],
    )
    assert {letter.id for letter in letters} == killers
    assert {letter.error["reason"] for letter in letters} == {"poison"}
    assert stats["done"] == stats["results"] == len(ids) - len(killers)
    assert set(executions) == killers
    assert max(executions.values()) <= EXECUTIONS_MOST
