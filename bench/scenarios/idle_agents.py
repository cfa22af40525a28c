"""What many agents without work cost the server."""

from __future__ import annotations

import time

from bench.report import Floor, Pair, Row
from bench.stage import Stage

from . import server
from .sizes import Sizes


def rows() -> list[Row]:
    floor = Floor(2, at_least=False, of_ratio=False)
    return [Row("idle_agents", "idle agents, server", "% CPU", floor)]


def run(stage: Stage, sizes: Sizes) -> dict[str, Pair]:
    """The server's CPU with all of them, and with none."""
    none = _busy(stage, sizes.idle_s)
    with stage.topic(1) as topic:
        processes = ("--processes", str(sizes.agents))
        with stage.agent(topic, *processes) as agents:
            agents.until(lambda: server.serving(topic), sizes.agents)
            many = _busy(stage, sizes.idle_s)
            agents.check()
    return {"idle_agents": Pair(many, none)}


def _busy(stage: Stage, for_s: float) -> float:
    """Percent of one CPU; asking costs a little as well."""
    used_s, began = server.cpu_s(stage.client), time.perf_counter()
    time.sleep(for_s)
    used_s = server.cpu_s(stage.client) - used_s
    return used_s * 100 / (time.perf_counter() - began)
