"""A month that a topic never had, for pages that draw it: days, nights, a bad hour."""

from __future__ import annotations

import math
import random

import bus
from bus import keys

_HOURS = 700
_BAD_AGO = range(52, 58)  # hours in which much failed and all of it took long


def past(topic: str, per_hour: int) -> None:
    """Write the hours of a topic as its scripts do, up to `per_hour` tasks by day."""
    client = bus.get_redis()
    now = int(client.time()[0]) // 3600  # type: ignore[index]
    chance = random.Random(7)
    rows = {}
    for ago in range(2, _HOURS):
        by_day = 0.55 - 0.45 * math.cos((now - ago) % 24 / 24 * 2 * math.pi)
        done = int(per_hour * by_day * chance.uniform(0.8, 1.2))
        bad = ago in _BAD_AGO
        dead, retried = (done // 6, done // 3) if bad else (done // 200, done // 60)
        wait, run = (12, 11) if bad else (5, 7)
        rows[str((now - ago) % 720)] = (
            f"{now - ago} a={done + dead} d={done} t={retried} x={dead}"
            f" w{wait}={done * 3 // 4} w{wait + 3}={done // 4}"
            f" r{run}={done * 3 // 4} r{run + 2}={done // 4}"
        )
    client.hset(keys.named("hours", topic), mapping=rows)
