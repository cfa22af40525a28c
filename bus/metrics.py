"""How the mesh stands, in the text that Prometheus reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from . import agents, rates, topics

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_MINUTES: Final = 15  # of which the quantiles are, as on the pages

_Rows = Sequence[tuple[dict[str, str], float]]

# What happened to tasks, as `topics.stats` names it.
_EVENTS: Final = (
    *("accepted", "adopted", "repeated", "done", "retried", "died", "lost"),
    *("replayed", "discarded", "cancelled", "orphans", "repaired"),
)
_STATES: Final = ("waiting", "delayed", "running", "dead")


def text(shown: Callable[[str], bool] = lambda topic: True) -> str:
    """Every metric of the topics that are `shown`, and of all agents.

    In three round trips, however many topics. Raises BusUnavailable.
    """
    rows = [row for row in topics.all_stats() if shown(row["topic"])]
    spans = rates.of_topics([row["topic"] for row in rows], _MINUTES)
    seen = agents.overview()
    lines: list[str] = []
    for name, kind, says, found in [*_metrics(rows, spans), *_of_agents(seen)]:
        lines += [f"# HELP {name} {says}", f"# TYPE {name} {kind}"]
        lines += [f"{name}{_labels(labels)} {value:.15g}" for labels, value in found]
    return "\n".join(lines) + "\n"


def _metrics(
    rows: list[dict[str, Any]], spans: dict[str, rates.Rates]
) -> Iterator[tuple[str, str, str, _Rows]]:
    """Name, kind, sentence and values of each metric."""

    def of(pick: Callable[[dict[str, Any]], float | None]) -> _Rows:
        values = [({"topic": row["topic"]}, pick(row)) for row in rows]
        return [(labels, value) for labels, value in values if value is not None]

    def by(label: str, names: Sequence[str]) -> _Rows:
        return [
            ({"topic": row["topic"], label: name}, row[name])
            for row in rows
            for name in names
        ]

    yield "mesh_tasks", "gauge", "Tasks by where they are.", by("state", _STATES)
    events = by("event", _EVENTS)
    yield "mesh_tasks_total", "counter", "What happened to tasks, ever.", events
    drift = of(lambda row: row["ledger"]["drift"])
    yield "mesh_ledger_drift", "gauge", "Tasks the ledger misses; 0.", drift
    settled = of(lambda row: row["settled"])
    says = "Tasks a person entered where the ledger was off; 0."
    yield "mesh_ledger_settled", "gauge", says, settled
    unmended = of(lambda row: row["unmended"])
    yield "mesh_unmended", "gauge", "Tasks in two states at once; 0.", unmended
    oldest = of(lambda row: row["oldest_s"] or 0)
    yield "mesh_oldest_waiting_seconds", "gauge", "Age of the oldest one.", oldest
    paused = of(lambda row: int(row["paused"]))
    yield "mesh_paused", "gauge", "1 while no task of the topic starts.", paused
    readers = of(lambda row: row["readers"])
    yield "mesh_readers", "gauge", "Consumers with a recent sign of life.", readers
    yield (
        "mesh_wait_seconds",
        "gauge",
        "How long tasks waited, those done in 15 minutes, up to a doubling.",
        _quantiles(spans, rates.Rates.wait_ms),
    )
    yield (
        "mesh_run_seconds",
        "gauge",
        "How long attempts ran, those ended in 15 minutes, up to a doubling.",
        _quantiles(spans, rates.Rates.run_ms),
    )


def _of_agents(seen: list[dict[str, Any]]) -> Iterator[tuple[str, str, str, _Rows]]:
    """How many agents there are, and what each of them tells of itself.

    A series of an agent ends with it: a dashboard that still drew it would show tasks
    in flight where nobody is. Who told nothing (agents over HTTP) has none.
    """
    states = Counter(row["state"] for row in seen)
    found = [({"state": state}, float(states[state])) for state in agents.STATES]
    yield "mesh_agents", "gauge", "Agents of the last 24 h by state.", found
    there = [row for row in seen if row["state"] != "gone"]

    def of(name: str, **labels: str) -> _Rows:
        told = [(row["agent_id"], row[name]) for row in there]
        numbers = [(who, what) for who, what in told if type(what) in (int, float)]
        return [({"agent": who, **labels}, what) for who, what in numbers]

    yield "mesh_agent_slots", "gauge", "Tasks it runs at once, at most.", of("slots")
    yield "mesh_agent_in_flight", "gauge", "Tasks it has in hand.", of("in_flight")
    ends = [*of("done", outcome="done"), *of("failed", outcome="failed")]
    yield "mesh_agent_attempts_total", "counter", "Attempts since it began.", ends
    memory = "Memory it has taken."
    yield "mesh_agent_resident_bytes", "gauge", memory, of("rss_bytes")


def _quantiles(
    spans: dict[str, rates.Rates], ms_of: Callable[[rates.Rates, float], int | None]
) -> _Rows:
    found = []
    for topic, span in spans.items():
        for share in (0.5, 0.99):
            ms = ms_of(span, share)
            if ms is not None:
                found.append(({"topic": topic, "quantile": f"{share:g}"}, ms / 1000))
    return found


def _labels(labels: dict[str, str]) -> str:
    """`{name="value",…}`; names of topics need no escapes."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"
