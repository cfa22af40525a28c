"""The handler of the storm: writes down that it ran, then does as its payload says."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import bus

# One line per execution, in one write: the truth about who ran what, kept by the file
# system and not by what is under test.
_LEDGER = os.open(
    os.environ.get("MESH_STORM_LEDGER", os.devnull),
    os.O_WRONLY | os.O_APPEND | os.O_CREAT,
)


async def run(payload: dict[str, Any], task: bus.Task) -> Any:
    os.write(_LEDGER, f"{task.id} {task.epoch} {task.fence}\n".encode())
    kind = payload["kind"]
    if kind == "poison":
        os._exit(137)
    if kind == "fatal":
        raise bus.GiveUp("as asked")
    await asyncio.sleep(payload["ms"] / 1000)
    if kind == "flaky" and task.attempt == 1:
        raise bus.Retry(0.05, "as asked")
    return {"n": payload["n"]}
