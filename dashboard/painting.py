"""HTML of live rows and regions: each made once per process, whoever looks at it.

Rows and regions are the partials of the pages, so what comes live looks like what was
there at first. Regions are rendered in threads: a long table must not hold up the loop.
"""

from __future__ import annotations

import asyncio
import functools
import heapq
import weakref
from typing import Any, Final

import orjson
from django.template import loader

from bus import feed, roles
from bus.feed import Feed
from bus.live import window
from bus.live.polls import Poll
from bus.live.window import Item
from dashboard import formats, frame, queries, topic_page
from dashboard.queries import Standing

AGENTS: Final = "agents"
TOPICS: Final = "topics"
TOPIC: Final = "topic"
TILES: Final = "tiles"
SAYS: Final = "says"
BADGE: Final = "badge"
_SLICE: Final = 10  # rows made without a pause
REGIONS: Final = (AGENTS, TOPICS, TILES, SAYS, BADGE)
_TEMPLATES: Final = {
    AGENTS: "_agent_rows",
    TOPICS: "_topic_rows",
    TILES: "_tiles",
    SAYS: "_says",
    BADGE: "_badge",
}


class Painter:
    """What the pages on one feed look at together."""

    def __init__(self) -> None:
        self.standing = Poll(queries.standing)
        # Weak: a topic that nobody looks at any more is forgotten.
        self._topics: weakref.WeakValueDictionary[str, Poll] = (
            weakref.WeakValueDictionary()
        )
        self._busy: asyncio.Future[str] | None = None
        self._painted: dict[tuple[str, int | None], str] = {}
        self._of: Standing | None = None

    def topic(self, name: str) -> Poll:
        """Snapshots of one topic (`topic_page.TopicNow`), painted in their thread."""
        poll = self._topics.get(name)
        if poll is None:
            poll = Poll(functools.partial(topic_page.now, name))
            self._topics[name] = poll
        return poll

    async def rows(self, items: list[Item], role: str) -> None:
        """Make the rows of these items, so that `row` need not.

        On the loop, a few at a time (2 ms): a thread would fight the loop for the
        interpreter, and 50 pages at 1,000 rows a second then fell seconds behind.
        """
        missing = [item for item in items if not item.has(_name(item, role))]
        for at in range(0, len(missing), _SLICE):
            for item in missing[at : at + _SLICE]:
                row(item, role)
            await asyncio.sleep(0)

    async def region(self, now: Standing, name: str, most: int | None = None) -> str:
        """The content of a live region; of `topics` the `most` with a backlog first, of
        `agents` the first `most` of their table."""
        if self._of is not now:
            self._of, self._painted = now, {}
        key = (name, most if name in (TOPICS, AGENTS) else None)
        painted = self._painted
        while key not in painted:
            if self._busy is not None:
                await asyncio.wait([self._busy])  # it may make what we want
                continue
            # No asyncio.Lock: once contended it would hold its loop for ever.
            self._busy = asyncio.ensure_future(asyncio.to_thread(_paint, now, *key))
            try:
                painted[key] = await self._busy
            finally:
                self._busy = None
        return painted[key]


def row(item: Item, role: str) -> str:
    """The JSON of one row with its HTML."""
    return item.made(_name(item, role), lambda each: _row(each, role))


def _name(item: Item, role: str) -> str:
    # Verbs of a dead letter differ by role, results look the same to everybody.
    return f"html {role}" if item.kind == window.DEAD else "html"


def _row(item: Item, role: str) -> str:
    told = {"entry_id": item.entry_id, "id": item.task_id, "topic": item.topic}
    if item.kind == window.DEAD:
        context: dict[str, Any] = {"letter": item.letter(), "can": _can(role)}
        html = loader.render_to_string("dashboard/_dead_row.html", context)
    else:
        html = loader.render_to_string(
            "dashboard/_result_row.html", {"row": item.row()}
        )
    return orjson.dumps({**told, "html": formats.seen(html)}).decode()


def _can(role: str) -> dict[str, bool]:
    allowed = roles.VERBS.get(role, frozenset())
    return {verb: verb in allowed for verb in frame.VERBS}


def _paint(now: Standing, name: str, most: int | None) -> str:
    topics, agents = now.topics, now.agents[:most]
    if most is not None:
        topics = heapq.nsmallest(most, topics, key=_busiest_first)
    context: dict[str, Any] = {"agents": agents, "topics": topics, "totals": now.totals}
    if name == SAYS:
        context["problems"] = queries.problems(now, queries.checks(now.topics))
    text = loader.render_to_string(f"dashboard/{_TEMPLATES[name]}.html", context)
    return formats.seen(text)


def _busiest_first(row: dict[str, Any]) -> tuple[int, str]:
    return -row["backlog"], row["topic"]


_painters: weakref.WeakKeyDictionary[Feed, Painter] = weakref.WeakKeyDictionary()


def shared() -> Painter:
    """The painter of the running loop's feed."""
    live = feed.shared()
    painter = _painters.get(live)
    if painter is None:
        painter = _painters[live] = Painter()
    return painter
