"""No client's clock matters: agents and senders an hour off, or jumping."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import keys, messages
from tests.support import agents, chronicle
from tests.support.keyspace import wounds
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

SUITE = "S14 wrong clocks"
CLOCKS = ("3600", "-3600", "86400", "jumps")
WRONG = Path(__file__).resolve().parent.parent / "support" / "wrong_clock"
TASKS = 100  # of each sender
DELAY_S = 2.0
LATE_MOST_S = 1.5  # behind its due time; a janitor looks every second

SENDER = """
import sys, bus
topic = sys.argv[1]
print(*bus.enqueue_many(topic, range(50)))
print(*bus.enqueue_many(topic, range(50), delay_s=2))
"""


def _env(clock: str) -> dict[str, str]:
    path = f"{WRONG}{os.pathsep}{ROOT}"
    return {"PYTHONPATH": path, "MESH_TEST_CLOCK": clock}


def _server_ms(client: redis.Redis) -> int:
    seconds, micros = client.time()  # type: ignore[misc]
    return int(seconds * 1000 + micros // 1000)


def _sent(topic: str, clock: str) -> tuple[list[str], list[str]]:
    """Ids of what a sender with this clock sent: to run at once, and later."""
    said = subprocess.run(
        [sys.executable, "-c", SENDER, topic],
        env={**os.environ, **_env(clock)},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.splitlines()
    return said[0].split(), said[1].split()


@contextmanager
def _agents(topic: str) -> Iterator[None]:
    """One agent per wrong clock, all there before the work begins."""
    handler = "tests.chaos.test_clocks:second_time_for_some"
    with ExitStack() as stack:
        for number, clock in enumerate(CLOCKS):
            options = ("--concurrency", "4", "--agent-id", f"clock-{number}")
            agent = agents.process(topic, handler, *options, env=_env(clock))
            stack.enter_context(agent)
        wait_until(lambda: len(_known()) == len(CLOCKS), 30, "all agents are there")
        yield


def _known() -> dict[str, dict[str, Any]]:
    rows = (row for row in bus.list_agents() if row.get("last_read_at"))
    return {row["agent_id"]: row for row in rows}


async def second_time_for_some(payload: int, task: bus.Task) -> int:
    """Every fifth is tried again after a second."""
    if payload % 5 == 0 and task.attempt == 1:
        raise bus.Retry(1.0, "not yet")
    return payload


def test_the_wrong_clock_is_wrong() -> None:
    """Or all that follows would be proved of right ones."""
    said = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env={**os.environ, **_env("-3600")},
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout

    assert 3_590 < time.time() - float(said) < 3_660


@pytest.mark.timeout(120)
def test_g11_no_decision_uses_a_clients_clock(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """No decision uses a client's clock: agents and senders whose clocks are off by
    hours, or jump, change nothing. Nobody is robbed, no time shifts."""
    at_once: list[str] = []
    later: list[str] = []
    began_ms = _server_ms(redis_client)
    with _agents(test_topic):
        for clock in CLOCKS:
            now, then = _sent(test_topic, clock)
            at_once, later = at_once + now, later + then
        due = redis_client.zrange(
            keys.named("delayed", test_topic), 0, -1, withscores=True
        )
        sent_ms = _server_ms(redis_client)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60, "all have ended")
        # Longer than an agent lives without a beat that counts.
        ended_ms = _server_ms(redis_client)
        wait_until(
            lambda: _server_ms(redis_client) > ended_ms + 4_000, 6, "beats go on"
        )
        known, over_ms = _known(), _server_ms(redis_client)

    rows = {row["id"]: row for _, row in bus.tail_results(test_topic, 10_000)}
    stats = bus.stats(test_topic)
    assert set(rows) == {*at_once, *later}
    assert len(known) == len(CLOCKS)
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)
    assert wounds(redis_client, test_topic) == []
    for _, due_ms in due:
        assert began_ms < due_ms <= sent_ms + DELAY_S * 1000
    for row in rows.values():
        times = [messages.iso_ms(row[f"{what}_at"]) for what in _STEPS]
        assert None not in times
        assert [began_ms, *times, over_ms] == sorted([began_ms, *times, over_ms])  # type: ignore[type-var]
    for task_id in later:
        waited_ms = _waited_ms(rows[task_id])
        again = 1_000 if rows[task_id]["attempt"] == 2 else 0
        assert 0 <= waited_ms - DELAY_S * 1000 - again < 2_000 * LATE_MOST_S, waited_ms
    for row in known.values():
        for what in ("started_at", "last_read_at"):
            told_ms = messages.iso_ms(row[what])
            assert told_ms is not None and began_ms - 100 < told_ms <= over_ms, row
    chronicle.record(
        SUITE,
        faults={"clock wrong": 2 * len(CLOCKS)},
        tasks=len(rows),
        executions=stats["done"] + stats["retried"],
        hand_overs=stats["lost"],
        lost=0,
        double=0,
    )


_STEPS = ("enqueued", "started", "finished")


def _waited_ms(row: dict[str, Any]) -> int:
    began = messages.iso_ms(row["started_at"])
    came = messages.iso_ms(row["enqueued_at"])
    assert began is not None and came is not None
    return began - came
