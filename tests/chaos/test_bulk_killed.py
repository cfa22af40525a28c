"""Who drives a bulk replay is killed again and again: each letter runs once more."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter

import pytest
import redis

import bus
from bus import replays
from bus.bulk import record
from tests.support import chronicle
from tests.support.bulk import created, dead
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.processes import program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

LETTERS = int(os.environ.get("MESH_LETTERS", "1000"))
_DRIVER = """
import django, os
django.setup()
from bus.bulk import driver, record
record.LEASE_MS = 200
print(os.getpid(), flush=True)
driver.Foreman().run()
"""


class Worker:
    """Runs what comes; no agent of the runtime, which would drive the job as well."""

    def __init__(self, topic: str) -> None:
        self.executions: Counter[tuple[str, int]] = Counter()
        self._desk = Desk(topic)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Worker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stop.is_set():
            items = self._desk.claim(100)
            if not items:
                time.sleep(0.01)
                continue
            self.executions.update((item.id, item.record.epoch) for item in items)
            self._desk.complete(*items)


def test_each_letter_is_replayed_once_however_often_its_driver_is_killed(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """1,000 letters at 250/s; killed with -9 at random points, at least five times."""
    dice = random.Random(chronicle.seed())
    bus.set_limits(test_topic, results_keep=100_000)
    ids = dead(test_topic, LETTERS)
    job = created(test_topic, rate=250)
    kills = 0
    with Worker(test_topic) as worker:
        while (now := replays.get(job.id)).state == "running":
            with program(_DRIVER) as driver:
                assert driver.stdout is not None
                driver.stdout.readline()
                # From the ninth on they may work until all is done.
                for_s = dice.uniform(0.2, 0.7) if kills < 8 else 60
                until = time.monotonic() + for_s
                wait_until(
                    lambda end=until: (
                        time.monotonic() > end or replays.get(job.id).state != "running"
                    ),
                    70,
                )
                os.kill(driver.pid, signal.SIGKILL)
                kills += 1

    told = now.counts
    chronicle.record(
        "S7 bulk replay",
        tasks=LETTERS,
        executions=worker.executions.total(),
        lost=LETTERS - bus.stats(test_topic)["done"],
        double=worker.executions.total() - LETTERS,
    )
    assert kills >= 5
    assert worker.executions == Counter((task_id, 1) for task_id in ids)
    assert (told.replayed, told.done, told.skipped) == (LETTERS, LETTERS, 0)
    assert bus.stats(test_topic)["replayed"] == LETTERS
    assert wounds(redis_client, test_topic) == []


def test_a_stopped_driver_that_wakes_up_replays_nothing_more(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Halted in its work beyond its lease: another drives, and the canary holds."""
    dead(test_topic, 100)
    with program(_DRIVER) as first, program(_DRIVER) as second:
        for each in (first, second):
            assert each.stdout is not None
            each.stdout.readline()
        job = created(test_topic, rate=50)
        for stopped in (first, second, first, second):
            os.kill(stopped.pid, signal.SIGSTOP)
            so_far = bus.stats(test_topic)["replayed"]
            wait_until(
                lambda least=so_far: bus.stats(test_topic)["replayed"] > least, 20
            )
            os.kill(stopped.pid, signal.SIGCONT)
        wait_until(lambda: bus.stats(test_topic)["replayed"] == 100, 20)

    assert replays.get(job.id).total == 100
    assert bus.stats(test_topic)["waiting"] == 100
    assert record.ids(only_open=True) == [job.id]
    assert wounds(redis_client, test_topic) == []
