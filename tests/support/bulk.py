"""Bulk replays in tests: dead letters to begin with, and a foreman that tests drive."""

from __future__ import annotations

import time
from typing import Any

import bus
from bus import replays
from bus.bulk.driver import Foreman
from bus.replays import Job
from tests.support.desk import Desk


def dead(topic: str, count: int, message: str = "no", start: int = 0) -> list[str]:
    """So many dead letters with payloads 0, 1, 2…; their task ids, the oldest first."""
    desk = Desk(topic)
    ids = bus.enqueue_many(topic, range(start, start + count))
    while items := desk.claim(100):
        desk.fail_all(
            *(desk.failure(item, final=True, message=message) for item in items)
        )
    return ids


def created(topic: str, **pace: Any) -> Job:
    """A bulk replay of all letters of a topic."""
    chosen = replays.select(topics=[topic])
    return replays.create(chosen, replays.paced(**pace), by="alice")


def driven(foreman: Foreman, job: Job, *states: str, timeout_s: float = 20) -> Job:
    """Drive until it is in one of these states (done, if none is named)."""
    wanted, deadline = states or ("done",), time.monotonic() + timeout_s
    while (now := replays.get(job.id)).state not in wanted:
        if time.monotonic() > deadline:
            raise AssertionError(f"still {now}")
        time.sleep(min(foreman.round(), 0.02))
    return now
