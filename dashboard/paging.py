"""One list out of many topics' streams, page by page, newest first.

Each page asks for the first entry of each topic, then for some of those whose first
ones lead: their share of a page and a few. That is most often enough, however many
topics there are; then it asks for more of those that hold more of the page than that.
No entry is skipped or shown twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from bus.abreast import Ask, Found
from dashboard import places
from dashboard.places import Place

# Of each ask what it found.
Look = Callable[[Sequence[Ask]], list[list[Found]]]
Row = tuple[Place, Callable[[], Any]]
# Read of a topic beyond its share of a page, which most often saves a look; not many,
# since an entry may have 1 MiB.
_MORE: Final = 2


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

    What comes between the first two looks is among the rows of the topics that are read
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
    wanted = _shares([ask for _, ask in ranks[: count + 1]], count)
    asked = look(wanted)
    begins |= {a.topic: f[0][0] for a, f in zip(wanted, asked, strict=True) if f}
    rows: list[Row] = []
    while True:
        ends: list[tuple[Place, Ask]] = []
        for ask, found in zip(wanted, asked, strict=True):
            rows += [(places.of(entry_id, ask.topic), make) for entry_id, make in found]
            if len(found) == ask.count:
                ends.append((rows[-1][0], _behind(ask, found[-1][0])))
        rows = sorted(rows, key=lambda row: row[0], reverse=newest)[: count + 1]
        wanted = _shares(_dry(ends, rows, count, newest), count)
        if not wanted:
            return rows, begins
        asked = look(wanted)


def _shares(asks: list[Ask], count: int) -> list[Ask]:
    """For as many entries of each as make up a page together, and a few."""
    share = -(-(count + 1) // max(1, len(asks))) + _MORE
    return [replace(ask, count=min(share, count + 1)) for ask in asks]


def _behind(ask: Ask, entry_id: str) -> Ask:
    """For what comes behind this entry."""
    if ask.after is None:
        return replace(ask, before=entry_id)
    return replace(ask, after=entry_id)


def _dry(
    ends: list[tuple[Place, Ask]], rows: list[Row], count: int, newest: bool
) -> list[Ask]:
    """Those of which more may be among the `count + 1` leading rows: all that was read
    of them is."""
    if len(rows) <= count:
        return [ask for _, ask in ends]
    last = rows[-1][0]
    return [ask for at, ask in ends if (at > last if newest else at < last)]
