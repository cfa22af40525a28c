"""Which figures there are, each with its floor; how ours alternates with raw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import bus

from . import mesh, payloads, raw
from .report import Floor, Pair, Row, percentile
from .stage import Stage

_SLICES: Final = 10  # turns within one run: a busy neighbour meets both sides alike
_WARM: Final = 100  # untimed first tasks: connections, scripts, keys
_TRIPS_PER_TASK: Final = 10  # 2,000 round trips with 20,000 tasks
_MS: Final = 1000

Half = Callable[[Sequence[int]], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """One thing to measure: its rows, with a function that measures them all once."""

    name: str
    rows: Callable[[], list[Row]]
    run: Callable[[Stage, int], dict[str, Pair]]


def _payloads(numbers: Sequence[int]) -> list[Any]:
    return [payloads.payload(number) for number in numbers]


def _turns(count: int) -> Iterator[range]:
    """The task numbers of each turn."""
    step = -(-count // _SLICES)
    for at in range(0, count, step):
        yield range(at, min(at + step, count))


def _rates(count: int, ours: Half, bare: Half) -> Pair:
    """Tasks per second of both, taking turns."""
    ours_s = bare_s = 0.0
    ours(range(_WARM))
    bare(range(_WARM))
    for numbers in _turns(count):
        ours_s += ours(numbers)
        bare_s += bare(numbers)
    return Pair(count / ours_s, count / bare_s)


def _enqueue(stage: Stage, count: int) -> dict[str, Pair]:
    with stage.topic(count) as topic, stage.streams() as pair:
        rates = _rates(
            count,
            lambda turn: mesh.send_singly_s(topic, _payloads(turn)),
            lambda turn: raw.send_singly_s(stage.client, pair.tasks, raw.items(turn)),
        )
    return {"enqueue": rates}


def _enqueue_many(stage: Stage, count: int) -> dict[str, Pair]:
    with stage.topic(count) as topic, stage.streams() as pair:
        rates = _rates(
            count,
            lambda turn: mesh.send_many_s(topic, _payloads(turn)),
            lambda turn: raw.send_piped_s(stage.client, pair.tasks, raw.items(turn)),
        )
    return {"enqueue_many": rates}


def _drain(stage: Stage, count: int) -> dict[str, Pair]:
    ours = _drained_per_s(stage, count)
    piped = _bare_drained_per_s(stage, count, script=False)
    scripted = _bare_drained_per_s(stage, count, script=True)
    return {"drain": Pair(ours, piped), "drain_scripted": Pair(ours, scripted)}


def _drained_per_s(stage: Stage, count: int) -> float:
    with stage.topic(count) as topic:
        bus.enqueue_many(topic, _payloads(range(count)))
        results = bus.result_stream(topic)
        with stage.agent(topic) as agent:
            agent.until(lambda: int(stage.client.xlen(results)), count)
        return raw.finished_per_s(stage.client, results)


def _bare_drained_per_s(stage: Stage, count: int, *, script: bool) -> float:
    with stage.streams() as pair:
        raw.send_piped_s(stage.client, pair.tasks, raw.items(range(count)))
        with stage.consumer(pair, script=script) as consumer:
            consumer.until(lambda: int(stage.client.xlen(pair.results)), count)
        return raw.finished_per_s(stage.client, pair.results)


def _round_trip(stage: Stage, count: int) -> dict[str, Pair]:
    trips = max(count // _TRIPS_PER_TASK, 1)
    client = stage.client
    ours: list[float] = []
    followed: list[float] = []
    bare: list[float] = []
    with (
        stage.topic(3 * trips) as topic,
        stage.streams() as pair,
        stage.agent(topic) as agent,
        stage.consumer(pair) as consumer,
    ):
        # The first task waits for the agent to start; the others warm the way.
        agent.until(lambda: len(mesh.trips_s(topic, _payloads([0]), mesh.WARM_S)), 1)
        mesh.trips_s(topic, _payloads(range(_WARM)))
        raw.trips_s(client, pair.tasks, pair.results, raw.items(range(_WARM)))
        for turn in _turns(trips):
            tasks = _payloads(turn)
            ours += mesh.trips_s(topic, tasks)
            bare += raw.trips_s(client, pair.tasks, pair.results, raw.items(turn))
            followed += mesh.followed_trips_s(topic, tasks)
        agent.check()
        consumer.check()
    half = percentile(bare, 0.5) * _MS
    most = percentile(bare, 0.99) * _MS
    return {
        "round_trip_p50": Pair(percentile(ours, 0.5) * _MS, half),
        "round_trip_p99": Pair(percentile(ours, 0.99) * _MS, most),
        "round_trip_followed_p50": Pair(percentile(followed, 0.5) * _MS, half),
        "round_trip_followed_p99": Pair(percentile(followed, 0.99) * _MS, most),
    }


def _memory(stage: Stage, count: int) -> dict[str, Pair]:
    with stage.topic(count) as topic:
        bus.enqueue_many(topic, _payloads(range(_WARM)))
        before = stage.memory_bytes()
        bus.enqueue_many(topic, _payloads(range(count)))
        ours = (stage.memory_bytes() - before) / count
    with stage.streams() as pair:
        raw.send_piped_s(stage.client, pair.tasks, raw.items(range(_WARM)))
        before = stage.memory_bytes()
        raw.send_piped_s(stage.client, pair.tasks, raw.items(range(count)))
        bare = (stage.memory_bytes() - before) / count
    return {"memory": Pair(ours, bare)}


_HALF: Final = Floor(0.5, at_least=True)

FIGURES: Final = (
    Figure(
        "enqueue",
        lambda: [Row("enqueue", "enqueue one by one", "/s", _HALF)],
        _enqueue,
    ),
    Figure(
        "enqueue_many",
        lambda: [Row("enqueue_many", "enqueue many", "/s", _HALF)],
        _enqueue_many,
    ),
    Figure(
        "drain",
        lambda: [
            Row("drain", "drain no-ops", "/s", _HALF),
            Row("drain_scripted", "  raw script per batch", "/s"),
        ],
        _drain,
    ),
    Figure(
        "round_trip",
        lambda: [
            Row("round_trip_p50", "round trip p50", "ms", Floor(2, at_least=False)),
            Row("round_trip_p99", "round trip p99", "ms"),
            Row("round_trip_followed_p50", "  own XREAD p50", "ms"),
            Row("round_trip_followed_p99", "  own XREAD p99", "ms"),
        ],
        _round_trip,
    ),
    Figure(
        "memory",
        lambda: [
            Row(
                "memory",
                "pending task",
                "bytes",
                Floor(400, at_least=False, of_ratio=False),
            )
        ],
        _memory,
    ),
)
