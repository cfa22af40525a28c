"""What fits a filter, out of many topics' streams, looked for a moment at a time.

A page of it may have few rows, or none, where few fit (`seeking`).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, Final

from bus.abreast import Ask
from dashboard import places
from dashboard.paging import Look, Page, Row
from dashboard.places import Place
from dashboard.seeking import Moment

# Entries that are read in one go, over all topics: more, while that is quickly done,
# fewer where it is not. An entry may have 1 MiB.
_FIRST: Final = 25
_MOST: Final = 2_000
_QUICK_S: Final = 0.02
_SLOW_S: Final = 0.05


def sift(
    topics: Iterable[str],
    look: Look,
    fits: Callable[[Any], bool],
    count: int,
    before: str | None = None,
    passed: Callable[[Any], bool] = lambda item: False,
    shown: Callable[[Any], Any] = lambda item: item,
) -> Page:
    """The `count` newest items that fit of the list over these topics, newest first.

    None behind one that has `passed` fits; `shown` is what is kept of one that does. It
    looks for a moment, so that a page may hold few of many, or none yet; `older` goes
    on from there. InvalidOption for a place that is none.
    """
    moment = Moment()
    merged = _Merged(topics, look, places.parse(before) if before else None)
    page = Page([], None, None, {}, not before)
    looked = 0
    older: Place | None = None
    for place, make in merged:
        if not looked:
            moment.has_read()
        item = make()
        if passed(item):
            older = None
            break
        looked += 1
        older = place
        if fits(item):
            page.items.append(shown(item))
        if len(page.items) == count or moment.over:
            break
    else:
        older = None
    return replace(
        page,
        older=places.text(older) if older and merged.goes_on else None,
        heads={} if before else merged.heads,
        looked=looked,
    )


class _Merged:
    """Entries of many topics' streams as one list, the newest first.

    Of each topic some are read ahead; as many are ripe as are newer than whatever may
    still come of any. `heads` are the newest entry ids there were when it began.
    """

    def __init__(self, topics: Iterable[str], look: Look, place: Place | None) -> None:
        self._look = look
        # Topics of which more may come, with the id below which that is.
        self._below = {topic: places.below(place, topic) for topic in topics}
        self._ahead: dict[str, deque[Row]] = {topic: deque() for topic in self._below}
        self._ripe: deque[Row] = deque()
        self._most = max(1, _MOST // max(1, len(self._below)))
        self._want = max(1, _FIRST // max(1, len(self._below)))
        self.heads = dict.fromkeys(self._below, "0-0")

    @property
    def goes_on(self) -> bool:
        """Whether there may be more."""
        return bool(self._ripe or self._below or any(self._ahead.values()))

    def __iter__(self) -> Iterator[Row]:
        while self.goes_on:
            began = time.monotonic()
            self._read()
            self._ripen()
            while self._ripe:
                yield self._ripe.popleft()
            took_s = time.monotonic() - began
            if took_s < _QUICK_S:
                self._want = min(2 * self._want, self._most)
            elif took_s > _SLOW_S:
                self._want = max(1, self._want // 2)

    def _read(self) -> None:
        """Read ahead of the topics of which little is left, in one trip."""
        asks = [
            Ask(topic, self._want, before=below)
            for topic, below in self._below.items()
            if len(self._ahead[topic]) <= self._want // 2
        ]
        for ask, found in zip(asks, self._look(asks), strict=True):
            ahead = self._ahead[ask.topic]
            ahead += ((places.of(sid, ask.topic), make) for sid, make in found)
            if found and self.heads[ask.topic] == "0-0":
                self.heads[ask.topic] = found[0][0]
            if len(found) < ask.count:
                del self._below[ask.topic]
            else:
                self._below[ask.topic] = found[-1][0]

    def _ripen(self) -> None:
        floor = max((self._ahead[topic][-1][0] for topic in self._below), default=None)
        rows: list[Row] = []
        for ahead in self._ahead.values():
            while ahead and (floor is None or ahead[0][0] >= floor):
                rows.append(ahead.popleft())
        self._ripe.extend(sorted(rows, key=lambda row: row[0], reverse=True))
