"""How much each topic did per minute, how fast, from the rings its scripts keep."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from . import connection, errors, keys, records, refusals

MINUTES_MOST: Final = 179  # the ring has 180 fields, the running minute is one of them
_RING: Final = 180
_BUCKETS: Final = 32


@dataclass(frozen=True, slots=True)
class Minute:
    """What one minute of a topic counted; `at_ms` is when it began (server clock).

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


# How `prelude.lua` writes them; what was accepted follows from the `A` of two rows.
_LETTERS: Final = {
    "d": "done",
    "t": "retried",
    "x": "dead",
    "l": "lost",
}


@dataclass(frozen=True, slots=True)
class Rates:
    """The last minutes of one topic, the oldest first; the last one is still running.

    What happened in the last 60 s is the running minute, and of the one before it the
    share that is less than 60 s ago.
    """

    minutes: tuple[Minute, ...]
    done_per_minute: float
    dead_per_minute: float

    def wait_ms(self, share: float) -> int | None:
        """What this share of the tasks done waited at most; None if none was done."""
        return _quantile([minute.waits for minute in self.minutes], share)

    def run_ms(self, share: float) -> int | None:
        """What this share of the attempts ran at most; None if none ended."""
        return _quantile([minute.runs for minute in self.minutes], share)


def _quantile(counts: Sequence[Counter[int]], share: float) -> int | None:
    """The upper edge of the bucket that reaches the share: right to a doubling."""
    total: Counter[int] = Counter()
    for each in counts:
        total.update(each)
    left = share * total.total()
    for bucket in sorted(total):
        left -= total[bucket]
        if left <= 0:
            return int(2**bucket)
    return None


def of_topics(topics: Sequence[str], count: int = 60) -> dict[str, Rates]:
    """The last `count` minutes (2 to 179) of each topic, all in one round trip."""
    if not 2 <= count <= MINUTES_MOST:
        raise errors.InvalidOption(f"count {count!r} is not 2 to {MINUTES_MOST}")
    with refusals.guard():
        seconds, micros = connection.reader().time()
        now = int(seconds) // 60
        stamps = range(now - count + 1, now + 1)
        fields = [str(stamp % _RING) for stamp in stamps]
        pipe = connection.reader().pipeline(transaction=False)
        for topic in topics:
            pipe.hmget(keys.named("minutes", keys.check_topic(topic)), fields)
            pipe.hget(keys.named("counters", topic), "accepted")
        replies = pipe.execute() if topics else []
    over_share = (int(seconds) % 60 + int(micros) / 1e6) / 60
    # Most minutes of most topics are empty: one object stands for them all.
    empty = [Minute(stamp * 60_000) for stamp in stamps]
    found = {}
    for topic, texts, now_accepted in zip(
        topics, replies[::2], replies[1::2], strict=True
    ):
        minutes = _ring(empty, texts, records.number(now_accepted or "") or 0)
        before, running = minutes[-2:]
        share = 1 - over_share
        found[topic] = Rates(
            minutes,
            running.done + before.done * share,
            running.dead + before.dead * share,
        )
    return found


def _ring(
    empty: Sequence[Minute], texts: Sequence[str | None], accepted: int
) -> tuple[Minute, ...]:
    """The minutes, given what the topic has `accepted` up to now.

    A row says what was accepted before its minute; whatever the next row says more, it
    was accepted in this one, since every minute that accepts has a row.
    """
    found = []
    for nothing, text in zip(reversed(empty), reversed(texts), strict=True):
        minute, before = _minute(nothing, text, accepted) if text else (nothing, None)
        found.append(minute)
        accepted = accepted if before is None else before
    return tuple(reversed(found))


def _minute(nothing: Minute, text: str, accepted: int) -> tuple[Minute, int | None]:
    """A field of the ring, and what was accepted before it, if it tells.

    One left over from three hours ago counts nothing.
    """
    written, *parts = text.split() or [""]
    if written != str(nothing.at_ms // 60_000):
        return nothing, None
    before = None
    counts = {}
    spans: dict[str, Counter[int]] = {"w": Counter(), "r": Counter()}
    for part in parts:
        name, _, text_of = part.partition("=")
        number, bucket = records.number(text_of) or 0, records.number(name[1:])
        if name == "A":
            before = number
            counts["accepted"] = max(0, accepted - before)
        elif name in _LETTERS:
            counts[_LETTERS[name]] = number
        elif bucket is not None and bucket < _BUCKETS and name[0] in spans:
            spans[name[0]][bucket] = number
    minute = Minute(nothing.at_ms, waits=spans["w"], runs=spans["r"], **counts)
    return minute, before
