"""Somebody tears a busy topic's data apart: it is put right, or told; none is lost."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import errors, tasks
from tests.support import agents, chronicle
from tests.support.keyspace import wounds
from tests.support.saboteur import Saboteur
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

WOUNDS = int(os.environ.get("MESH_WOUNDS", "51"))  # one of each kind
TASKS = 1_000
EVERY_S = 0.3
AGENTS = 3
KINDS = ["good"] * 85 + ["flaky"] * 10 + ["fatal"] * 5
# How long a sender repeats itself while a key is not what it should be.
PATIENCE_S = 30.0


def send(
    topic: str, over: threading.Event, ids: dict[str, str], stuck: list[str]
) -> None:
    """Send all along, a fifth of it for later; what is accepted is noted, and what
    was refused for too long."""
    dice = random.Random(chronicle.seed())
    while len(ids) < TASKS or not over.is_set():
        kind, task_id = dice.choice(KINDS), tasks.new_id()
        payload = {"kind": kind, "ms": dice.randint(0, 60), "n": len(ids)}
        delay_s = dice.choice([None, None, None, None, dice.uniform(0.1, 3)])
        until = time.monotonic() + PATIENCE_S
        while task_id not in ids:
            try:
                bus.enqueue_task(topic, payload, task_id=task_id, delay_s=delay_s)
                ids[task_id] = kind
            except errors.BusError as exc:
                if time.monotonic() > until:
                    stuck.append(str(exc))
                    return
                time.sleep(0.05)
        time.sleep(WOUNDS * EVERY_S / TASKS)


def quiet(topic: str) -> bool:
    with contextlib.suppress(errors.BusError):
        return bool(bus.stats(topic)["backlog"] == 0)
    return False


def _repaired(topic: str) -> int:
    with contextlib.suppress(errors.BusError):
        return int(bus.stats(topic)["repaired"])
    return 0


def _open_wounds(client: redis.Redis, topic: str) -> list[str]:
    """All that is to heal. The ledger's drift, where a count was lost with its key, is
    told to a person instead."""
    return [
        wound for wound in wounds(client, topic) if not wound.startswith("the ledger")
    ]


def _settled(look: Callable[[], list[str]], timeout_s: float) -> list[str]:
    """What a look finds once it finds nothing, or after that time."""
    until = time.monotonic() + timeout_s
    while (found := look()) and time.monotonic() < until:
        time.sleep(0.1)
    return found


@pytest.mark.timeout(300)
def test_a_topic_torn_apart_by_hand_heals(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids: dict[str, str] = {}
    stuck: list[str] = []
    repaired = 0  # at most, while the counters came and went
    over = threading.Event()
    saboteur = Saboteur(redis_client, test_topic, chronicle.seed())
    producer = threading.Thread(target=send, args=(test_topic, over, ids, stuck))
    bus.create_consumer_group(test_topic, "default")
    with contextlib.ExitStack() as stack:
        crew = [
            stack.enter_context(
                agents.process(
                    test_topic,
                    "tests.support.storm_work:run",
                    *("--agent-id", f"crew-{number}", "--concurrency", "10"),
                )
            )
            for number in range(AGENTS)
        ]
        wait_until(lambda: len(bus.list_agents()) == AGENTS, 30, "all agents are there")
        producer.start()
        for _ in range(WOUNDS):
            time.sleep(EVERY_S)
            repaired = max(repaired, _repaired(test_topic))
            saboteur.strike()
        over.set()
        producer.join()
        assert stuck == []
        wait_until(lambda: quiet(test_topic), 60, "all has ended")
        wounded = _settled(lambda: _open_wounds(redis_client, test_topic), 60)
        assert wounded == []

        last = bus.enqueue_many(test_topic, [{"kind": "good", "ms": 1, "n": 0}] * 60)
        wait_until(lambda: quiet(test_topic), 20, "the agents are still at work")
        assert [agent.poll() for agent in crew] == [None] * AGENTS
        states = {row["state"] for row in bus.list_agents()}

    stats = bus.stats(test_topic)
    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    results = Counter(fields["id"] for _, fields in rows)
    dead = {letter.id: letter for letter in bus.list_dead(test_topic, 100_000)}
    gone = [i for i in [*ids, *last] if i not in results and i not in dead]
    double = [i for i in ids if results[i] > 1 or (results[i] and i in dead)]
    chronicle.record(
        "S10 sabotage",
        faults=saboteur.wounds,
        tasks=len(ids) + len(last),
        lost=len(gone),
        double=len(double),
        repaired=repaired,
    )
    assert (gone, double) == ([], [])
    assert stats["unmended"] == 0
    assert states <= {"live", "idle"}
    assert repaired > 0
    # Whose payload was destroyed is told: a letter says so, and nobody waits for ever.
    told = {i for i, letter in dead.items() if letter.error["reason"] == "lost"}
    assert {i for i in dead if ids.get(i, "fatal") != "fatal"} <= told
