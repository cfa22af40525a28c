"""Two agent processes on one topic, beside one."""

from __future__ import annotations

import contextlib
from typing import Final

import bus
from bench.report import Floor, Pair, Row
from bench.stage import Stage

from . import drains, server
from .sizes import Sizes

# They do not begin in one moment: a second of difference must not matter.
_TASKS: Final = 10


def rows() -> list[Row]:
    return [
        Row("two_agents", "two agents", "/s", Floor(1.6, at_least=True)),
        Row("two_agents_server", "  CPU of the server", "%"),
    ]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """Both rates; the second row says whether the server is the limit (100 %)."""
    one, one_busy = _drained(stage, sizes.tasks * _TASKS, 1)
    two, two_busy = _drained(stage, sizes.tasks * _TASKS, 2)
    return {
        "two_agents": Pair(two, one),
        "two_agents_server": Pair(two_busy, one_busy),
    }


def _drained(stage: Stage, count: int, agents: int) -> tuple[float, float]:
    """Tasks per second, and the share of a CPU that the server used meanwhile."""
    with stage.topic(count) as topic, contextlib.ExitStack() as stack:
        drains.fill(topic, count)
        bus.pause(topic)
        names = [f"agent-{number}" for number in range(agents)]
        started = [stack.enter_context(stage.agent(topic, name=name)) for name in names]
        started[0].until(lambda: server.serving(topic), agents)
        used_s = server.cpu_s(stage.client)
        bus.resume(topic)
        results = bus.result_stream(topic)
        started[0].until(lambda: int(stage.client.xlen(results)), count)
        used_s = server.cpu_s(stage.client) - used_s
        rows = drains.ended(topic)
    took_ms = max(ms for _, ms in rows) - min(ms for _, ms in rows)
    busy = used_s * 100_000 / max(took_ms, 1)
    return drains.together_per_s(rows, agents), busy
