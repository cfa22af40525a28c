"""One topic as its page shows it, at first and live.

The live feed paints the same partials about once a second, for all who look at the
topic together; the forms of the page are no part of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from django.template import loader

import bus
from bus import errors, footprint
from bus.tasks import new_id
from dashboard import alike, charts, formats, links, lists, live, queries

Row = dict[str, Any]
PARTS: Final = (
    *("note", "switch", "tiles", "groups"),
    *("running", "waiting", "agents", "facts", "charts"),
)
LATEST: Final = 10  # rows of a list
LETTERS: Final = 5  # as in topic.html, which keeps so many


@dataclass(frozen=True, slots=True)
class TopicNow:
    """A topic at one moment: `facts` for clients, `parts` for pages, HTML by name.

    Both are empty once it is deleted.
    """

    facts: Row
    parts: dict[str, str]


def standing(topic: str, span: str = charts.HOUR) -> Row:
    """What is known of a topic: its counts, agents, failures, first tasks, charts.

    NotFound for a topic that nobody sent to, or that was deleted.
    """
    row, serving, minutes = queries.one_topic(topic)
    running, _ = bus.list_tasks(topic, "running", LATEST)
    waiting, _ = bus.list_tasks(topic, "waiting", LATEST)
    return {
        "row": row,
        "running": running,
        "waiting": waiting,
        "agents": serving[:LATEST],
        "groups": alike.failures([row], most=5, topic=topic).rows,
        "chart": charts.of_topic(topic, span, minutes),
    }


def context(topic: str, draft: Row | None = None, span: str = charts.HOUR) -> Row:
    """What the page shows; `draft` is a form that could not be sent yet."""
    found = standing(topic, span)
    facts = [found["row"]]
    results = lists.results_page(facts, count=LATEST)
    letters = lists.dead_page(facts, count=LETTERS)
    return {
        **found,
        "memory": footprint.of_topic(topic),
        "section": "topics",
        "results": results.items,
        "page": letters,
        "draft": draft or {"task_id": new_id(), "task": ""},
        "live": {
            **live.state(facts, topic=topic, results=results, dead=letters),
            # The page is read again by its own address, also where a form led here.
            "page": links.topic(topic),
        },
    }


def now(topic: str) -> TopicNow:
    """The topic for its live page."""
    try:
        found = standing(topic)
    except errors.NotFound:
        return TopicNow({}, {})
    parts = {
        name: formats.seen(
            loader.render_to_string(f"dashboard/topic/_{name}.html", found)
        )
        for name in PARTS
    }
    tasks = {name: [*map(_told, found[name])] for name in ("running", "waiting")}
    facts = {name: found[name] for name in ("row", "agents")}
    groups = [{name: each[name] for name in _OF_GROUP} for each in found["groups"]]
    return TopicNow({**facts, **tasks, "groups": groups}, parts)


_OF_GROUP: Final = ("fingerprint", "topic", "count", "first_at", "last_at", "error")


def _told(task: bus.Task) -> Row:
    """A task in a snapshot; its payload is a call away."""
    names = ("id", "attempt", "agent", "enqueued_at", "started_at")
    return {name: getattr(task, name) for name in names}
