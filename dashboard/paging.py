"""One list out of many topics' streams, page by page, newest first.

Each page asks twice, however many topics there are: for the first entry of each, then
for `count + 1` entries of those topics whose first ones are so many. No entry is
skipped or shown twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bus.abreast import Ask, Found
from dashboard import places
from dashboard.places import Place

# Of each ask what it found.
Look = Callable[[Sequence[Ask]], list[list[Found]]]
Row = tuple[Place, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """Items in order; where older and newer ones begin, None if there are none.

    `first` says that nothing newer was left out; then `heads` is per topic the newest
    entry id there was: the cursor from which a live page goes on without a gap.
    `looked` is at how many entries it looked for what fits a filter.
    """

    items: list[Any]
    older: str | None
    newer: str | None
    heads: dict[str, str]
    first: bool
    looked: int = 0


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
        return _upwards(topics, look, count, places.parse(after))
    place = places.parse(before) if before else None
    asks = [Ask(topic, 1, before=places.below(place, topic)) for topic in topics]
    rows, firsts = _leading(asks, look, count, newest=True)
    shown = rows[:count]
    heads = {ask.topic: firsts.get(ask.topic, "0-0") for ask in asks}
    return Page(
        items=[make() for _, make in shown],
        older=places.text(shown[-1][0]) if len(rows) > count else None,
        newer=places.text(shown[0][0]) if place and shown else None,
        heads={} if place else heads,
        first=place is None,
    )


def _upwards(topics: Iterable[str], look: Look, count: int, place: Place) -> Page:
    asks = [Ask(topic, 1, after=places.above(place, topic)) for topic in topics]
    rows, _ = _leading(asks, look, count, newest=False)
    shown = rows[:count][::-1]
    return Page(
        items=[make() for _, make in shown],
        older=places.text(shown[-1][0]) if shown else None,
        newer=places.text(shown[0][0]) if len(rows) > count else None,
        heads={},
        first=False,
    )


def _leading(
    asks: list[Ask], look: Look, count: int, newest: bool
) -> tuple[list[Row], dict[str, str]]:
    """More than `count` rows in order, if there are; the first entry id per topic.

    What comes between the two looks is among the rows of the topics that are read
    again, and newer than the first entry of the others.
    """
    firsts = [found[0] if found else None for found in look(asks)]
    ranks = [
        (places.of(first[0], ask.topic), ask)
        for first, ask in zip(firsts, asks, strict=True)
        if first
    ]
    ranks.sort(key=lambda rank: rank[0], reverse=newest)
    begins = {ask.topic: f"{place[0]}-{place[1]}" for place, ask in ranks}
    wanted = [replace(ask, count=count + 1) for _, ask in ranks[: count + 1]]
    rows: list[Row] = []
    for ask, found in zip(wanted, look(wanted), strict=True):
        rows += [(places.of(entry_id, ask.topic), make) for entry_id, make in found]
        if found:
            begins[ask.topic] = found[0][0]
    return sorted(rows, key=lambda row: row[0], reverse=newest), begins
