"""How large the scenarios are."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """By default what the mesh promises itself; smaller for a try."""

    tasks: int = 20_000  # of a drain, more or fewer by what each takes
    backlog: int = 1_000_000
    topics: int = 200
    dead: int = 100_000
    agents: int = 100
    idle_s: float = 30.0
