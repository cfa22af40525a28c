"""The handler of the storm: writes down that it ran, then does as its payload says."""

from __future__ import annotations

import asyncio
import functools
import os
from typing import Any

import bus
from bus import deliveries, endings

# One line per event, in one write: the truth about who ran what, kept by the file
# system and not by what is under test.
_LEDGER = os.open(
    os.environ.get("MESH_STORM_LEDGER", os.devnull),
    os.O_WRONLY | os.O_APPEND | os.O_CREAT,
)
RAN, FENCED = "ran", "fenced"


def _note(what: str, *facts: Any) -> None:
    os.write(_LEDGER, f"{' '.join(map(str, [what, *facts]))}\n".encode())


async def run(payload: dict[str, Any], task: bus.Task) -> Any:
    """Do as the kind of the task demands."""
    _note(RAN, task.id, task.epoch, task.fence)
    kind = payload["kind"]
    if kind == "poison":
        os._exit(137)
    if kind == "fatal" or (kind == "second" and task.epoch == 0):
        raise bus.GiveUp("as asked")
    await asyncio.sleep(payload["ms"] / 1000)
    if kind == "flaky" and task.attempt == 1:
        raise bus.Retry(0.05, "as asked")
    return {"n": payload["n"]}


# An agent that lost a task says so to nobody. Its ends are watched from outside, and
# those that were refused are noted.


def _watched(end: Any) -> Any:
    @functools.wraps(end)
    async def watched(seat: Any, what: Any) -> Any:
        outcome = await end(seat, what)
        items = what if isinstance(what, (list, tuple)) else [what]
        said = outcome if isinstance(outcome, list) else [outcome]
        for item, word in zip(items, said, strict=True):
            if word in (endings.FENCED, endings.GONE):
                _note(FENCED, item.delivery.id)
        return outcome

    return watched


deliveries.complete = _watched(deliveries.complete)
deliveries.fail = _watched(deliveries.fail)
_heartbeat = deliveries.heartbeat


@functools.wraps(_heartbeat)
def _beat(*args: Any, **options: Any) -> Any:
    beat = _heartbeat(*args, **options)
    for item in beat.fenced:
        _note(FENCED, item.id)
    return beat


deliveries.heartbeat = _beat
