"""What a follower of the feed gets: frames, in the words of the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from . import window
from .window import Item

# At 4 bytes a character still below 1 MiB, beyond which clients refuse a message.
FRAME_CHARS: Final = 240_000
# Events after which a dead letter is no longer one.
_LEAVES: Final = frozenset({"replayed", "discarded"})


@dataclass(slots=True)
class Frame:
    """One message; `items` are the rows of `results` and `dead`, all else is `facts`.

    results  rows that ended            dead    letters that came
    gone     letters that left          gap     entries that nobody will get
    live     from here on nothing is old, told once
    bus      whether Redis answers      (a poll's name)  its new snapshot
    """

    op: str
    facts: dict[str, Any] = field(default_factory=dict)
    items: list[Item] = field(default_factory=list)

    def text(self, row: Callable[[Item], str] = Item.wire) -> str:
        """The frame as JSON text; `row` gives the JSON of one item."""
        head = orjson.dumps({"op": self.op, **self.facts}).decode()
        if self.op not in (window.RESULTS, window.DEAD):
            return head
        return f'{head[:-1]},"rows":[{",".join(map(row, self.items))}]}}'


def of_items(items: Iterable[Item]) -> list[Frame]:
    """Frames of a run of items: at most one per kind, letters that left first.

    A letter that came and left within the run is not told; one that left and came
    again is told in this order, and `at` says which of its letters left.
    """
    rows: dict[str, list[Item]] = {window.RESULTS: [], window.DEAD: []}
    left: list[Item] = []
    gaps: list[Frame] = []
    for item in items:
        if item.kind == window.GAP:
            gaps.append(gap(item.stream, item.missed, item.cursor))
        elif item.kind in rows:
            rows[item.kind].append(item)
        elif item.event in _LEAVES:
            left.append(item)
            rows[window.DEAD] = [
                each for each in rows[window.DEAD] if each.task_id != item.task_id
            ]
    frames = gaps
    if left:
        told = [{"id": item.task_id, "at": item.entry_id} for item in left]
        ids = [item.task_id for item in left]
        frames.append(Frame("gone", {**_head(left), "ids": ids, "left": told}))
    for kind, found in rows.items():
        frames += [Frame(kind, _head(part), part) for part in _parts(found)]
    return frames


def _parts(items: list[Item]) -> Iterable[list[Item]]:
    """Runs of items, each small enough for a frame."""
    part: list[Item] = []
    size = 0
    for item in items:
        chars = min(item.size, window.ROW_CHARS)
        if part and size + chars > FRAME_CHARS:
            yield part
            part, size = [], 0
        part.append(item)
        size += chars
    if part:
        yield part


def gap(stream: str, missed: int | None, after: str) -> Frame:
    """Entries that were trimmed, or skipped for a follower that is too slow.

    `missed` is None where nobody counted; `after` is the cursor behind the gap.
    """
    return Frame("gap", {"stream": stream, "missed": missed, "after": after})


def _head(items: list[Item]) -> dict[str, Any]:
    """The topic, if it is one, and the cursors from which to resume."""
    topics = {item.topic for item in items}
    after = {item.stream: item.cursor for item in items}
    return {"topic": topics.pop() if len(topics) == 1 else None, "after": after}
