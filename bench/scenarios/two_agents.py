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
_SLOWER: Final = 5  # what waits needs fewer for that
# So few at once leave CPU time to a second agent, on two CPUs as well.
_AT_ONCE: Final = ("--concurrency", "25")


def rows() -> list[Row]:
    return [
        Row("two_agents", "two agents, 10 ms", "/s", Floor(1.6, at_least=True)),
        Row("two_agents_noop", "  no-ops", "/s"),
        Row("two_agents_server", "  CPU of the server", "%"),
    ]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """Two scale until the server is the limit, which one is enough for with no-ops.

    So the judged handler waits, as those do that need many agents; the CPU is that of
    the server with no-ops.
    """
    many = sizes.tasks * _TASKS
    slow, _ = _drained(stage, many // _SLOWER, 1, "sleeps", *_AT_ONCE)
    both, _ = _drained(stage, many // _SLOWER, 2, "sleeps", *_AT_ONCE)
    one, one_busy = _drained(stage, many, 1, "noop")
    two, two_busy = _drained(stage, many, 2, "noop")
    return {
        "two_agents": Pair(both, slow),
        "two_agents_noop": Pair(two, one),
        "two_agents_server": Pair(two_busy, one_busy),
    }


def _drained(
    stage: Stage, count: int, agents: int, handler: str, *options: str
) -> tuple[float, float]:
    """Tasks per second, and the share of a CPU that the server used meanwhile."""
    with stage.topic(count) as topic, contextlib.ExitStack() as stack:
        drains.fill(topic, count)
        bus.pause(topic)
        wanted = (
            stage.agent(topic, *options, handler=handler, name=f"agent-{number}")
            for number in range(agents)
        )
        started = [stack.enter_context(agent) for agent in wanted]
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
