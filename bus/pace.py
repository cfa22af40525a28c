"""How soon a topic's agents start what waits, from what they told and what ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_ENDS_LEAST: Final = 5  # fewer tell of chance
_ROUNDS_LEAST: Final = 6  # mean runs; within fewer it matters that they end in waves
# Why an agent takes none of a topic's tasks for now; the latter for all its topics.
STUCK: Final = "stuck"
ALONE: Final = "alone"
_WHY: Final = {
    STUCK: "takes nothing: too many of its runs go on that were given up on",
    ALONE: "takes nothing else until a task that lost its agents has run alone",
}
# What no process of an agent exceeds, however short its tasks are.
_AGENT_MOST_PER_S: Final = 20_000.0


@dataclass(frozen=True, slots=True)
class Ends:
    """What ended in a topic while a task always waited; ms of the server's clock.

    Since `since_ms` `count` tasks ended, the first at `first_ms`. The minutes of that
    time counted `done` tasks and `tried` attempts that ended, also as failed.
    """

    now_ms: int
    since_ms: int
    first_ms: int
    count: int
    done: int
    tried: int


@dataclass(frozen=True, slots=True)
class Crew:
    """Those who can take tasks of a topic now.

    `slots` are those the agents told of, `free` how many of them hold nothing, those of
    agents by hand included; `per_s` is what the slots start by their mean run time,
    None if nobody knows that; `run_s` is that time. `held_up` says why none of them
    takes tasks, '' where one does.
    """

    slots: int
    free: int
    per_s: float | None
    run_s: float | None
    held_up: str = ""


def crew(
    topic: str,
    rows: Sequence[Mapping[str, Any]],
    held: Mapping[str, int],
    idle_hands: int,
    mean_s: float | None,
) -> Crew:
    """The crew of registered agents (rows of `agents.overview`).

    `held` is how many tasks of the topic each consumer holds, `idle_hands` how many
    agents by hand beside these hold none, `mean_s` what a run of the topic took lately:
    it stands in for agents that ended none yet.
    """
    slots: list[int] = [slots_of(row, topic) for row in rows]
    own = [_run_s(row, topic) for row in rows]
    told = [each for each in own if each is not None]
    run_s = sum(told) / len(told) if told else mean_s
    free = idle_hands + sum(
        max(0, _most_of(row, topic) - held.get(row["consumer"] or row["agent_id"], 0))
        for row in rows
    )
    per_s = None
    if run_s is not None and any(slots):
        per_s = sum(
            min(_AGENT_MOST_PER_S, count / max(run_s if each is None else each, 1e-6))
            for count, each in zip(slots, own, strict=True)
        )
    held_up = "" if idle_hands else _held_up(topic, rows)
    return Crew(sum(slots), free, per_s, run_s, held_up)


def _held_up(topic: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Why none of these agents takes a task of the topic; '' where one does."""
    why = [_WHY.get(str(_share(row, topic).get("why")), "") for row in rows]
    if not why or not all(why):
        return ""
    if len(why) == 1:
        return f"the only agent {why[0]}"
    return f"none of {len(why):,} agents takes it: one {why[0]}"


def _most_of(row: Mapping[str, Any], topic: str) -> int:
    """How many tasks it takes at once, as far as is known: one if it told nothing."""
    return 0 if _share(row, topic).get("why") in _WHY else max(1, slots_of(row, topic))


def slots_of(row: Mapping[str, Any], topic: str) -> int:
    """How many tasks of the topic an agent runs at once; 0 where it does not tell.

    Agents of earlier versions tell one number for all their topics: a fair share of it.
    """
    share = _share(row, topic).get("slots")
    if isinstance(share, int):
        return share
    slots, served = row["slots"], len(row["topics"])
    return max(1, slots // max(1, served)) if isinstance(slots, int) and slots else 0


def _run_s(row: Mapping[str, Any], topic: str) -> float | None:
    run_s = _share(row, topic).get("run_s")
    return run_s if isinstance(run_s, (int, float)) and run_s >= 0 else None


def _share(row: Mapping[str, Any], topic: str) -> Mapping[str, Any]:
    share = row["per_topic"].get(topic)
    return share if isinstance(share, dict) else {}


def per_s(found: Crew, ends: Ends | None) -> float | None:
    """How many tasks start per second while tasks wait; None if nothing tells.

    What ended is believed where it is more than chance, and covers more than the first
    waves of tasks that began together; at most twice what the slots make likely,
    because a topic that is emptied by hand also ends tasks.
    """
    seen = None if ends is None else _seen_per_s(found, ends)
    if seen is None:
        return found.per_s
    return seen if found.per_s is None else min(seen, 2 * found.per_s)


def _seen_per_s(found: Crew, ends: Ends) -> float | None:
    if ends.count < _ENDS_LEAST or not ends.done:
        return None
    # Attempts that fail take their turns too, and end no task.
    count = min(ends.count, ends.done) * ends.tried / ends.done
    run_s = found.run_s or 0.0
    # A queue may be older than those who serve it: they began a run before its end.
    began_ms = max(ends.since_ms, ends.first_ms - 1000 * run_s)
    span_s = (ends.now_ms - began_ms) / 1000
    if span_s <= 0 or (found.per_s and span_s < _ROUNDS_LEAST * run_s):
        return None
    return count / span_s
