"""What the server says of itself and of its agents."""

from __future__ import annotations

from typing import Any

import bus


def cpu_s(client: Any) -> float:
    """CPU time the server has used since its start, in all of its threads."""
    told = client.info("cpu")
    return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])


def serving(topic: str) -> int:
    """How many live agents serve a topic."""
    return sum(topic in agent.get("topics", ()) for agent in bus.list_agents())
