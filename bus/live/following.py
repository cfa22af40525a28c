"""One follower of the feed: first what came since its cursors, then what comes.

The streams themselves are the queue. A follower holds a position in the window of all,
so a slow one costs nothing; if the window passes it, a gap tells how much it missed.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from .. import records
from ..conf import conf
from . import frames, past, window
from .frames import Frame
from .polls import Poll
from .tailer import Tailer
from .window import Item, Window

_SCAN: Final = 500  # items looked at for one frame, whoever they are for


@dataclass(frozen=True, slots=True)
class Pace:
    """How much a follower takes at a time.

    Whoever is more than `catch_up_rows` behind is told a gap instead; None: it is told
    all the streams still hold, also where the window of the feed went past it.
    """

    frames_per_s: int
    rows_per_frame: int
    catch_up_rows: int | None

    @classmethod
    def of_sockets(cls) -> Pace:
        """What settings say: a page repaints a few times a second, or is read anew."""
        rows = conf.FEED_ROWS_PER_FRAME
        return cls(conf.FEED_FRAMES_PER_S, rows, conf.FEED_CATCH_UP_MAX)


class Source(Protocol):
    """What a follower needs of the feed."""

    window: Window
    tailer: Tailer

    async def join(self, topics: set[str] | None) -> None:
        """Watch topics, or all there are and will be."""

    def part(self, topics: set[str] | None) -> None:
        """The end of `join`."""


class Following:
    """An async iterator of frames, inside `async with`; see `Feed.subscribe`."""

    def __init__(
        self,
        source: Source,
        topics: set[str] | None,
        after: Mapping[str, str],
        may: Callable[[str], bool],
        polls: Mapping[str, Poll],
        kinds: frozenset[str],
        pace: Pace,
    ) -> None:
        self._source, self._topics, self._may = source, topics, may
        # Letters that left are told by the events of their topic.
        self._kinds = kinds | ({window.EVENTS} if window.DEAD in kinds else set())
        self._after = {key: window.parse_cursor(text) for key, text in after.items()}
        self._polls, self._pace = dict(polls), pace
        self._told = dict.fromkeys(polls, 0)
        self._news = asyncio.Event()
        self._position = 0
        # Per stream the last entry this follower has seen: what is not newer is not
        # told again, and the difference of the numbers is what it missed.
        self._seen: dict[str, tuple[window.Place, int | None]] = {}
        self._sent: deque[float] = deque(maxlen=pace.frames_per_s)
        self._ready: deque[Frame] = deque()
        self._past: AsyncIterator[list[Frame]] | None = None
        self._up = True

    async def __aenter__(self) -> Following:
        await self._source.join(self._topics)
        self._begin(self._after)
        self._source.window.listen(self._news)
        for poll in self._polls.values():
            poll.listen(self._news)
        self._news.set()
        return self

    def _begin(self, after: Mapping[str, tuple[str, int | None]]) -> None:
        """Tell what came since these cursors, and from there on what comes.

        The seam between past and future, in one step without an await: entries up to a
        stream's cursor lie in the past and are read from the stream, all others come
        through the window at this position or later. None is lost, none doubled.
        """
        self._position = self._source.window.end
        tailer = self._source.tailer
        marks = {
            each.key: (each.cursor, each.index)
            for each in tailer.streams.values()
            if each.kind in self._kinds and self._wants(each.topic)
        }
        for key, (entry_id, index) in {**after, **marks}.items():
            self._seen[key] = (records.place_of(entry_id), index)
        pages = past.Pages(self._pace.rows_per_frame, self._pace.catch_up_rows)
        self._past = past.catch_up(tailer, after, marks, self._seen, pages)

    def cursor(self, stream: str) -> str | None:
        """From where to resume a stream now; None for one that is not followed."""
        if stream not in self._seen:
            return None
        (ms, seq), index = self._seen[stream]
        return window.cursor_text(f"{ms}-{seq}", index)

    async def __aexit__(self, *exc: object) -> None:
        self._source.window.leave(self._news)
        for poll in self._polls.values():
            poll.leave(self._news)
        self._source.part(self._topics)

    def __aiter__(self) -> Following:
        return self

    async def __anext__(self) -> Frame:
        """The next frame; never more of them in a second than settings allow."""
        while not self._ready:
            if self._past is not None:
                await self._slot()
                self._ready.extend(await self._more_past())
                continue
            if not self._waits():
                await self._pause()
            await self._slot()
            self._ready.extend(self._collect())
        await self._slot()
        self.charge()
        return self._ready.popleft()

    def charge(self) -> None:
        """Count one frame, also for whoever makes several of one."""
        self._sent.append(time.monotonic())

    async def _more_past(self) -> list[Frame]:
        assert self._past is not None
        try:
            return await anext(self._past)
        except StopAsyncIteration:
            self._past = None
            return [Frame("live")]

    def _waits(self) -> bool:
        """Whether there is something to look at now."""
        polls = self._polls.items()
        return (
            self._position < self._source.window.end
            or self._up != self._source.tailer.up
            or any(poll.version > self._told[name] for name, poll in polls)
        )

    async def _pause(self) -> None:
        self._news.clear()
        try:
            await asyncio.wait_for(self._news.wait(), 1.0)
        except TimeoutError:
            return

    async def _slot(self) -> None:
        """Wait until another frame may go: at most so many in any second.

        They are spread evenly, so that each carries what came meanwhile; one that is
        late does not make those after it late as well.
        """
        if not self._sent:
            return
        most = self._pace.frames_per_s
        at = self._sent[-1] + 1 / most
        behind = self._source.window.end - self._position
        if behind > self._pace.rows_per_frame or self._past is not None:
            at = 0.0
        if len(self._sent) == most:
            at = max(at, self._sent[0] + 1)
        left_s = at - time.monotonic()
        if left_s > 0:
            await asyncio.sleep(left_s)

    def _collect(self) -> list[Frame]:
        """What is new, as frames."""
        found: list[Frame] = []
        if self._up != self._source.tailer.up:
            self._up = not self._up
            found.append(Frame("bus", {"up": self._up}))
        for name, poll in self._polls.items():
            if poll.version > self._told[name]:
                self._told[name] = poll.version
                found.append(Frame(name, {name: poll.value}))
        if self._position < self._source.window.start:
            return found + self._skipped()
        return found + frames.of_items(self._next_items())

    def _next_items(self) -> list[Item]:
        items: list[Item] = []
        size = 0
        for item in self._source.window.since(self._position, _SCAN):
            self._position += 1
            if not self._is_new(item):
                continue
            self._seen[item.stream] = (item.place, item.index)
            items.append(item)
            size += min(item.size, window.ROW_CHARS)
            if len(items) >= self._pace.rows_per_frame or size >= frames.FRAME_CHARS:
                break
        return items

    def _is_new(self, item: Item) -> bool:
        kind = window.RESULTS if item.kind == window.GAP else item.kind
        if kind not in self._kinds or not self._wants(item.topic):
            return False
        seen = self._seen.get(item.stream)
        if item.kind == window.GAP:
            # One that lies before the seam was told, or belongs to nobody here.
            return not seen or seen[1] is None or (item.index or 0) > seen[1]
        return not seen or item.place > seen[0]

    def _wants(self, topic: str) -> bool:
        asked = self._topics is None or topic in self._topics
        return asked and self._may(topic)

    def _skipped(self) -> list[Frame]:
        """The window went past us: say what we missed and go on at its end.

        Where we are to be told all there is, what we missed is the past once more.
        """
        if self._pace.catch_up_rows is None:
            self._begin(
                {
                    key: (f"{ms}-{seq}", index)
                    for key, ((ms, seq), index) in self._seen.items()
                }
            )
            return []
        self._position = self._source.window.end
        found = []
        for stream in self._source.tailer.streams.values():
            if stream.kind not in self._kinds or not self._wants(stream.topic):
                continue
            place, seen = self._seen.get(stream.key, ((0, 0), None))
            if records.place_of(stream.cursor) <= place:
                continue
            missed = None
            if seen is not None and stream.index is not None:
                missed = stream.index - seen
            self._seen[stream.key] = (records.place_of(stream.cursor), stream.index)
            if stream.kind != window.EVENTS:
                cursor = window.cursor_text(stream.cursor, stream.index)
                found.append(frames.gap(stream.key, missed, cursor))
        return found
