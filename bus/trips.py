"""Several scripts in one round trip, for whom to be woken costs more than the work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import lines, refusals, scripts, verbs


def run_all(calls: Sequence[scripts.Call], line: lines.Line) -> list[Any]:
    """The replies of several scripts; BusError where one has none.

    Sent once, and each stands alone: after an error some of them may have run.
    """
    commands = [verbs.command(*each) for each in calls]
    with refusals.guard():
        replies = line.call_all(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
    return replies
