"""What the overview, the topics and the agents pages show, computed in one place.

The live feed renders the same partials, so it takes its contexts from here as well.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import bus
from bus import agents as registry
from bus import dead, errors, health, rates, records, words
from bus import topics as topic_room
from dashboard import links, lists

Row = dict[str, Any]
SPARK_MINUTES: Final = 60
SHARES: Final = (0.5, 0.95, 0.99)  # of the tasks of the last hour
# An agent that reports one of these can still take tasks.
_SERVES: Final = ("live", "idle", "late")
# A task that has just been sent is not yet a problem.
_PATIENCE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Standing:
    """How the whole mesh stands, read at one moment (a few round trips)."""

    topics: list[Row]
    agents: list[Row]
    totals: Row


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing somebody should look at: a sentence, where to, how bad (bad, warn)."""

    says: str
    url: str
    tone: str


def standing() -> Standing:
    """Every topic and agent as the pages show them, with totals over all topics."""
    names = bus.list_topics()
    seen = registry.seen()
    with ThreadPoolExecutor(1) as beside:
        # While the server looks at the topics, we read what the agents told.
        counted = beside.submit(topic_room.stats_of, names)
        told = [row for each in seen if (row := each.row())]
    facts = counted.result()
    per_topic = rates.of_topics(names, SPARK_MINUTES)
    serving = _serving(told)
    rows = [
        _topic_row(row, serving[row["topic"]], per_topic[row["topic"]]) for row in facts
    ]
    return Standing(rows, agent_rows(told), _totals(rows, told))


def one_topic(topic: str) -> tuple[Row, list[Row], tuple[rates.Span, ...]]:
    """One topic as `standing` shows it, its agents, its last hour minute by minute.

    NotFound for an unknown one.
    """
    lists.topics(topic)
    told = registry.serving(topic)
    measured = rates.of_topics([topic], SPARK_MINUTES)[topic]
    row = _topic_row(bus.stats(topic), _serving(told)[topic], measured)
    row["wait_ms"] = [measured.wait_ms(share) for share in SHARES]
    row["run_ms"] = [measured.run_ms(share) for share in SHARES]
    agents = agent_rows(each for each in told if topic in each["topics"])
    return row, agents, measured.minutes


def _serving(told: list[Row]) -> Counter[str]:
    """How many agents say of each topic that they serve it."""
    able = (agent for agent in told if agent["state"] in _SERVES)
    # A record by hand may name anything as its topics.
    return Counter(
        topic for agent in able for topic in {*filter(_is_text, agent["topics"])}
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _topic_row(facts: Row, told: int, measured: rates.Rates) -> Row:
    """The counts of one topic with who serves it and how fast it moves."""
    # Agents by hand may read without having told which topics they serve.
    serving = max(told, facts["readers"])
    pace, waiting = measured.done_per_minute, facts["waiting"]
    return {
        **facts,
        "agents": serving,
        "done_per_minute": pace,
        # At the pace of the last minute, if nothing more comes.
        "empty_s": waiting / pace * 60 if waiting and pace else None,
        "spark": measured.done,
        "note": _note(facts, serving),
    }


def _note(facts: Row, serving: int) -> str:
    """The one word that stands beside a topic's name, if any."""
    limits = facts["limits"]
    if facts["paused"]:
        return "paused"
    if facts["backlog"] >= limits["backlog_max"] or facts["dead"] >= limits["dead_max"]:
        return "full"
    if facts["waiting"] and not serving:
        return "no agent"
    return ""


def agent_rows(told: Iterable[Row]) -> list[Row]:
    """Agents for their table: what needs attention first, the gone ones last."""
    return sorted(told, key=_agent_place)


_AGENT_ORDER: Final = {
    "deaf": 0,
    "late": 1,
    "draining": 2,
    "live": 3,
    "idle": 3,
    "gone": 4,
}


def _agent_place(row: Row) -> tuple[int, str]:
    return _AGENT_ORDER[row["state"]], row["agent_id"]


def agent_place(row: Row) -> str:
    """Where an agent stands in `agent_rows`, for the address of the page behind it."""
    rank, agent_id = _agent_place(row)
    return f"{rank}.{agent_id}"


def agents_after(rows: list[Row], place: str) -> list[Row]:
    """Those of `agent_rows` behind a place, all without one; InvalidOption."""
    if not place:
        return rows
    text, _, agent_id = place.partition(".")
    rank = records.number(text, 3)
    if rank is None:
        raise errors.InvalidOption("the address names no place in this list")
    behind = rank, agent_id
    return [row for row in rows if _agent_place(row) > behind]


def agent_totals(told: list[Row]) -> Row:
    """How many agents there are, late and gone ones among them."""
    states = [agent["state"] for agent in told]
    return {
        "agents": sum(state != "gone" for state in states),
        "agents_late": states.count("late") + states.count("deaf"),
        "agents_gone": states.count("gone"),
    }


def _totals(rows: list[Row], told: list[Row]) -> Row:
    oldest = max(
        (row for row in rows if row["oldest_s"] is not None),
        key=lambda row: row["oldest_s"],
        default=None,
    )
    summed = {
        name: sum(row[name] for row in rows)
        for name in (
            *("waiting", "running", "delayed", "dead", "dead_groups", "done"),
            *("cancelled", "discarded", "backlog", "done_per_minute"),
        )
    }
    sparks = [row["spark"] for row in rows]
    return {
        **summed,
        "oldest_s": oldest and oldest["oldest_s"],
        "oldest_topic": oldest and oldest["topic"],
        "topics": len(rows),
        "dead_topics": sum(1 for row in rows if row["dead"]),
        "spark": [sum(minute) for minute in zip(*sparks, strict=True)],
        **agent_totals(told),
    }


def problems(now: Standing, checks: list[health.Check]) -> list[Problem]:
    """What needs somebody, the worst first; empty means all clear."""
    found = [
        Problem(f"Redis: {check.says}", "#redis", check.status)
        for check in of_server(checks)
        if check.status != health.OK
    ]
    for row in now.topics:
        found += _of_topic(row)
    late = [agent for agent in now.agents if agent["state"] in ("late", "deaf")]
    for agent in late:
        words = {"late": "misses its heartbeats", "deaf": "beats but reads no tasks"}
        says = f"{agent['agent_id']} {words[agent['state']]}"
        found.append(Problem(says, links.agent(agent["agent_id"]), "warn"))
    return sorted(found, key=lambda problem: problem.tone != "bad")


def _of_topic(row: Row) -> Iterable[Problem]:
    topic, url = row["topic"], links.topic(row["topic"])
    if row["ledger"]["drift"]:
        text = f"The ledger of {topic} is off by {row['ledger']['drift']:+,}"
        yield Problem(text, url, "bad")
    if row["note"] == "full":
        yield Problem(f"{topic} is full and refuses new tasks", url, "bad")
    tasks = words.noun(row["waiting"], "task waits", "tasks wait")
    waits = f"{row['waiting']:,} {tasks}"
    waited = (row["oldest_s"] or 0) > _PATIENCE_S
    if row["note"] == "no agent" and waited:
        yield Problem(f"{waits} in {topic} and no live agent serves it", url, "bad")
    if row["note"] == "paused" and row["waiting"]:
        yield Problem(f"{waits} in {topic}, which is paused", url, "warn")
    if row["dead"]:
        noun = words.noun(row["dead"], "dead letter", "dead letters")
        text = f"{row['dead']:,} {noun} in {topic}"
        yield Problem(text, links.dead_of(topic), "warn")


_HEALTH_KEEP_S: Final = 5.0
_health_lock = threading.Lock()
_health: tuple[float, list[health.Check]] = (-_HEALTH_KEEP_S, [])


def checks(facts: list[Row]) -> list[health.Check]:
    """Findings about the server, at most 5 s old: they ask for much, change seldom.

    `facts` is how every topic stands now.
    """
    global _health
    with _health_lock:
        at, found = _health
        if time.monotonic() - at > _HEALTH_KEEP_S:
            found = health.checks(facts)
            _health = (time.monotonic(), found)
        return found


_DEAD_KEEP_S: Final = 2.0
_dead_lock = threading.Lock()  # of its own: no page waits for the findings
_dead: tuple[float, int | None] = (-_DEAD_KEEP_S, None)


def dead_letters() -> int | None:
    """How many there are, at most 2 s old, for every page; None where Redis is away."""
    global _dead
    with _dead_lock:
        at, found = _dead
        if time.monotonic() - at > _DEAD_KEEP_S:
            try:
                found = dead.count_dead()
            except errors.BusUnavailable:
                found = None  # the page itself says so, if it needs Redis
            _dead = (time.monotonic(), found)
        return found


def of_server(found: list[health.Check]) -> list[health.Check]:
    """Those about the server; topics and agents have pages of their own."""
    return [each for each in found if not each.name.startswith(("topic", "agents"))]


def forget_checks() -> None:
    """Ask again, for tests that change the server or its letters."""
    global _health, _dead
    _health = (-_HEALTH_KEEP_S, [])
    _dead = (-_DEAD_KEEP_S, None)
