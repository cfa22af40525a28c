"""One list out of many topics' streams, page by page, newest first.

A place in it is an entry id with its topic, `1732287600000-0@demo`: ids of two topics
may be equal, then the topic decides. Each page reads at most `count + 1` entries per
topic, however long the streams are, and no entry is skipped or shown twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from bus import errors

_PLACE: Final = re.compile(r"(\d{1,20})-(\d{1,20})@([a-z0-9:._-]{1,64})")
_SEQ_MOST: Final = 2**64 - 1

Place = tuple[int, int, str]
# (topic, count, after, before) -> (entry id, item) rows: the newest first, but the
# oldest first with `after`; both bounds are exclusive.
Look = Callable[[str, int, str | None, str | None], list[tuple[str, Any]]]


@dataclass(frozen=True, slots=True)
class Page:
    """Items in order; where older and newer ones begin, None if there are none.

    `first` says that nothing newer was left out; then `heads` is per topic the newest
    entry id there was: the cursor from which a live page goes on without a gap.
    """

    items: list[Any]
    older: str | None
    newer: str | None
    heads: dict[str, str]
    first: bool


def read(
    topics: Iterable[str],
    look: Look,
    count: int,
    before: str | None = None,
    after: str | None = None,
) -> Page:
    """The page below `before`, or above `after`, or the newest; bad places are errors.

    InvalidOption for a place that is none: it came out of the address bar.
    """
    if after:
        return _upwards(topics, look, count, _parse(after))
    place = _parse(before) if before else None
    rows: list[tuple[Place, Any]] = []
    heads = {}
    for topic in topics:
        found = look(topic, count + 1, None, _below(place, topic))
        heads[topic] = found[0][0] if found else "0-0"
        rows += [(_place(entry_id, topic), item) for entry_id, item in found]
    rows.sort(key=lambda row: row[0], reverse=True)
    shown = rows[:count]
    return Page(
        items=[item for _, item in shown],
        older=_text(shown[-1][0]) if len(rows) > count else None,
        newer=_text(shown[0][0]) if place and shown else None,
        heads={} if place else heads,
        first=place is None,
    )


def _upwards(topics: Iterable[str], look: Look, count: int, place: Place) -> Page:
    rows: list[tuple[Place, Any]] = []
    for topic in topics:
        found = look(topic, count + 1, _above(place, topic), None)
        rows += [(_place(entry_id, topic), item) for entry_id, item in found]
    rows.sort(key=lambda row: row[0])
    shown = rows[:count][::-1]
    return Page(
        items=[item for _, item in shown],
        older=_text(shown[-1][0]) if shown else None,
        newer=_text(shown[0][0]) if len(rows) > count else None,
        heads={},
        first=False,
    )


def _parse(text: str) -> Place:
    match = _PLACE.fullmatch(text)
    if not match or max(int(match[1]), int(match[2])) > _SEQ_MOST:
        raise errors.InvalidOption("the address names no place in this list")
    return int(match[1]), int(match[2]), match[3]


def _place(entry_id: str, topic: str) -> Place:
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq), topic


def _text(place: Place) -> str:
    return f"{place[0]}-{place[1]}@{place[2]}"


def _below(place: Place | None, topic: str) -> str | None:
    """The exclusive upper bound in one topic: its own entry of the same id counts as
    below if the topic sorts below."""
    if place is None:
        return None
    ms, seq, at = place
    if topic >= at:
        return f"{ms}-{seq}"
    return f"{ms}-{seq + 1}" if seq < _SEQ_MOST else f"{ms + 1}-0"


def _above(place: Place, topic: str) -> str:
    """The exclusive lower bound in one topic, likewise."""
    ms, seq, at = place
    if topic <= at:
        return f"{ms}-{seq}"
    if seq > 0:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{_SEQ_MOST}" if ms else "0-0"
