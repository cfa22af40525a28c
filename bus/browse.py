"""Pages of a topic's tasks by state; a page costs the same however many there are."""

from __future__ import annotations

import base64
from typing import Any, Final

import orjson

from . import (
    connection,
    errors,
    keys,
    letters,
    lookup,
    messages,
    records,
    refusals,
    scripts,
)
from .messages import Task

PAGE_MOST: Final = 1_000
_LEAF: Final = 50  # letters that are read at once: each may have a mebibyte
_LOOK_BYTES: Final = 4_000_000  # of one place; the scripts for the others have it too

# Where tasks of a state are, in the order in which they come. Waiting tasks that were
# handed over are taken before new ones, so they stand first here too.
_LIVE: Final = ("running", "handed", "fresh", "delayed")
_PLACES: Final[dict[str | None, tuple[str, ...]]] = {
    None: (*_LIVE, "dead", "ended"),
    messages.RUNNING: ("running",),
    messages.WAITING: ("handed", "fresh"),
    messages.DELAYED: ("delayed",),
    messages.DEAD: ("dead",),
    messages.DONE: ("ended",),
    messages.CANCELLED: ("ended",),
    messages.DISCARDED: ("ended",),
}


def list_tasks(
    topic: str, state: str | None = None, count: int = 50, cursor: str | None = None
) -> tuple[list[Task], str | None]:
    """A page of up to `count` tasks (1 to 1,000), with the cursor of the next page.

    Live tasks come in the order in which they are run: running, waiting (oldest first),
    delayed (next due first); then dead ones and ended ones, the newest first, as far as
    results are kept. `state` picks one of them. The cursor is None after the last page;
    pages may be short, since a look is bounded. Tasks that change their state between
    two pages may be missed or seen twice. InvalidOption for an unknown state, or a
    cursor that is not one of this topic and state.
    """
    keys.check_topic(topic)
    keys.check_count(count, PAGE_MOST)
    if state not in _PLACES:
        known = ", ".join(messages.STATES)
        raise errors.InvalidOption(f"state {state!r} is none of {known}")
    places = _PLACES[state]
    at, after = _opened(cursor, topic, state)
    found: list[Task] = []
    while at < len(places):
        tasks, after = _look(places[at], topic, state, after, count - len(found))
        found += tasks
        if after:
            return found, _closed(topic, state, at, after)
        at += 1
        if len(found) == count and at < len(places):
            return found, _closed(topic, state, at, "")
    return found, None


def _look(
    place: str, topic: str, state: str | None, after: str, count: int
) -> tuple[list[Task], str]:
    """Tasks of one place from behind `after`; where to go on, empty at its end."""
    if place == "dead":
        return _dead(topic, after, count)
    if place == "ended":
        last, flat = scripts.run("ended", topic, [after, count, state or ""])
        rows = [flat[at : at + 5] for at in range(0, len(flat), 5)]
        return [_ended(topic, *row) for row in rows], last
    last, flat = scripts.run("browse", topic, [place, after, count])
    tasks = [
        lookup.live_task(topic, *flat[at : at + 7]) for at in range(0, len(flat), 7)
    ]
    return tasks, last


def _dead(topic: str, after: str, count: int) -> tuple[list[Task], str]:
    key = keys.dead_stream(topic)
    found: list[Task] = []
    size = 0
    while True:
        want = min(count - len(found), _LEAF)
        with refusals.guard():
            top = keys.below(after) if after else "+"
            rows = connection.reader().xrevrange(key, top, "-", count=want)
        for sid, fields in rows:
            found.append(lookup.dead_task(letters.parse_letter(topic, sid, fields)))
            size += sum(map(len, fields.values()))
        if len(rows) < want:
            return found, ""
        after = rows[-1][0]
        if len(found) == count or size > _LOOK_BYTES:
            return found, after


def _ended(
    topic: str, entry_id: str, task_id: str, json: str, epoch: str, log: str
) -> Task:
    fields = {"json": json, "epoch": epoch, "attempts": log}
    return lookup.done_task(topic, task_id, fields, entry_id)


def _closed(topic: str, state: str | None, at: int, after: str) -> str:
    return sealed([topic, state, at, after])


def _opened(cursor: str | None, topic: str, state: str | None) -> tuple[int, str]:
    """The place and position in a cursor, or InvalidOption: it came from outside."""
    if cursor is None:
        return 0, ""
    within = f"topic {topic!r}" + (f" and state {state!r}" if state else "")
    wrong = errors.InvalidOption(f"cursor {cursor!r:.80} is none of {within}")
    try:
        own_topic, own_state, at, after = unsealed(cursor)
        places = _PLACES[own_state]
        fits = (own_topic, own_state) == (topic, state) and type(at) is int
        if not fits or not 0 <= at < len(places) or not isinstance(after, str):
            raise wrong
        if after and places[at] == "delayed":
            due, _, task_id = after.partition(" ")
            if records.number(due, 15) is None:
                raise wrong
            if keys.check_task_id(task_id) != task_id:
                raise wrong
        elif after and (keys.check_entry(after) != after or after in keys.EDGES):
            raise wrong
    except (AttributeError, TypeError, ValueError, KeyError):
        raise wrong from None
    return at, after


def sealed(place: list[Any]) -> str:
    """A place in a list as the text of a cursor."""
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def unsealed(cursor: str) -> Any:
    """What is in a cursor, which came from outside; ValueError where it is none."""
    padded = cursor + "=" * (-len(cursor) % 4)
    return orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
