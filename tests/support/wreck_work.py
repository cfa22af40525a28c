"""The handlers of agents that die at a named point, and of their heirs."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import bus

# One line per execution, in one write: what ran, whatever became of the process.
_LEDGER = os.open(
    os.environ.get("MESH_WRECK_LEDGER", os.devnull),
    os.O_WRONLY | os.O_APPEND | os.O_CREAT,
)


async def run(payload: dict[str, Any], task: bus.Task) -> Any:
    """Writes down that it ran, then does as its payload says."""
    os.write(_LEDGER, f"{task.id} {task.fence}\n".encode())
    if payload["kind"] == "stubborn":
        await asyncio.sleep(60)  # beyond any grace: its agent has to let go of it
    await asyncio.sleep(payload["ms"] / 1000)
    return _end(payload, task)


async def inherit(payload: dict[str, Any], task: bus.Task) -> Any:
    """`run` by whoever comes after the dead, whom nothing holds up."""
    return _end(payload, task)


def _end(payload: dict[str, Any], task: bus.Task) -> Any:
    if payload["kind"] == "fatal":
        raise bus.GiveUp("as asked")
    last = {"flaky": 1, "often": 4}.get(payload["kind"], 0)
    if task.attempt <= last:
        raise bus.Retry(0.05, "as asked")
    return {"n": payload["n"]}
