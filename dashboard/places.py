"""Places in a list over many topics' streams.

Each is an entry id with its topic, `1732287600000-0@demo`: ids of two topics may be
equal, then the topic decides.
"""

from __future__ import annotations

import re
from typing import Final

from bus import errors, records

_PLACE: Final = re.compile(r"(\d{1,20})-(\d{1,20})@([a-z0-9:._-]{1,64})")
_SEQ_MOST: Final = 2**64 - 1

Place = tuple[int, int, str]


def parse(text: str) -> Place:
    """InvalidOption for what is no place: it came out of the address bar."""
    match = _PLACE.fullmatch(text)
    if not match or max(int(match[1]), int(match[2])) > _SEQ_MOST:
        raise errors.InvalidOption("the address names no place in this list")
    return int(match[1]), int(match[2]), match[3]


def of(entry_id: str, topic: str) -> Place:
    """The place of an entry."""
    return *records.place_of(entry_id), topic


def text(place: Place) -> str:
    """As it stands in an address."""
    return f"{place[0]}-{place[1]}@{place[2]}"


def below(place: Place | None, topic: str) -> str | None:
    """The exclusive upper bound in one topic: its own entry of the same id counts as
    below if the topic sorts below."""
    if place is None:
        return None
    ms, seq, at = place
    if topic >= at:
        return f"{ms}-{seq}"
    return f"{ms}-{seq + 1}" if seq < _SEQ_MOST else f"{ms + 1}-0"


def above(place: Place, topic: str) -> str:
    """The exclusive lower bound in one topic, likewise."""
    ms, seq, at = place
    if topic <= at:
        return f"{ms}-{seq}"
    if seq > 0:
        return f"{ms}-{seq - 1}"
    return f"{ms - 1}-{_SEQ_MOST}" if ms else "0-0"
