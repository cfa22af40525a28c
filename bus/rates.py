"""How much topics did per minute and hour, how fast, by the rings of their scripts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Final

from . import connection, errors, failures, keys, records, refusals, volley

MINUTES_MOST: Final = 179  # the ring has 180 fields, the running minute is one of them
HOURS_MOST: Final = 719  # 30 days but for the running hour, likewise
_RING: Final = 180
_HOURS: Final = 720
_MINUTE_MS: Final = 60_000
_HOUR_MS: Final = 3_600_000
_BUCKETS: Final = 32
# A count in a row of the ring; whatever else somebody wrote there counts nothing.
_PART: Final = re.compile(r" ([a-zA-Z])([0-9]{0,2})=([0-9]{1,15})(?![^ ])")
_DONE: Final = re.compile(r" d=([0-9]{1,15})(?![^ ])")


@dataclass(frozen=True, slots=True)
class Span:
    """What one minute or hour of a topic counted; it began at `at_ms` (server clock).

    `waits` counts tasks done by how long they waited, `runs` attempts that ended by how
    long they ran: bucket 0 is below 1 ms, bucket b below 2^b ms.
    """

    at_ms: int
    accepted: int = 0
    done: int = 0
    retried: int = 0
    dead: int = 0
    lost: int = 0
    waits: Counter[int] = field(default_factory=Counter)
    runs: Counter[int] = field(default_factory=Counter)

    def __add__(self, other: Span) -> Span:
        """Both counted together, from where this one began."""
        return Span(
            self.at_ms,
            self.accepted + other.accepted,
            self.done + other.done,
            self.retried + other.retried,
            self.dead + other.dead,
            self.lost + other.lost,
            self.waits + other.waits,
            self.runs + other.runs,
        )

    def wait_ms(self, share: float) -> int | None:
        """What this share of the tasks done waited at most; None if none was done."""
        return failures.quantile(self.waits, share)

    def run_ms(self, share: float) -> int | None:
        """What this share of the attempts ran at most; None if none ended."""
        return failures.quantile(self.runs, share)


# How `prelude.lua` writes them. What was accepted follows from the `A` of two minutes;
# an hour has it as `a`.
_LETTERS: Final = {
    "a": "accepted",
    "d": "done",
    "t": "retried",
    "x": "dead",
    "l": "lost",
}


class Rates:
    """The last minutes of one topic, the oldest first; the last one is still running.

    What happened in the last 60 s is the running minute, and of the one before it the
    share that is less than 60 s ago. Rows of the ring are read when somebody wants what
    is in them: pages want little of many topics.
    """

    def __init__(
        self,
        stamps: Sequence[int],
        marks: Sequence[str],
        texts: Sequence[str | None],
        accepted: int,
        over: float,
    ) -> None:
        self._stamps, self._marks = stamps, marks
        self._texts, self._accepted = texts, accepted
        last = zip(marks[-2:], texts[-2:], strict=True)
        before, running = (_counts(_of(mark, text)) for mark, text in last)
        self.done_per_minute: float = running["d"] + before["d"] * (1 - over)
        self.dead_per_minute: float = running["x"] + before["x"] * (1 - over)

    @cached_property
    def _rows(self) -> list[str]:
        return [*map(_of, self._marks, self._texts)]

    @cached_property
    def minutes(self) -> tuple[Span, ...]:
        """Everything they counted."""
        return _ring(self._stamps, self._rows, self._accepted)

    @cached_property
    def done(self) -> list[int]:
        """How many tasks were done, minute by minute."""
        return [
            _done(row) if row and row.startswith(mark) else 0
            for mark, row in zip(self._marks, self._texts, strict=True)
        ]

    def wait_ms(self, share: float) -> int | None:
        """What this share of the tasks done waited at most; None if none was done."""
        return failures.quantile(self._spans["w"], share)

    def run_ms(self, share: float) -> int | None:
        """What this share of the attempts ran at most; None if none ended."""
        return failures.quantile(self._spans["r"], share)

    @cached_property
    def _spans(self) -> dict[str, Counter[int]]:
        """The buckets of all minutes together."""
        found: dict[str, Counter[int]] = {"w": Counter(), "r": Counter()}
        # One look at all of them: each begins with a space, as a part does.
        for name, bucket, count in _PART.findall(" ".join(self._rows)):
            if name in found and bucket and int(bucket) < _BUCKETS:
                found[name][int(bucket)] += int(count)
        return found


def of_topics(topics: Sequence[str], count: int = 60) -> dict[str, Rates]:
    """The last `count` minutes (2 to 179) of each topic, all in one round trip."""
    if not 2 <= count <= MINUTES_MOST:
        raise errors.InvalidOption(f"count {count!r} is not 2 to {MINUTES_MOST}")
    with refusals.guard():
        seconds, micros = connection.reader().time()
    now = int(seconds) // 60
    stamps = range(now - count + 1, now + 1)
    marks = [*map(_mark, stamps)]
    fields = [str(stamp % _RING) for stamp in stamps]
    commands: list[tuple[str, ...]] = []
    for topic in topics:
        commands.append(
            ("HMGET", keys.named("minutes", keys.check_topic(topic)), *fields)
        )
        commands.append(("HGET", keys.named("counters", topic), "accepted"))
    replies = volley.ask(commands)
    over = (int(seconds) % 60 + int(micros) / 1e6) / 60
    return {
        topic: Rates(stamps, marks, texts, records.number(accepted or "") or 0, over)
        for topic, texts, accepted in zip(
            topics, replies[::2], replies[1::2], strict=True
        )
    }


def _ring(
    stamps: Sequence[int], rows: Sequence[str], accepted: int
) -> tuple[Span, ...]:
    """The minutes, given what the topic has `accepted` up to now.

    A row says what was accepted before its minute; whatever the next row says more, it
    was accepted in this one, since every minute that accepts has a row.
    """
    found = []
    for stamp, row in zip(reversed(stamps), reversed(rows), strict=True):
        minute, before = _counted(stamp * _MINUTE_MS, row, accepted)
        found.append(minute)
        accepted = accepted if before is None else before
    return tuple(reversed(found))


def _counted(at_ms: int, row: str, accepted: int) -> tuple[Span, int | None]:
    """A row of a ring, and what was accepted before it, if it tells."""
    before = None
    counts: dict[str, int] = {}
    spans: dict[str, Counter[int]] = {"w": Counter(), "r": Counter()}
    for name, bucket, text in _PART.findall(row):
        number = int(text)
        if name in spans and bucket and int(bucket) < _BUCKETS:
            spans[name][int(bucket)] = number
        elif bucket:
            continue
        elif name == "A":
            before = number
            counts["accepted"] = max(0, accepted - before)
        elif name in _LETTERS:
            counts[_LETTERS[name]] = number
    return Span(at_ms, waits=spans["w"], runs=spans["r"], **counts), before


def _counts(row: str) -> Counter[str]:
    """The counts of a row by their letters."""
    parts = _PART.findall(row) if row else ()
    return Counter({name: int(text) for name, bucket, text in parts if not bucket})


def hours(topic: str, count: int = 24) -> tuple[Span, ...]:
    """The last `count` hours (1 to 719) of a topic, the oldest first, in three trips.

    The last one is still running. InvalidOption for another count.
    """
    if not 1 <= count <= HOURS_MOST:
        raise errors.InvalidOption(f"count {count!r} is not 1 to {HOURS_MOST}")
    minutes = keys.named("minutes", keys.check_topic(topic))
    with refusals.guard():
        client = connection.reader()
        seconds, _ = client.time()
        now = int(seconds) // 3600
        stamps = range(now - count + 1, now + 1)
        pipe = client.pipeline(transaction=False)
        pipe.hmget(keys.named("hours", topic), [str(at % _HOURS) for at in stamps])
        pipe.hget(minutes, "last")
        pipe.hget(keys.named("counters", topic), "accepted")
        texts, last, accepted = pipe.execute()
        # The topic's last minute is in no hour: the first call after it adds it. One
        # that ends between these commands is left out for once, never counted twice.
        minute = records.number(last or "") or 0
        text = client.hget(minutes, str(minute % _RING))
    found = [
        _counted(at * _HOUR_MS, _of(_mark(at), row), 0)[0]
        for at, row in zip(stamps, texts, strict=True)
    ]
    at = minute * _MINUTE_MS // _HOUR_MS - stamps[0]
    if 0 <= at < count:
        so_far = records.number(accepted or "") or 0
        found[at] += _counted(minute * _MINUTE_MS, _of(_mark(minute), text), so_far)[0]
    return tuple(found)


@lru_cache(maxsize=2**15)
def _done(row: str) -> int:
    """How many tasks were done in the minute of this row.

    Remembered, since pages draw an hour of 200 topics: all rows but the last of each
    are the ones of the page before.
    """
    match = _DONE.search(row)
    return int(match[1]) if match else 0


def _mark(stamp: int) -> str:
    """How the row of this time begins: one of the ring's last turn counts nothing."""
    return f"{stamp} "


def _of(mark: str, row: str | None) -> str:
    """The row, if it is of this time."""
    return row if row and row.startswith(mark) else ""
