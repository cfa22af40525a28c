"""Dead letters that failed alike: one failure group, page by page, of many topics."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from . import connection, keys, letters, refusals
from .abreast import Ask
from .letters import DeadLetter


def list_alike(
    topic: str, fingerprint: str, count: int = 50, before: str | None = None
) -> list[DeadLetter]:
    """Letters of one failure group, the newest first; `before` continues below that id.

    Empty for a group that nobody knows (any more). Letters that leave between the two
    looks are left out, so a page may be short.
    """
    keys.check_count(count, 1_000)
    [ids] = list_ids(fingerprint, [Ask(topic, count, before=before)])
    return read([(topic, sid) for sid in ids])


def list_ids(fingerprint: str, asks: Sequence[Ask]) -> list[list[str]]:
    """Entry ids of a failure's letters in each topic, the newest first, in one round
    trip, unless more died within a millisecond than were asked for, or the clock of the
    server was set back before the letter that an ask continues below."""
    pages = [_Page(ask, fingerprint) for ask in asks]
    going = pages
    with refusals.guard():
        while going:
            pipe = connection.reader().pipeline(transaction=False)
            for page in going:
                page.ask(pipe)
            replies = iter(pipe.execute())
            for page in going:
                page.take(replies)
            going = [page for page in going if not page.ended]
    return [page.ids[: page.count] for page in pages]


class _Page:
    """A stretch of one failure group's index, which goes by the time of death.

    That is the time in a letter's id as well, unless the server's clock was set back:
    ids go on from the last one then. So it goes on below the place that the index has
    the bound at; below its id where it has left the index.
    """

    def __init__(self, ask: Ask, fingerprint: str) -> None:
        self._key = keys.group_key(keys.check_topic(ask.topic), fingerprint)
        self.count = ask.count
        self._before = ask.before and keys.check_entry(ask.before)
        self._top = _ms_of(self._before) if self._before else math.inf
        self._start = 0
        self.ids: list[str] = []
        self.ended = False

    def ask(self, pipe: Any) -> None:
        """What comes below the bound, as far as it is known, and where the bound is."""
        if self._before:
            pipe.zscore(self._key, self._before)
        # Ids that share a millisecond with the bound are told apart below.
        pipe.zrevrangebyscore(
            self._key, self._top, "-inf", self._start, self.count, withscores=True
        )

    def take(self, replies: Iterator[Any]) -> None:
        """Take what was answered; the page has `ended`, or is to ask once more."""
        score = next(replies) if self._before else None
        rows = next(replies)
        if score is not None and score != self._top:
            self._top, self._start, self.ids = score, 0, []
            return
        self.ids += [sid for sid, at in rows if self._is_below(sid, at, score)]
        self._start += len(rows)
        self.ended = len(rows) < self.count or len(self.ids) >= self.count

    def _is_below(self, sid: str, at: float, score: float | None) -> bool:
        """Whether the index lists it behind the bound: within a millisecond it goes by
        text, so that a page which ends there skips nothing."""
        if not self._before:
            return True
        if score is None:
            return (_ms_of(sid), sid) < (_ms_of(self._before), self._before)
        return (at, sid) < (score, self._before)


def _ms_of(entry_id: str) -> int:
    return int(entry_id.partition("-")[0])


def read(wanted: Sequence[tuple[str, str]]) -> list[DeadLetter]:
    """The letters at these topics and entry ids, without those that left since."""
    return [letter for letter in found(wanted) if letter is not None]


def found(wanted: Sequence[tuple[str, str]]) -> list[DeadLetter | None]:
    """`read`, with None in the place of each letter that left."""
    if not wanted:
        return []
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        for topic, sid in wanted:
            pipe.xrange(keys.dead_stream(topic), sid, sid)
        replies = pipe.execute()
    return [
        letters.parse_letter(topic, *rows[0]) if rows else None
        for (topic, _), rows in zip(wanted, replies, strict=True)
    ]
