"""What the body of a bulk replay asks for: which letters, at which pace."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bus import replays
from bus.replays import Pace, Selection

from .members import Kind, flag, invalid, members, number_or_null, text, texts, time


@dataclass(frozen=True, slots=True)
class Picked:
    """A bulk replay that is to be created, looked at first, or only looked at."""

    selection: Selection
    pace: Pace
    dry_run: bool
    start: bool


def bulk(value: Any) -> Picked:
    """A bulk replay from a request body.

    Problem for fields of a wrong type or name; InvalidOption, InvalidName for ranges.
    """
    given = members(value, {**_SELECTION, **_PACE, "dry_run": flag, "start": flag})
    if given.get("dry_run") and "start" in given:
        raise invalid([("/start", "makes no sense in a dry_run, which writes nothing")])
    selection = replays.select(
        topics=given.get("topics", ()),
        ids=given.get("ids", ()),
        group=given.get("group"),
        error=given.get("error"),
        since_ms=_ms(given.get("since")),
        until_ms=_ms(given.get("until")),
    )
    paced = Pace().changed(**{name: given[name] for name in _PACE if name in given})
    dry_run, start = given.get("dry_run", False), given.get("start", True)
    return Picked(selection, paced, dry_run, start)


def pace(value: Any) -> dict[str, Any]:
    """What of its pace a bulk replay is to go on with otherwise."""
    return members(value, _PACE)


def _ms(when: Any) -> int | None:
    return None if when is None else round(when.timestamp() * 1000)


_SELECTION: Final[dict[str, Kind]] = {
    "topics": texts,
    "ids": texts,
    "group": text,
    "error": text,
    "since": time,
    "until": time,
}
_PACE: Final[dict[str, Kind]] = {
    "rate": number_or_null,
    "canary": flag,
    "max_failure_rate": number_or_null,
}
