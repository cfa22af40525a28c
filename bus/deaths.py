"""When the letters of a failure died, hour by hour."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import keys, volley

HOURS: Final = 24
HOUR_MS: Final = 3_600_000
# Replies for one failure: ten topics with many letters, or a hundred with one each.
# A page of ten failures then asks for some 20 ms at worst.
_REPLIES_MOST: Final = HOURS * 10


@dataclass(frozen=True, slots=True)
class Deaths:
    """Letters that still lie dead, by the hour (UTC) in which they died.

    The first hour began at `at_ms`, the last one goes on. `left_out` topics, those with
    the fewest letters of the failure, were not counted.
    """

    at_ms: int
    hours: tuple[int, ...]
    left_out: int = 0


def of(failures: Sequence[tuple[str, Mapping[str, int]]]) -> list[Deaths]:
    """The last `HOURS` hours of each failure, in one round trip.

    A failure is its fingerprint and how many letters each topic has of it.
    """
    # Hours begin alike on every clock that is right to a minute or so; a letter from a
    # server whose clock is ahead counts in the last one.
    began = int(time.time() * 1000) // HOUR_MS * HOUR_MS - (HOURS - 1) * HOUR_MS
    starts = [began + at * HOUR_MS for at in range(HOURS)]
    chosen = [_chosen(letters) for _, letters in failures]
    replies = iter(
        volley.ask(
            [
                command
                for (fingerprint, letters), topics in zip(failures, chosen, strict=True)
                for topic in topics
                for command in _commands(
                    keys.group_key(topic, fingerprint), letters[topic], starts
                )
            ]
        )
    )
    found = []
    for (_, letters), topics in zip(failures, chosen, strict=True):
        counts = [0] * HOURS
        for topic in topics:
            if _is_counted(letters[topic]):
                for at in range(HOURS):
                    counts[at] += next(replies)
            else:
                for died_ms in _scores(next(replies)):
                    counts[bisect_right(starts, died_ms) - 1] += 1
        found.append(Deaths(began, tuple(counts), len(letters) - len(topics)))
    return found


def _is_counted(letters: int) -> bool:
    """Whether counting is cheaper than to read when each of them died."""
    return letters > HOURS


def _chosen(letters: Mapping[str, int]) -> list[str]:
    """The topics to ask, those with most letters first, as far as it may cost."""
    topics, left = [], _REPLIES_MOST
    for topic in sorted(letters, key=lambda name: (-letters[name], name)):
        left -= HOURS if _is_counted(letters[topic]) else letters[topic] + 1
        if left < 0:
            break
        topics.append(topic)
    return topics


def _commands(group: str, letters: int, starts: list[int]) -> list[tuple[Any, ...]]:
    if not _is_counted(letters):
        # Not by the entry ids: they are ahead of a clock that was set back.
        return [("ZRANGEBYSCORE", group, starts[0], "+inf", "WITHSCORES")]
    ends = [*(f"({start}" for start in starts[1:]), "+inf"]
    return [("ZCOUNT", group, *bounds) for bounds in zip(starts, ends, strict=True)]


def _scores(reply: list[Any]) -> list[float]:
    """The scores of members, which come in pairs, or in turn in the older protocol."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [float(score) for _, score in reply]
    return [*map(float, reply[1::2])]
