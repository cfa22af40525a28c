"""A search that goes on by itself.

What it looks through may be a million tasks, so each page looks for a moment only and
comes with what it found. From there the page goes on by itself (`search.js`), part by
part, until it is full or there is no more; without JavaScript there is a link.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from typing import Final

from bus import errors

# With what it takes to draw the page, a fifth of a second.
_LOOK_S: Final = 0.08
_SLOW_S: Final = 0.05
_TOLD: Final = re.compile(r"([0-9]{1,12})\.([0-9]{1,12})")


class Moment:
    """How long one page may look, from now on."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._until = self._began + _LOOK_S

    def has_read(self) -> None:
        """What it begins with is there. If that took long it looks as long again: each
        part of a search reads anew what the last one did not come to."""
        now = time.monotonic()
        if now - self._began > _SLOW_S:
            self._until = max(self._until, 2 * now - self._began)

    @property
    def over(self) -> bool:
        """Whether it is time to show what there is."""
        return time.monotonic() > self._until


@dataclass(frozen=True, slots=True)
class SoFar:
    """What the parts of a search have `found`, among how many that they `looked` at."""

    found: int = 0
    looked: int = 0

    def plus(self, found: int, looked: int) -> SoFar:
        """With what one more part brought."""
        return SoFar(self.found + found, self.looked + looked)

    def left(self, most: int) -> int:
        """How many of `most` rows are still to be found, at least one."""
        return max(1, most - self.found)

    def part(self, place: str | None, most: int) -> str:
        """How an address names the next part, for `opened`; empty if there is none, or
        `most` rows are found."""
        going = place is not None and self.found < most
        return f"{place}~{self.found}.{self.looked}" if going else ""


def opened(text: str | None) -> tuple[str | None, SoFar]:
    """The place of a list's next page, or of a search's next part with what the parts
    before came to; InvalidOption for what is no such part."""
    place, part, told = (text or "").partition("~")
    if not part:
        return place or None, SoFar()
    match = _TOLD.fullmatch(told)
    if not match:
        raise errors.InvalidOption("the address names no part of a search")
    return place or None, SoFar(int(match[1]), int(match[2]))
