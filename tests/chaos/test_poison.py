"""Tasks that kill their agents die alone."""

from __future__ import annotations

import asyncio
import math
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
import redis

import bus
from bus import connection, deliveries, judge, keys
from bus.deliveries import Seat
from bus.runtime import quiet
from tests.support import agents, chronicle, work
from tests.support.nursery import nursery
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

KILLERS = int(os.environ.get("MESH_POISON", "10"))
AGENTS = 8
EXECUTIONS_MOST = 5
STILL = "still"  # to ask whether one waits still for who makes itself empty
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


Asked = Callable[[str, str], int]


@pytest.fixture
def suspects(test_topic: str, redis_client: redis.Redis) -> Iterator[Asked]:
    """`suspects(consumer, about)`: those a claim tells that consumer to run."""
    with closing(asyncio.new_event_loop()) as loop:

        def asked(consumer: str, about: str) -> int:
            async def ask() -> int:
                with_name = connection.adedicated(name=consumer)
                seat = Seat(with_name, test_topic, "default", consumer)
                alone = about == STILL
                more = {} if alone else {"about": about}
                try:
                    want = 0 if alone else 1
                    return (await deliveries.claim(seat, want, alone, **more)).suspects
                finally:
                    await with_name.aclose()

            return loop.run_until_complete(ask())

        _lost_once_and_held(test_topic)
        _lose_again(test_topic)
        yield asked


def test_others_leave_a_suspect_to_who_stands_still_but_for_those_who_are_empty(
    suspects: Asked,
) -> None:
    assert suspects("one", deliveries.PASS_BY) == 0
    assert suspects("one", deliveries.BUSY) == 1
    assert suspects("two", deliveries.BUSY) == 0
    assert suspects("two", deliveries.EMPTY) == 1
    assert suspects("one", STILL) == 0  # it is two's now


def test_who_is_empty_stays_so_beside_a_suspect(
    test_topic: str, suspects: Asked
) -> None:
    """With something new in hand it would have to wait for that, and so on."""
    bus.enqueue_many(test_topic, range(3))
    before = bus.stats(test_topic)["waiting"]

    assert suspects("one", deliveries.EMPTY) == 1
    assert bus.stats(test_topic)["waiting"] == before
    assert suspects("two", deliveries.EMPTY) == 1


def test_who_stands_still_is_left_alone_for_as_long_as_that_takes(
    test_topic: str, redis_client: redis.Redis, suspects: Asked
) -> None:
    where = keys.named("settings", test_topic)
    suspects("one", deliveries.BUSY)
    before = str(redis_client.hget(where, "quiet"))

    wait_until(lambda: suspects("one", STILL) == 1)
    after = str(redis_client.hget(where, "quiet"))
    assert before.split("|")[1] == after.split("|")[1] == "one"
    assert int(before.split("|")[0]) < int(after.split("|")[0])

    [held] = bus.read_group(test_topic, "default", "by-hand")
    assert bus.ack(test_topic, "default", held[0]) == 1
    assert suspects("one", STILL) == 0


async def _long_or_short(log: list[Any], freed: threading.Event, payload: Any) -> None:
    log.append(payload)
    while payload == "long" and not freed.is_set():
        await asyncio.sleep(0.01)


def why(agent_id: str, topic: str) -> str | None:
    """Why the agent takes none of the topic's tasks, as it told itself."""
    return cast("str | None", bus.get_agent(agent_id)["per_topic"][topic]["why"])


def test_an_agent_goes_on_once_another_has_run_the_suspect(test_topic: str) -> None:
    freed, mine, others = threading.Event(), list[Any](), list[Any]()

    async def busy(payload: Any, task: Any) -> None:
        await _long_or_short(mine, freed, payload)

    async def empty(payload: Any, task: Any) -> None:
        await _long_or_short(others, freed, payload)

    task_id = _lost_once_and_held(test_topic)
    with agents.running(test_topic, busy, agent_id="busy") as agent:
        bus.enqueue_task(test_topic, "long")
        wait_until(lambda: mine == ["long"], 10, "a long task runs")
        _lose_again(test_topic)
        stands = agent._lanes[0].intake._quiet
        wait_until(lambda: stands.reserved, 10, "it makes itself empty")
        wait_until(lambda: why("busy", test_topic) == "alone", 10, "it says so")
        with agents.running(test_topic, empty, agent_id="empty"):
            wait_until(lambda: others[:1] == ["suspect"], 10, "another runs it")
            wait_until(lambda: not stands.reserved, 10, "it takes tasks again")
        freed.set()

    assert "suspect" not in mine
    assert bus.get_task(task_id, test_topic).state == "done"


def test_an_agent_of_long_tasks_lets_others_try_and_is_patient_at_last(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiet, "_PATIENCE_S", 0.3)
    freed, log = threading.Event(), list[Any]()

    async def handler(payload: Any, task: Any) -> None:
        await _long_or_short(log, freed, payload)

    _lost_once_and_held(test_topic)
    with agents.running(test_topic, handler) as agent:
        bus.enqueue_task(test_topic, "long")
        wait_until(lambda: log == ["long"], 10, "a long task runs")
        _lose_again(test_topic)
        stands = agent._lanes[0].intake._quiet
        wait_until(lambda: stands._patience_s >= 0.6, 10, "it gave way")
        bus.enqueue_task(test_topic, "short")
        wait_until(lambda: log == ["long", "short"], 10, "it takes tasks meanwhile")
        stands._away_until = math.inf  # what it is empty for it takes all the same
        freed.set()
        wait_until(lambda: bus.stats(test_topic)["done"] == 3, 20, "all are done")

    assert log[-1] == "suspect"


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
