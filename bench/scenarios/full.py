"""A drain where there is much else: a backlog, other topics, dead letters."""

from __future__ import annotations

import contextlib

import bus
from bench.report import Floor, Pair, Row
from bench.stage import Stage
from bus import keys

from . import drains
from .sizes import Sizes


def rows() -> list[Row]:
    floor = Floor(0.9, at_least=True)
    return [
        Row("backlog", "drain, large backlog", "/s", floor),
        Row("topics", "drain, many topics", "/s", floor),
        Row("dead", "drain, dead letters", "/s", floor),
    ]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """Each beside a drain of the same number of tasks with nothing else."""
    empty = _drained(stage, sizes.tasks)
    backlog = _drained(stage, sizes.tasks, more=sizes.backlog)
    with contextlib.ExitStack() as others:
        for _ in range(sizes.topics):
            drains.fill(others.enter_context(stage.topic(1)), 1)
        topics = _drained(stage, sizes.tasks)
    # Its neighbours in time: a machine drifts while a million tasks are made.
    again = _drained(stage, sizes.tasks)
    dead = _dead(stage, sizes)
    return {
        "backlog": Pair(backlog, empty),
        "topics": Pair(topics, again),
        "dead": Pair(dead, again),
    }


def _drained(stage: Stage, count: int, more: int = 0) -> float:
    with stage.topic(count + more) as topic:
        drains.fill(topic, count + more)
        return drains.drained_per_s(stage, topic, count)


def _dead(stage: Stage, sizes: Sizes) -> float:
    with stage.topic(max(sizes.dead, sizes.tasks)) as topic:
        bus.set_limits(topic, dead_max=sizes.dead + 1)
        drains.fill(topic, sizes.dead)
        letters = bus.dead_stream(topic)
        with stage.agent(topic, handler="gives_up") as agent:
            agent.until(lambda: int(stage.client.xlen(letters)), sizes.dead)
        try:
            drains.fill(topic, sizes.tasks)
            return drains.drained_per_s(stage, topic, sizes.tasks)
        finally:
            for group in bus.dead_groups(topic):
                key = keys.group_key(topic, group["fingerprint"])
                stage.client.delete(key)
