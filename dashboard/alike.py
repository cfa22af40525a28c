"""Failures: dead letters that failed alike, whatever topic they died in."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from bus import alike, dead, deaths
from bus.abreast import Ask, Found
from bus.letters import DeadLetter
from dashboard import lists, paging

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failures:
    """The failures with most letters, as rows, and how many `more` there are."""

    rows: list[Row]
    more: int


def failures(
    facts: list[Row], most: int, topic: str = "", drawn: bool = True
) -> Failures:
    """One row per failure over these topics, those with most letters first.

    A row has the `count`, `first_at` and `last_at` of all its letters, the newest
    `error`, its `topics` (those with most letters first), the `topic` its page is asked
    for (all of them for none), and if `drawn` when its letters died, as `deaths`.
    """
    names = [row["topic"] for row in facts if row["dead"]]
    found: dict[str, list[Row]] = {}
    for name, groups in zip(names, dead.groups_of(names), strict=True):
        for each in groups:
            found.setdefault(each["fingerprint"], []).append({**each, "topic": name})
    largest = heapq.nlargest(most, found.values(), key=_count)
    rows = [merged(each, topic) for each in largest]
    if drawn:
        for row, died in zip(rows, deaths_of(*rows), strict=True):
            row["deaths"] = died
    return Failures(rows, len(found) - len(rows))


def failure(fingerprint: str) -> list[Row]:
    """One failure as it stands in each topic that has letters of it, those with most
    first; in three round trips."""
    found = dead.groups_alike([*dead.counts()], fingerprint)
    rows = [{**group, "topic": topic} for topic, group in found.items()]
    return sorted(rows, key=lambda row: (-row["count"], row["topic"]))


def group(topic: str, fingerprint: str) -> list[Row]:
    """One failure as it stands in the topic, or in each that has letters of it."""
    return [row for row in failure(fingerprint) if topic in ("", row["topic"])]


def _count(rows: list[Row]) -> int:
    return sum(int(row["count"]) for row in rows)


def merged(rows: list[Row], topic: str = "") -> Row:
    """A failure as it stands in some topics as one row, which `failures` tells of."""
    rows = sorted(rows, key=lambda row: (-row["count"], row["topic"]))
    newest = max(rows, key=lambda row: row["last_at"])
    return {
        "fingerprint": newest["fingerprint"],
        "topic": topic,
        "topics": [row["topic"] for row in rows],
        "letters": {row["topic"]: row["count"] for row in rows},
        "count": _count(rows),
        "first_at": min(row["first_at"] for row in rows),
        "last_at": newest["last_at"],
        "error": newest["error"],
    }


def deaths_of(*rows: Row) -> list[deaths.Deaths]:
    """When the letters of these merged rows died, in one round trip."""
    return deaths.of([(row["fingerprint"], row["letters"]) for row in rows])


def letters_page(
    topics: Iterable[str], fingerprint: str, before: str | None = None
) -> paging.Page:
    """Letters of one failure, whatever topic they died in."""

    def look(asks: Sequence[Ask]) -> list[list[Found]]:
        found = alike.list_ids(fingerprint, asks)
        return [
            [(sid, partial(tuple[str, str], (ask.topic, sid))) for sid in ids]
            for ask, ids in zip(asks, found, strict=True)
        ]

    page = paging.read(topics, look, lists.PAGE, before)
    return replace(page, items=alike.read(page.items))


def agents_of(letters: Iterable[DeadLetter]) -> list[tuple[str, int]]:
    """Who ran the last attempt of how many of these letters, most first; letters that
    were moved by hand tell of nobody."""
    told = [each.attempts[-1].get("agent") for each in letters if each.attempts]
    # A letter by hand may name anything.
    return Counter(who for who in told if isinstance(who, str) and who).most_common()
