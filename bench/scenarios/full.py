"""A drain where there is much else: a backlog, other topics, dead letters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Final

import bus
from bench.report import Floor, Pair, Row
from bench.stage import Stage

from . import drains
from .sizes import Sizes

# Odd, so that the median is a turn of its own. One turn says little: it lasts a second.
_TURNS: Final = 5
_MORE: Final = 2 * _TURNS  # an agent has taken more than is counted when it is stopped

# Fills a server that it is given; what it yields is the topic to drain there.
_Fill = Callable[[Stage, Sizes], contextlib.AbstractContextManager[str]]


def rows() -> list[Row]:
    floor = Floor(0.9, at_least=True)
    return [
        Row("backlog", "drain, large backlog", "/s", floor),
        Row("topics", "drain, many topics", "/s", floor),
        Row("dead", "drain, dead letters", "/s", floor),
    ]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """Each in turns with a drain of as many tasks on a server that has nothing else."""
    fills: dict[str, _Fill] = {"backlog": _backlog, "topics": _topics, "dead": _dead}
    return {name: _in_turns(stage, fill, sizes) for name, fill in fills.items()}


def _in_turns(stage: Stage, fill: _Fill, sizes: Sizes) -> Pair:
    """The turn whose ratio is the median: a machine's slow minutes are for both."""
    count = sizes.tasks
    with (
        stage.topic(_MORE * count) as alone,
        stage.another() as other,
        fill(other, sizes) as topic,
    ):
        pairs = []
        for _ in range(_TURNS):
            bare = _drained_per_s(stage, alone, count)
            pairs.append(Pair(_drained_per_s(other, topic, count), bare))
    return sorted(pairs, key=lambda pair: pair.ratio)[_TURNS // 2]


def _drained_per_s(stage: Stage, topic: str, count: int) -> float:
    stage.use()
    drains.fill(topic, count)
    return drains.drained_per_s(stage, topic, count)


@contextlib.contextmanager
def _backlog(stage: Stage, sizes: Sizes) -> Iterator[str]:
    with stage.topic(sizes.backlog + _MORE * sizes.tasks) as topic:
        drains.fill(topic, sizes.backlog)
        yield topic


@contextlib.contextmanager
def _topics(stage: Stage, sizes: Sizes) -> Iterator[str]:
    for number in range(sizes.topics):
        drains.fill(f"bench-other-{number}", 1)
    with stage.topic(_MORE * sizes.tasks) as topic:
        yield topic


@contextlib.contextmanager
def _dead(stage: Stage, sizes: Sizes) -> Iterator[str]:
    with stage.topic(max(sizes.dead, _MORE * sizes.tasks)) as topic:
        bus.set_limits(topic, dead_max=sizes.dead + 1)
        drains.fill(topic, sizes.dead)
        letters = bus.dead_stream(topic)
        with stage.agent(topic, handler="gives_up") as agent:
            agent.until(lambda: int(stage.client.xlen(letters)), sizes.dead)
        yield topic
