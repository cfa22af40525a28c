"""The newest entries that the feed has read, kept once for everybody who follows.

Followers hold a position in it instead of a queue each: what is slow for one costs the
others nothing, and the memory of the feed does not grow with its followers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Final

from .. import errors, history, keys, letters, messages, records

RESULTS: Final = "results"
DEAD: Final = "dead"
EVENTS: Final = "events"
GAP: Final = "gap"
KINDS: Final = (RESULTS, DEAD, EVENTS)

# A row beyond this is told without what makes it so big.
ROW_CHARS: Final = 200_000

Place = tuple[int, int]


def stream_of(kind: str, topic: str) -> str:
    """The key of a topic's stream of one kind."""
    return keys.named(kind, topic)


def cursor_text(entry_id: str, index: int | None) -> str:
    """A cursor: an entry id and, where it is known, the entry's number in its stream.

    The number is what makes a gap countable after the process that read it is gone.
    """
    return entry_id if index is None else f"{entry_id}/{index}"


def parse_cursor(text: Any) -> tuple[str, int | None]:
    """The entry id and number of a cursor; InvalidName for text that is none."""
    head, slash, tail = str(text)[:120].partition("/")
    entry_id = keys.check_entry(head)
    if not slash:
        return entry_id, None
    index = records.number(tail)
    if index is None:
        raise errors.InvalidName(f"cursor {str(text)[:80]!r} is not one of the feed's")
    return entry_id, index


class Item:
    """One entry, or a gap of `missed` entries (None: how many is not known).

    What doors make of an entry (JSON, HTML) is made once, whoever asks first.
    """

    __slots__ = (
        *("kind", "stream", "topic", "entry_id", "place"),
        *("index", "fields", "missed", "size", "_made"),
    )

    def __init__(
        self,
        kind: str,
        stream: str,
        topic: str,
        entry_id: str,
        index: int | None = None,
        fields: dict[str, str] | None = None,
        missed: int | None = 0,
    ) -> None:
        self.kind, self.stream, self.topic = kind, stream, topic
        self.entry_id, self.place = entry_id, records.place_of(entry_id)
        self.index, self.missed = index, missed
        self.fields = fields or {}
        self.size = 200 + sum(map(len, self.fields.values()))
        self._made: dict[str, str] = {}

    @property
    def task_id(self) -> str:
        """The task the entry names; empty where somebody else wrote something else."""
        return self.fields.get("id", "")

    @property
    def event(self) -> str:
        """What an entry of the event log says happened."""
        return self.fields.get("event", "") if self.kind == EVENTS else ""

    @property
    def cursor(self) -> str:
        """From where a follower that has seen this entry resumes."""
        return cursor_text(self.entry_id, self.index)

    def made(self, name: str, make: Callable[[Item], str]) -> str:
        """What `make` makes of this entry, kept under `name` for all followers."""
        text = self._made.get(name)
        if text is None:
            text = self._made[name] = make(self)
        return text

    def has(self, name: str) -> bool:
        """Whether that has been made already."""
        return name in self._made

    def row(self) -> dict[str, Any]:
        """A result row with `entry_id` and `topic`; raw fields if it is none of ours.

        A row by hand may name another topic: the stream it came from is what counts.
        """
        row = history.row_of(self.fields)
        return {**row, "entry_id": self.entry_id, "topic": self.topic}

    def letter(self) -> letters.DeadLetter:
        """The dead letter in this entry."""
        return letters.parse_letter(self.topic, self.entry_id, self.fields)

    def wire(self) -> str:
        """The row as JSON text, made once."""
        return self.made("json", _wire)


def _wire(item: Item) -> str:
    if item.kind == RESULTS:
        row = item.row()
        if item.size <= ROW_CHARS:
            return _json(row)
        # Too big to be sent to everybody: by its id it can be read whole.
        heavy = {name: None for name, value in row.items() if _heavy(value)}
        return _json({**row, **heavy, "clipped": True})
    row = item.letter().row()
    if item.size > ROW_CHARS:
        row |= {"task": None, "attempts": [], "replays": [], "clipped": True}
    return _json(row)


def _heavy(value: Any) -> bool:
    return isinstance(value, (dict, list, str)) and len(_json(value)) > 1_000


def _json(value: Any) -> str:
    return messages.written(value).decode()


class Window:
    """A bounded run of items; each has a position that only grows."""

    def __init__(self, rows_most: int, bytes_most: int) -> None:
        self.start = 0  # position of the oldest item that is still here
        self._items: list[Item] = []
        self._bytes = 0
        self._rows_most, self._bytes_most = rows_most, bytes_most
        self._listeners: set[asyncio.Event] = set()

    @property
    def followed(self) -> bool:
        """Whether anybody wants to know when items come in."""
        return bool(self._listeners)

    @property
    def end(self) -> int:
        """The position the next item will get."""
        return self.start + len(self._items)

    def extend(self, items: Sequence[Item]) -> None:
        """Take in items, let the oldest go, wake everybody who listens."""
        self._items.extend(items)
        self._bytes += sum(item.size for item in items)
        gone = max(0, len(self._items) - self._rows_most)
        self._bytes -= sum(item.size for item in self._items[:gone])
        # The newest item stays, however big it is.
        while self._bytes > self._bytes_most and gone < len(self._items) - 1:
            self._bytes -= self._items[gone].size
            gone += 1
        del self._items[:gone]
        self.start += gone
        for event in self._listeners:
            event.set()

    def since(self, position: int, most: int) -> list[Item]:
        """Items from a position on, which must not lie before `start`."""
        at = position - self.start
        return self._items[at : at + most]

    def listen(self, event: asyncio.Event) -> None:
        """Set the event whenever items come in."""
        self._listeners.add(event)

    def leave(self, event: asyncio.Event) -> None:
        """Stop setting the event."""
        self._listeners.discard(event)
