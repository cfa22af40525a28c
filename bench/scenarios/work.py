"""Handlers that do something: they wait, they compute, their payloads are large."""

from __future__ import annotations

import os
from typing import Any, Final

import bus
from bench import handlers, payloads, raw
from bench.report import Floor, Pair, Row
from bench.stage import Stage

from . import drains
from .sizes import Sizes

CONCURRENCY: Final = 100
LARGE_BYTES: Final = 100_000
_COMPUTING: Final = 4  # a task of a millisecond takes longer than one of nothing
_LARGE: Final = 10
_SENT_TOGETHER: Final = 50  # of these 5 MB are on their way


def rows() -> list[Row]:
    near = Floor(0.8, at_least=True)
    return [
        Row("sleeps", "10 ms sleeps", "/s", near),
        Row("threads", "1 ms CPU, threads", "/s", near),
        Row("processes", "1 ms CPU, processes", "/s"),
        Row("large", "100 KB payloads", "/s", Floor(0.5, at_least=True)),
    ]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """Beside what the clock, one CPU, all CPUs, a bare consumer make possible."""
    cpus = len(os.sched_getaffinity(0))
    each_s = 1 / handlers.WORK_S
    computing = sizes.tasks // _COMPUTING
    return {
        "sleeps": Pair(
            _drained(stage, sizes.tasks, "sleeps", CONCURRENCY),
            CONCURRENCY / handlers.SLEEP_S,
        ),
        # Python runs one thread at a time.
        "threads": Pair(_drained(stage, computing, "computes", cpus), each_s),
        "processes": Pair(
            _drained(stage, computing, "computes_aside", cpus), cpus * each_s
        ),
        "large": _large(stage, sizes.tasks // _LARGE),
    }


def _drained(stage: Stage, count: int, handler: str, concurrency: int) -> float:
    at_once = ("--concurrency", str(concurrency))
    with stage.topic(count) as topic:
        drains.fill(topic, count)
        return drains.drained_per_s(stage, topic, count, *at_once, handler=handler)


def _large(stage: Stage, count: int) -> Pair:
    with stage.topic(count) as topic:
        bus.enqueue_many(topic, map(_heavy, range(count)))
        ours = drains.drained_per_s(stage, topic, count)
    with stage.streams() as pair:
        for at in range(0, count, _SENT_TOGETHER):
            numbers = range(at, min(at + _SENT_TOGETHER, count))
            items = [(payloads.bare_id(n), heavy_text(n)) for n in numbers]
            raw.send_piped_s(stage.client, pair.tasks, items)
        with stage.consumer(pair) as consumer:
            consumer.until(lambda: int(stage.client.xlen(pair.results)), count)
        bare = drains.first_per_s(stage.client, pair.results, count)
    return Pair(ours, bare)


def _heavy(number: int) -> dict[str, Any]:
    return {"number": f"{number:010d}", "text": "x" * (LARGE_BYTES - 33)}


def heavy_text(number: int) -> str:
    """The payload as it travels."""
    return bus.messages.encode(_heavy(number)).decode()
