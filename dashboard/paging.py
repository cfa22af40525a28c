"""One list out of many topics' streams, page by page, newest first.

A place in it is an entry id with its topic, `1732287600000-0@demo`: ids of two topics
may be equal, then the topic decides. Each page asks twice, however many topics there
are: for the first entry of each, then for `count + 1` entries of those topics whose
first ones are so many. No entry is skipped or shown twice.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bus import errors
from bus.abreast import Ask, Found

_PLACE: Final = re.compile(r"(\d{1,20})-(\d{1,20})@([a-z0-9:._-]{1,64})")
_SEQ_MOST: Final = 2**64 - 1
_LOOK_S: Final = 1.5  # for what fits a filter; then somebody may go on
# Entries that a filter looks at in one go: more, while that is quickly done. An entry
# may have 1 MiB, and of each topic so many are read.
_FIRST, _MOST, _QUICK_S = 25, 200, 0.25

Place = tuple[int, int, str]
# Of each ask what it found.
Look = Callable[[Sequence[Ask]], list[list[Found]]]
Row = tuple[Place, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """Items in order; where older and newer ones begin, None if there are none.

    `first` says that nothing newer was left out; then `heads` is per topic the newest
    entry id there was: the cursor from which a live page goes on without a gap.
    `places` are those of the items; `looked` is at how many entries it looked.
    """

    items: list[Any]
    older: str | None
    newer: str | None
    heads: dict[str, str]
    first: bool
    places: list[str]
    looked: int


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
    asks = [Ask(topic, 1, before=_below(place, topic)) for topic in topics]
    rows, firsts = _leading(asks, look, count, newest=True)
    shown = rows[:count]
    heads = {ask.topic: firsts.get(ask.topic, "0-0") for ask in asks}
    return Page(
        items=[make() for _, make in shown],
        older=_text(shown[-1][0]) if len(rows) > count else None,
        newer=_text(shown[0][0]) if place and shown else None,
        heads={} if place else heads,
        first=place is None,
        places=[_text(each) for each, _ in shown],
        looked=len(shown),
    )


def _upwards(topics: Iterable[str], look: Look, count: int, place: Place) -> Page:
    asks = [Ask(topic, 1, after=_above(place, topic)) for topic in topics]
    rows, _ = _leading(asks, look, count, newest=False)
    shown = rows[:count][::-1]
    return Page(
        items=[make() for _, make in shown],
        older=_text(shown[-1][0]) if shown else None,
        newer=_text(shown[0][0]) if len(rows) > count else None,
        heads={},
        first=False,
        places=[_text(each) for each, _ in shown],
        looked=len(shown),
    )


def sift(
    look: Callable[[str | None, int], Page],
    fits: Callable[[Any], bool],
    count: int,
    before: str | None = None,
    passed: Callable[[Any], bool] = lambda item: False,
    shown: Callable[[Any], Any] = lambda item: item,
) -> Page:
    """The `count` newest items that fit of the list whose pages `look` gives, each
    below a place and with so many.

    None behind one that has `passed` fits; `shown` is what is kept of one that does. It
    looks for a bounded time, so that a page may hold few of many, or none yet; `older`
    goes on from there.
    """
    items: list[Any] = []
    places: list[str] = []
    heads: dict[str, str] | None = None
    at, looked, most = before, 0, _FIRST
    until = time.monotonic() + _LOOK_S
    while True:
        began = time.monotonic()
        page = look(at, most)
        heads = page.heads if heads is None else heads
        at = page.older
        for item, place in zip(page.items, page.places, strict=True):
            if passed(item):
                at = None
                break
            looked += 1
            if fits(item):
                items.append(shown(item))
                places.append(place)
            if len(items) == count or time.monotonic() > until:
                at = place if place != page.places[-1] else page.older
                break
        if at is None or len(items) == count or time.monotonic() > until:
            return Page(items, at, None, heads, not before, places, looked)
        if time.monotonic() - began < _QUICK_S:
            most = min(2 * most, _MOST)


def _leading(
    asks: list[Ask], look: Look, count: int, newest: bool
) -> tuple[list[Row], dict[str, str]]:
    """More than `count` rows in order, if there are; the first entry id per topic.

    What comes between the two looks is among the rows of the topics that are read
    again, and newer than the first entry of the others.
    """
    firsts = [found[0] if found else None for found in look(asks)]
    ranks = [
        (_place(first[0], ask.topic), ask)
        for first, ask in zip(firsts, asks, strict=True)
        if first
    ]
    ranks.sort(key=lambda rank: rank[0], reverse=newest)
    begins = {ask.topic: f"{place[0]}-{place[1]}" for place, ask in ranks}
    wanted = [replace(ask, count=count + 1) for _, ask in ranks[: count + 1]]
    rows: list[Row] = []
    for ask, found in zip(wanted, look(wanted), strict=True):
        rows += [(_place(entry_id, ask.topic), make) for entry_id, make in found]
        if found:
            begins[ask.topic] = found[0][0]
    return sorted(rows, key=lambda row: row[0], reverse=newest), begins


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
