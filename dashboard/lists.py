"""The lists behind the pages of tasks, results and dead letters."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import bus
from bus import abreast, browse, errors
from bus import topics as topic_room
from bus.abreast import Ask
from bus.messages import Task
from bus.sought import Sought
from dashboard import formats, paging, sifting
from dashboard.seeking import Moment
from dashboard.watched import Looked, Watched

Row = dict[str, Any]
PAGE: Final = 50
# The order of the tabs and of the list that shows all of them.
TABS: Final = (
    "running",
    "waiting",
    "delayed",
    "dead",
    "done",
    "cancelled",
    "discarded",
)
# A list over all topics reads each of them; beyond this many it asks to choose one.
TOPICS_MOST: Final = 200
_SEARCH_LOOK: Final = 200  # tasks at which a search looks at once


def results_page(
    facts: list[Row],
    before: str | None = None,
    after: str | None = None,
    count: int | None = None,
) -> paging.Page:
    """Result rows of these topics as a list shows them, each with `entry_id` and
    `topic`; `PAGE` of them."""
    names = _busiest(facts, "results")
    return paging.read(names, _briefly, count or PAGE, before, after)


def _briefly(asks: Sequence[Ask]) -> list[list[abreast.Found]]:
    """Result rows without what a list does not show: 50 of 1 MiB, in objects, would
    be half a GiB."""
    return [
        [(entry_id, partial(_made_brief, make)) for entry_id, make in found]
        for found in abreast.results(asks)
    ]


def _made_brief(make: Callable[[], Row]) -> Row:
    return _brief(make())


def _brief(row: Row) -> Row:
    row.pop("task", None)
    if "result" in row:
        row["result"] = formats.preview(row["result"])
    return row


def results_watched(
    facts: list[Row], watched: Watched, count: int, before: str | None = None
) -> paging.Page:
    """The `count` newest result rows of these topics that are watched (`sifting`)."""

    def fits(row: Row) -> bool:
        return watched.fits(Looked(row))

    names = _busiest(facts, "results")
    return sifting.sift(names, abreast.results, fits, count, before, shown=_brief)


def dead_page(
    facts: list[Row],
    before: str | None = None,
    after: str | None = None,
    count: int | None = None,
) -> paging.Page:
    """Dead letters of these topics, `PAGE` of them."""
    names = _busiest(facts, "dead")
    return paging.read(names, abreast.dead, count or PAGE, before, after)


def dead_sought(
    facts: list[Row], sought: Sought, count: int, before: str | None = None
) -> paging.Page:
    """The `count` newest dead letters of these topics that fit (`sifting`)."""
    names = _busiest(facts, "dead")
    return sifting.sift(names, abreast.dead, sought.fits, count, before, sought.passed)


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks with the place of the next page, None after the last.

    `looked` is at how many tasks was looked for them.
    """

    tasks: list[Task]
    next: str | None
    looked: int


def tasks_page(
    facts: list[Row],
    states: Sequence[str],
    count: int,
    cursor: str | None = None,
    fits: Callable[[Task], bool] | None = None,
) -> TaskPage:
    """Tasks state by state, within a state topic by topic: `count` of them, and where
    only those are wanted that fit somewhat more. A page that took more than a moment
    (`seeking`) has fewer.

    The place is `state/topic/cursor of the bus`; it stays true when topics come or go,
    since both lists have a fixed order. InvalidOption for a place that is none.
    """
    moment = Moment()
    found: list[Task] = []
    legs = _legs(facts, states)
    at, inner = _opened(cursor, legs, states) if cursor else (0, None)
    looked = 0
    while at < len(legs) and len(found) < count and not moment.over:
        state, topic = legs[at]
        most = _SEARCH_LOOK if fits else min(count - len(found), browse.PAGE_MOST)
        seen, inner = browse.list_tasks(topic, state, most, inner)
        found += map(_without_result, filter(fits, seen) if fits else seen)
        looked += len(seen)
        at += inner is None
    if at >= len(legs):
        return TaskPage(found, None, looked)
    state, topic = legs[at]
    return TaskPage(found, f"{state}/{topic}/{inner or ''}", looked)


def _without_result(task: Task) -> Task:
    """A task as a list shows it: the results of 50 may be half a GiB of objects."""
    return task if task.result is None else replace(task, result=None)


def states_of(state: str) -> Sequence[str]:
    """The states that an address means: one, or all of them; else InvalidOption."""
    if state and state not in TABS:
        raise errors.InvalidOption(f"no state {state!r:.40}")
    return (state,) if state else TABS


def _legs(facts: list[Row], states: Sequence[str]) -> list[tuple[str, str]]:
    """State and topic of each look, without those that count nothing."""
    legs = []
    for each in states:
        for row in facts:
            # Only the newest results are kept, the counters are for life.
            kept = row["results"] if each in _KEPT_AS_RESULTS else row[each]
            if row[each] and kept:
                legs.append((each, row["topic"]))
    return legs


_KEPT_AS_RESULTS: Final = ("done", "cancelled", "discarded")


def _opened(
    cursor: str, legs: list[tuple[str, str]], states: Sequence[str]
) -> tuple[int, str | None]:
    """The leg a place names, or the next one if it counts nothing any more."""
    state, _, rest = cursor.partition("/")
    topic, _, inner = rest.partition("/")
    if state not in states:
        raise errors.InvalidOption("the address names no place in this list")
    wanted = (states.index(state), topic)
    for at, (leg_state, leg_topic) in enumerate(legs):
        place = (states.index(leg_state), leg_topic)
        if place == wanted:
            return at, inner or None
        if place > wanted:
            return at, None
    return len(legs), None


def held_by(agent: Row) -> list[Task]:
    """What an agent runs now, among the first tasks that run in each of its topics."""
    found = []
    for topic in _topics_of(agent):
        running, _ = bus.list_tasks(topic, "running", _AGENT_LOOK)
        found += [task for task in running if task.agent == agent["agent_id"]]
    return found


def done_by(agent: Row, most: int = 20) -> paging.Page:
    """What an agent finished, the newest first, among as many of the newest results of
    its topics as a moment is enough for: each may have 1 MiB."""
    facts = topic_room.stats_of(_topics_of(agent))
    return results_watched(facts, Watched(agent=agent["agent_id"]), most)


def _topics_of(agent: Row) -> list[str]:
    """The topics an agent told of, as far as they exist: a record by hand may lie."""
    known = set(bus.list_topics())
    told = [name for name in agent["topics"] if isinstance(name, str) and name in known]
    return told[:_AGENT_TOPICS]


_AGENT_TOPICS: Final = 10
_AGENT_LOOK: Final = 100


def counts(facts: list[Row]) -> Row:
    """How many tasks there are per state, over these topics; ended ones in total."""
    return {state: sum(row[state] for row in facts) for state in TABS}


def topics(chosen: str = "") -> list[str]:
    """The names of all topics; NotFound where the chosen one is none of them."""
    names = bus.list_topics()
    if chosen and chosen not in names:
        raise errors.NotFound(f"no topic {chosen!r:.80}: nothing was ever sent to it")
    return names


def facts(topic: str = "") -> tuple[list[str], list[Row]]:
    """The names of all topics, and how the chosen one stands, or each of them by name;
    NotFound for an unknown one."""
    names = topics(topic)
    return names, topic_room.stats_of([topic] if topic else names)


def _busiest(facts: list[Row], name: str) -> list[str]:
    """The topics that have any, those with most if there are too many."""
    having = [row for row in facts if row[name]]
    if len(having) > TOPICS_MOST:
        having = heapq.nlargest(TOPICS_MOST, having, key=lambda row: row[name])
    return sorted(row["topic"] for row in having)


def left_out(facts: list[Row], name: str) -> int:
    """How many topics a list over all of them leaves out: it would read too many."""
    return max(0, sum(1 for row in facts if row[name]) - TOPICS_MOST)
