"""What the benchmark's agent runs: nothing, so that only the mesh costs time."""

from __future__ import annotations

from typing import Any


async def noop(payload: Any, task: Any) -> None:
    """A task that is done as soon as it starts."""
