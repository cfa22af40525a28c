"""Drains, with what the scenarios change about them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import bus
from bench import payloads
from bench.stage import BenchError, Stage
from bus import messages, results

Ended = tuple[str, int]  # by which agent, when (ms of the server)


def fill(topic: str, count: int) -> None:
    """So many waiting tasks of the usual size."""
    bus.enqueue_many(topic, map(payloads.payload, range(count)))


def drained_per_s(
    stage: Stage, topic: str, count: int, *options: str, handler: str = "noop"
) -> float:
    """Tasks per second of one agent, over its first so many results of the topic."""
    stream = bus.result_stream(topic)
    before = int(stage.client.xlen(stream))
    newest = stage.client.xrevrange(stream, count=1)
    after = newest[0][0].decode() if newest else "0"
    with stage.agent(topic, *options, handler=handler) as agent:
        agent.until(lambda: int(stage.client.xlen(stream)), before + count)
    return first_per_s(stage.client, stream, count, after)


def first_per_s(client: Any, stream: str, count: int, after: str = "0") -> float:
    """The rate of the first so many results after one, on the server's clock.

    Those of the first millisecond are the start, so they do not count.
    """
    rows = client.xrange(stream, f"({after}", count=count)
    times = [messages.entry_ms(sid.decode()) for sid, _ in rows]
    later = sum(ms > times[0] for ms in times)
    return later * 1000 / max(times[-1] - times[0], 1)


def ended(topic: str) -> list[Ended]:
    """Every result: who wrote it, and when."""
    return [(row["agent"], messages.entry_ms(sid)) for sid, row in results.each(topic)]


def together_per_s(rows: Iterable[Ended], agents: int) -> float:
    """Results per second while all agents were at work; BenchError if never."""
    times: dict[str, list[int]] = {}
    for agent, ms in rows:
        times.setdefault(agent, []).append(ms)
    start = max(map(min, times.values()), default=0)
    end = min(map(max, times.values()), default=0)
    if len(times) < agents or end <= start:
        raise BenchError(f"{agents} agents were never at work together: more --tasks")
    count = sum(start < ms <= end for each in times.values() for ms in each)
    return count * 1000 / (end - start)
