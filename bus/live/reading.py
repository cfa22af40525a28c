"""How far the streams of watched topics have been read, and the next read of them.

Each entry is handed on exactly once, in the server's order. Now and then the books are
balanced: an entry's number in the results stream, counted here, against how many the
server ever added. So whatever was trimmed before it was read, for whatever reason (a
stall, a lost connection), is known to the row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import redis

from .. import records, replies, scripts
from . import window
from .nudged import Nudged
from .window import Item

_READ_BYTES: Final = 8 * 1024 * 1024  # what one read should bring at most
_COUNT_MOST: Final = 500
_GATHER_S: Final = 0.008  # for followers: the next read then brings more at once
_GATHER_PER_STREAM_S: Final = 20e-6  # a read over many streams costs the server more


@dataclass(slots=True)
class Stream:
    """How far one stream has been read; `index` numbers its entries from 1."""

    key: str
    topic: str
    kind: str
    cursor: str
    index: int | None
    moved: bool = False  # since its books were balanced


@dataclass(frozen=True, slots=True)
class End:
    """The end of one stream: its last id (empty if the key holds something else), how
    many were ever added, how many it holds, the first of those."""

    last: str
    added: int
    held: int
    first: str


@dataclass(frozen=True, slots=True)
class Ends:
    """The ends of a topic's streams by kind; `left` results lie behind a cursor."""

    of: dict[str, End]
    left: int


class Reading:
    """The streams of open topics, read over the wire of `pair` while it is open.

    `deliver` says whether anybody follows what it was given. Followers see twenty
    frames a second; who just waits for the end of a task hears of it at once.
    """

    def __init__(self, pair: Nudged, deliver: Callable[[list[Item]], bool]) -> None:
        self.streams: dict[str, Stream] = {}
        self.topics: set[str] = set()
        self._pair = pair
        self._deliver = deliver
        self._entry_bytes = 1_000.0

    async def open(self, topics: dict[str, str | None]) -> None:
        """Fix from where new topics are read: their end, or the entry id beside them.

        The id is for topics that were not known at its time: all after it is news.
        """
        looks = [self._ends(topic) for topic in topics]
        for topic, ends in zip(topics, await asyncio.gather(*looks), strict=True):
            for kind, end in ends.of.items():
                if not end.last:
                    continue  # somebody keeps something else under this name
                key, since = window.stream_of(kind, topic), topics[topic]
                stream = Stream(key, topic, kind, end.last, end.added)
                if since and records.place_of(since) < records.place_of(end.last):
                    stream = Stream(key, topic, kind, since, None, moved=True)
                self.streams[key] = stream
            self.topics.add(topic)

    def close(self, topic: str) -> None:
        """Read a topic no longer."""
        self.topics.discard(topic)
        for kind in window.KINDS:
            self.streams.pop(window.stream_of(kind, topic), None)

    async def read(self) -> None:
        """Hand on what comes next, waiting for it as long as the pair blocks."""
        streams = list(self.streams.values())
        count = int(min(_COUNT_MOST, max(10, _READ_BYTES / self._entry_bytes)))
        try:
            reply = await self._pair.wire.execute_command(
                *("XREAD", "COUNT", count, "BLOCK", self._pair.block_ms, "STREAMS"),
                *(stream.key for stream in streams),
                *(stream.cursor for stream in streams),
            )
        except redis.ResponseError:
            # Somebody put another type under one of the names, which fails them all.
            await self._drop_odd()
            raise
        items: list[Item] = []
        full = False
        for key, entries in replies.streams_of(reply):
            full = full or len(entries) >= count
            items += _items_of(self.streams[key], entries)
        if not items:
            return
        # One read sees all streams at one moment; between streams the clock decides.
        items.sort(key=lambda item: item.place[0])
        size = sum(item.size for item in items) / len(items)
        self._entry_bytes += (size - self._entry_bytes) / 4
        if self._deliver(items) and not full:
            await asyncio.sleep(_GATHER_S + _GATHER_PER_STREAM_S * len(streams))

    async def balance(self, *, everything: bool = False) -> None:
        """Compare how far we came with how far the server is; tell what never came."""
        moved = [each for each in self.streams.values() if each.moved or everything]
        topics = {each.topic for each in moved}
        looks = [self._ends(topic, self._read_up_to(topic)) for topic in topics]
        for topic, ends in zip(topics, await asyncio.gather(*looks), strict=True):
            for kind, end in ends.of.items():
                stream = self.streams.get(window.stream_of(kind, topic))
                if stream is not None and end.last:
                    self._settle(stream, end, ends.left)

    def _settle(self, stream: Stream, end: End, left: int) -> None:
        """One stream's books; `left` results after our cursor are still to be read."""
        stream.moved = False
        if records.place_of(end.last) < records.place_of(stream.cursor):
            # The server came back without its newest entries: new ones may get ids
            # that we would take for read.
            stream.cursor, stream.index = end.last, end.added
            return
        if stream.kind != window.RESULTS:
            return  # letters and events go one by one, which leaves no gap
        if left >= _COUNT_MOST:
            stream.moved = True
            return  # too far behind to count in one look; reads come first
        expected = end.added - left
        missed = 0 if stream.index is None else expected - stream.index
        stream.index = expected
        if missed > 0:
            gap = (window.GAP, stream.key, stream.topic, stream.cursor)
            self._deliver([Item(*gap, index=expected, missed=missed)])

    def _read_up_to(self, topic: str) -> str:
        stream = self.streams.get(window.stream_of(window.RESULTS, topic))
        return "" if stream is None else stream.cursor

    async def _ends(self, topic: str, after: str = "") -> Ends:
        return await ends_of(self._pair.wire, topic, after)

    async def _drop_odd(self) -> None:
        for topic in set(self.topics):
            ends = await self._ends(topic)
            for kind, end in ends.of.items():
                if not end.last:
                    self.streams.pop(window.stream_of(kind, topic), None)


async def ends_of(client: Any, topic: str, after: str = "") -> Ends:
    """Where the streams of a topic end now; `left` counts results behind `after`."""
    args = [after, _COUNT_MOST]
    flat = await scripts.arun("ends", topic, args, client=client, retry_s=0)
    of = {}
    for at, kind in enumerate(window.KINDS):
        last, added, held, first = flat[4 * at : 4 * at + 4]
        of[kind] = End(str(last), int(added), int(held), str(first))
    return Ends(of, int(flat[-1]))


def _items_of(stream: Stream, entries: list[tuple[str, list[str]]]) -> list[Item]:
    """Entries as items, and the stream read up to the last of them."""
    items = []
    for entry_id, flat in entries:
        if stream.index is not None:
            stream.index += 1
        items.append(
            Item(
                *(stream.kind, stream.key, stream.topic, entry_id),
                index=stream.index if stream.kind == window.RESULTS else None,
                fields=dict(zip(flat[::2], flat[1::2], strict=False)),
            )
        )
    stream.cursor, stream.moved = entries[-1][0], True
    return items
