"""Which results somebody watches: of a state, of an agent, with a text in them.

A page that was opened with a filter and the socket that keeps it current ask here.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Final

from bus import errors, messages
from bus.live.window import Item
from dashboard import formats, search

Row = dict[str, Any]
STATES: Final = (messages.DONE, messages.CANCELLED, messages.DISCARDED)
NAMES: Final = ("state", "agent", "q")
_LARGE_CHARS: Final = 20_000
_VERDICTS_MOST: Final = 500  # entries


class Looked:
    """A result row as filters look at it; its text is made once for all of them."""

    def __init__(self, row: Row) -> None:
        self.row = row

    @property
    def values(self) -> tuple[Any, Any]:
        """What its task brought, and what it came to."""
        return self.row.get("task"), self.row.get("result")

    @cached_property
    def texts(self) -> list[str]:
        """All that a text is sought in."""
        error = self.row.get("error")
        said = [formats.error_line(error)] if isinstance(error, dict) else []
        return search.lowered(self.values, [*said, str(self.row.get("id", ""))])


@dataclass(frozen=True, slots=True)
class Watched:
    """Result rows of this state, of this agent, that carry this text (`search`); an
    empty text for what does not matter."""

    state: str = ""
    agent: str = ""
    q: str = ""

    @property
    def given(self) -> dict[str, str]:
        """What matters, by its name in the address and in the socket's first frame."""
        return {name: text for name, text in asdict(self).items() if text}

    def fits(self, looked: Looked) -> bool:
        """Whether a result row is one of them; rows by hand may hold anything."""
        row = looked.row
        if self.state and row.get("state", messages.DONE) != self.state:
            return False
        if self.agent and row.get("agent") != self.agent:
            return False
        if not self.q:
            return True
        return search.among(self.q)(looked.values, lambda: looked.texts)


class Sieve:
    """Which results the sockets of a process are told.

    To read a result and put it into text costs ten times what a filter does, 20 ms
    where it has 1 MiB. So whoever comes to one first asks for all filters there are,
    and only the verdicts are kept. After a large one the next large one waits for as
    long as that took: requests have half of the time.
    """

    def __init__(self) -> None:
        self._filters: Counter[Watched] = Counter()
        self._verdicts: OrderedDict[tuple[str, str], dict[Watched, bool]]
        self._verdicts = OrderedDict()
        self._rests_until = 0.0

    @contextmanager
    def watching(self, only: Watched) -> Iterator[None]:
        """While a socket has this filter."""
        self._filters[only] += 1
        try:
            yield
        finally:
            self._filters[only] -= 1
            self._filters += Counter()  # forgets what nobody watches

    async def passes(self, item: Item, only: Watched) -> bool:
        """Whether the result in this entry fits."""
        key, large = (item.stream, item.entry_id), item.size >= _LARGE_CHARS
        while only not in self._verdicts.get(key, ()):
            began = time.monotonic()
            if large and began < self._rests_until:
                await asyncio.sleep(self._rests_until - began)
                continue
            self._look(key, item, only)
            if large:
                self._rests_until = 2 * time.monotonic() - began
        return self._verdicts[key][only]

    def _look(self, key: tuple[str, str], item: Item, only: Watched) -> None:
        looked = Looked(item.row())
        found = {each: each.fits(looked) for each in {*self._filters, only}}
        self._verdicts[key] = self._verdicts.pop(key, {}) | found
        if len(self._verdicts) > _VERDICTS_MOST:
            self._verdicts.popitem(last=False)


def of(form: Mapping[str, Any]) -> Watched:
    """What an address or a frame asks for; InvalidOption for what is no such thing."""
    told = {name: form.get(name, "") for name in NAMES}
    for name, text in told.items():
        if not isinstance(text, str) or len(text) > search.MOST:
            raise errors.InvalidOption(
                f"the filter {name} is not a text of at most {search.MOST} characters"
            )
    state = told["state"]
    if state and state not in STATES:
        known = ", ".join(STATES)
        raise errors.InvalidOption(f"no result has the state {state!r:.40}: {known}")
    return Watched(state, told["agent"].strip(), told["q"].strip())
