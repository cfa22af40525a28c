"""How the mesh stands, in the text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from . import agents, scripts, topics, volley

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MINUTES: Final = 15  # of which the quantiles are, as on the pages

# What happened to tasks, as `topics.stats` names it.
_EVENTS: Final = tuple(name for name in topics.COUNTERS if name != "settled")
_STATES: Final = ("waiting", "delayed", "running", "dead")
# What the script tells of a topic beside its counters, in its order.
_TOLD: Final = (
    *("live", "running", "delayed", "dead", "unmended", "oldest_ms", "paused"),
    *("readers", "wait_0.5", "wait_0.99", "run_0.5", "run_0.99"),
)

# Each topic with what is told of it.
_Rows = Sequence[tuple[str, dict[str, int]]]
# Name, kind, sentence and lines of a metric. 200 topics have 5,000 lines: each is made
# by one f-string; names need no escapes.
_Metric = tuple[str, str, str, list[str]]


def text(shown: Callable[[str], bool] = lambda topic: True) -> str:
    """Every metric of the topics that are `shown`, and of all agents.

    In three round trips, however many topics. Raises BusUnavailable.
    """
    # Agents first, whose answer would wait behind what the topics cost the server; what
    # they say is read while it looks at the topics.
    seen = agents.seen()
    with ThreadPoolExecutor(1) as beside:
        told = beside.submit(_told, list(filter(shown, topics.list_topics())))
        of_agents = [*_of_agents(seen)]
    lines: list[str] = []
    for name, kind, says, found in [*_of_topics(told.result()), *of_agents]:
        lines += [f"# HELP {name} {says}", f"# TYPE {name} {kind}", *found]
    return "\n".join(lines) + "\n"


def _told(names: Sequence[str]) -> _Rows:
    """What each of these topics is at this moment; of all in one round trip.

    `topics.stats` and `rates` know more, and take several times as long to tell.
    """
    args = [topics.READER_MS, _MINUTES]
    replies = volley.run("metrics", names, args)
    rows = []
    for topic, said in zip(names, replies, strict=True):
        if isinstance(said, Exception):
            # Asked alone, an error is raised as ours, with the key it is about.
            said = scripts.run("metrics", topic, args)
        *numbers, flat = said
        stored = dict(zip(flat[::2], flat[1::2], strict=True))
        counts = {n: topics.counted(stored.get(n, "0")) for n in topics.COUNTERS}
        facts = {**counts, **dict(zip(_TOLD, numbers, strict=True))}
        facts["waiting"] = facts["live"] - facts["running"] - facts["delayed"]
        facts["drift"] = _drift(facts)
        # The ledger's side goes down with an undo. To Prometheus a counter that did was
        # reset, and all that is left of it new.
        facts["discarded"] += facts["restored"]
        rows.append((topic, facts))
    return rows


def _of_topics(rows: _Rows) -> Iterator[_Metric]:
    """How each topic stands, what happened in it, how long that took."""

    def of(name: str, pick: Callable[[dict[str, int]], float]) -> list[str]:
        return [f'{name}{{topic="{t}"}} {pick(facts):.15g}' for t, facts in rows]

    def by(name: str, label: str, values: Sequence[str]) -> list[str]:
        return [
            f'{name}{{topic="{t}",{label}="{value}"}} {facts[value]}'
            for t, facts in rows
            for value in values
        ]

    def quantiles(name: str, what: str) -> list[str]:
        return [
            f'{name}{{topic="{t}",quantile="{share}"}} {ms / 1000:.15g}'
            for t, facts in rows
            for share in ("0.5", "0.99")
            if (ms := facts[f"{what}_{share}"]) >= 0
        ]

    name = "mesh_tasks"
    yield name, "gauge", "Tasks by where they are.", by(name, "state", _STATES)
    name = "mesh_tasks_total"
    yield name, "counter", "What happened to tasks, ever.", by(name, "event", _EVENTS)
    name = "mesh_ledger_drift"
    drift = of(name, lambda facts: facts["drift"])
    yield name, "gauge", "Tasks the ledger misses; 0.", drift
    name = "mesh_ledger_settled"
    says = "Tasks a person entered where the ledger was off; 0."
    yield name, "gauge", says, of(name, lambda facts: facts["settled"])
    name = "mesh_unmended"
    says = "Tasks in two states at once; 0."
    yield name, "gauge", says, of(name, lambda facts: facts["unmended"])
    name = "mesh_oldest_waiting_seconds"
    oldest = of(name, lambda facts: facts["oldest_ms"] / 1000)
    yield name, "gauge", "Age of the oldest one.", oldest
    name = "mesh_paused"
    says = "1 while no task of the topic starts."
    yield name, "gauge", says, of(name, lambda facts: facts["paused"])
    name = "mesh_readers"
    says = "Agents by hand and over HTTP with a recent sign of life."
    yield name, "gauge", says, of(name, lambda facts: facts["readers"])
    name = "mesh_wait_seconds"
    says = "How long tasks waited, those done in 15 minutes, up to a doubling."
    yield name, "gauge", says, quantiles(name, "wait")
    name = "mesh_run_seconds"
    says = "How long attempts ran, those ended in 15 minutes, up to a doubling."
    yield name, "gauge", says, quantiles(name, "run")


def _drift(facts: dict[str, int]) -> int:
    """What the ledger misses, as `topics.stats` has it."""
    came = facts["accepted"] + facts["adopted"]
    went = facts["done"] + facts["dead"] + facts["discarded"] + facts["cancelled"]
    return came - facts["live"] - went - facts["settled"]


def _of_agents(seen: Sequence[agents.Seen]) -> Iterator[_Metric]:
    """How many agents there are, and what each of them tells of itself.

    A series of an agent ends with it: a dashboard that still drew it would show tasks
    in flight where nobody is. Who told nothing (agents over HTTP) has none.
    """
    name = "mesh_agents"
    told = [(each.agent_id, record) for each in seen if (record := each.record())]
    states = Counter(record["state"] for _, record in told)
    found = [f'{name}{{state="{state}"}} {states[state]}' for state in agents.STATES]
    yield name, "gauge", "Agents of the last 24 h by state.", found
    there = [(who, record) for who, record in told if record["state"] != "gone"]

    def of(name: str, fact: str, label: str = "") -> list[str]:
        return [
            f'{name}{{agent="{who}"{label}}} {what:.15g}'
            for who, record in there
            if type(what := record.get(fact)) in (int, float)
        ]

    name = "mesh_agent_slots"
    yield name, "gauge", "Tasks it runs at once, at most.", of(name, "slots")
    name = "mesh_agent_in_flight"
    yield name, "gauge", "Tasks it has in hand.", of(name, "in_flight")
    name = "mesh_agent_attempts_total"
    ends = of(name, "done", ',outcome="done"')
    ends += of(name, "failed", ',outcome="failed"')
    yield name, "counter", "Attempts since it began.", ends
    name = "mesh_agent_resident_bytes"
    yield name, "gauge", "Memory it has taken.", of(name, "rss_bytes")
