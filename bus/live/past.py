"""What a follower missed, read from the streams up to where its live part begins."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, Final, NamedTuple

from .. import records, refusals
from . import frames, reading, window
from .frames import Frame
from .reading import Stream
from .tailer import Tailer
from .window import Item, Place

Mark = tuple[str, int | None]  # an entry id and, where known, its number

_EVENTS_BACK_MS: Final = 60_000


class Pages(NamedTuple):
    """Rows of a page, and how many of all streams together before a gap is told instead
    (None: any)."""

    rows: int
    most: int | None


async def catch_up(
    tailer: Tailer,
    after: Mapping[str, Mark],
    marks: Mapping[str, Mark],
    seen: dict[str, tuple[Place, int | None]],
    pages: Pages,
) -> AsyncIterator[list[Frame]]:
    """Frames of what lies between the cursors `after` and the marks, stream by stream.

    `seen` is set forward where a cursor lies beyond its mark. Events are none of the
    rows that are counted: no page shows them.
    """
    streams = dict(tailer.streams)
    left = pages.most
    for key, cursor in _from(streams, after, marks).items():
        stream, (mark, _) = streams[key], marks[key]
        if records.place_of(cursor[0]) > records.place_of(mark):
            end = await _end(tailer, stream)
            place = records.place_of(cursor[0])
            # A page that is newer than the feed's last read: what it shows is not told
            # again. A cursor beyond the stream's end is none of ours (the server may
            # have lost its newest entries) and must not hide what comes.
            if seen[key][0] < place <= records.place_of(end.last or "0-0"):
                seen[key] = (place, cursor[1])
        elif cursor[0] != mark:
            part = pages if stream.kind == window.EVENTS else Pages(pages.rows, left)
            async for found in _stretch(tailer, stream, cursor, marks[key], part):
                yield found
                if left is not None:
                    left -= sum(len(frame.items) for frame in found)


def _from(
    streams: Mapping[str, Stream],
    after: Mapping[str, Mark],
    marks: Mapping[str, Mark],
) -> dict[str, Mark]:
    """Where to begin in each stream.

    A page brings no cursor for the events, by which letters leave: it is told those of
    the last minute, and takes no harm from hearing them twice.
    """
    begin = {key: at for key, at in after.items() if key in marks}
    for key in after.keys() & marks.keys():
        stream = streams[key]
        events = window.stream_of(window.EVENTS, stream.topic)
        if stream.kind == window.DEAD and events in marks:
            last_ms = records.place_of(marks[events][0])[0]
            back = f"{max(0, last_ms - _EVENTS_BACK_MS)}-0"
            begin.setdefault(events, (back, None))
    return begin


async def _stretch(
    tailer: Tailer, stream: Stream, cursor: Mark, mark: Mark, pages: Pages
) -> AsyncIterator[list[Frame]]:
    """Frames of one stream from behind `cursor` up to `mark`, in pages."""
    at, index = cursor
    behind = None if index is None or mark[1] is None else mark[1] - index
    end = await _end(tailer, stream)
    if stream.kind == window.RESULTS and at == "0-0" and mark[1] is not None:
        # Whoever wants all there is misses nothing of what was trimmed before.
        index = end.added - end.held
        behind = mark[1] - index
    trimmed = not end.held or records.place_of(end.first) > records.place_of(at)
    if stream.kind == window.RESULTS and trimmed and at != "0-0":
        # Trimmed from its old end: what is gone are the first so many of all.
        missed = None
        if index is not None and behind is not None:
            missed = max(0, end.added - end.held - index)
            index, behind = index + missed, behind - missed
        if missed != 0:
            yield [frames.gap(stream.key, missed, window.cursor_text(at, index))]
    rows = 0
    while records.place_of(at) < records.place_of(mark[0]):
        most = pages.most
        if most is not None and (most <= 0 or max(rows, behind or 0) > most):
            # Whoever is that far behind reads the page again instead.
            left = None if behind is None else behind - rows
            yield [frames.gap(stream.key, left, window.cursor_text(*mark))]
            return
        page = await _page(tailer, stream, (at, index), mark, pages.rows)
        if not page:
            break
        rows += len(page)
        at, index = page[-1].entry_id, page[-1].index
        yield frames.of_items(page)
    if stream.kind == window.RESULTS and behind is not None and behind > rows:
        # Trimmed while we read: it is known how many, not between which.
        cut = frames.gap(stream.key, behind - rows, window.cursor_text(*mark))
        yield [cut]


async def _end(tailer: Tailer, stream: Stream) -> reading.End:
    ends = await reading.ends_of(tailer.asking(), stream.topic)
    return ends.of[stream.kind]


async def _page(
    tailer: Tailer, stream: Stream, cursor: Mark, mark: Mark, count: int
) -> list[Item]:
    """The next rows behind the cursor, each with its number where ours is known.

    If rows are trimmed while we read, the numbers stay behind by as many: whoever
    resumes from one is told of these as well.
    """
    at, before = cursor if stream.kind == window.RESULTS else (cursor[0], None)
    with refusals.guard():
        reply: Any = await tailer.ask(
            "XRANGE", stream.key, f"({at}", mark[0], "COUNT", count
        )
    items = []
    for nth, (entry_id, flat) in enumerate(reply, 1):
        number = None if before is None else before + nth
        fields = dict(zip(flat[::2], flat[1::2], strict=False))
        item = (stream.kind, stream.key, stream.topic, entry_id)
        items.append(Item(*item, mark[1] if entry_id == mark[0] else number, fields))
    return items
