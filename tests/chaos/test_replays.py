"""Admins replay the same dead letters at once: each comes back exactly once."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

import bus
from bus import errors
from tests.support import agents, chronicle
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

LETTERS = int(os.environ.get("MESH_LETTERS", "200"))
ADMINS = 8


def test_of_eight_admins_exactly_one_replays_each_letter(
    test_topic: str, redis_client: redis.Redis
) -> None:
    executions: Counter[tuple[str, int]] = Counter()

    async def dead_at_first(payload: int, task: bus.Task) -> int:
        executions[task.id, task.epoch] += 1
        if task.epoch == 0:
            raise bus.GiveUp("as asked")
        return payload

    def replay_all(admin: int) -> list[str]:
        """The ids this admin was told to have replayed."""
        order = ids.copy()
        random.Random(chronicle.seed() + admin).shuffle(order)
        mine = []
        for task_id in order:
            try:
                mine.append(bus.replay(task_id, test_topic))
            except (errors.NotDead, errors.DeadLetterNotFound):
                continue
        return mine

    bus.set_limits(test_topic, results_keep=100_000)
    ids = bus.enqueue_many(test_topic, range(LETTERS))
    with agents.running(test_topic, dead_at_first):
        wait_until(lambda: bus.stats(test_topic)["dead"] == LETTERS, 60, "all are dead")
        with ThreadPoolExecutor(ADMINS) as admins:
            told = Counter(
                task_id
                for mine in admins.map(replay_all, range(ADMINS))
                for task_id in mine
            )
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 60, "all are done")

    stats = bus.stats(test_topic)
    chronicle.record(
        "S7 replays",
        tasks=LETTERS,
        executions=executions.total(),
        lost=LETTERS - stats["done"],
        double=stats["results"] - stats["done"],
    )
    assert told == Counter(ids)
    assert executions == Counter([(i, epoch) for i in ids for epoch in (0, 1)])
    assert (stats["replayed"], stats["done"], stats["dead"]) == (LETTERS, LETTERS, 0)
    assert wounds(redis_client, test_topic) == []
