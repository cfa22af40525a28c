"""Tasks, letters, topics and results as the API shows them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus import timeline, whynot
from bus.gateway.reports import QUEUED, RUNNING
from bus.letters import DeadLetter
from bus.messages import Task
from bus.rates import Rates

_TEXT_MOST: Final = 200  # of what a process tells of itself


def task_row(task: Task) -> dict[str, Any]:
    """A task in a list: what is known of it in one look."""
    row = {
        "id": task.id,
        "topic": task.topic,
        "state": task.state,
        "task": task.payload,
        "attempt": task.attempt,
        "epoch": task.epoch,
        "agent": task.agent,
        "enqueued_at": task.enqueued_at,
        "due_at": task.due_at,
        "started_at": task.started_at,
        "ended_at": task.ended_at,
        "max_attempts": task.max_attempts,
        "timeout_s": task.timeout_s,
        "cancel_requested": task.cancel_requested,
        "attempts": list(task.attempts),
        "replays": list(task.replays),
        "again_of": task.again_of,
    }
    if task.state == "done":
        row["result"] = task.result
    if task.error is not None:
        row["error"] = task.error
    return row


def task_page(task: Task) -> dict[str, Any]:
    """One task in full: with its life in order, and why it is not running."""
    told = {"timeline": timeline.timeline(task), "explain": whynot.explain(task)}
    return {**task_row(task), **told}


def generation(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `ollama.running`; whatever its process told of itself, in its type."""
    took_s = row["s"] if isinstance(row.get("s"), int | float) else None
    queued = row.get("state") == QUEUED
    return {
        "id": row["id"],
        "owner": str(row.get("owner", ""))[:_TEXT_MOST],
        "model": str(row.get("model", ""))[:_TEXT_MOST],
        "asked_bytes": _number(row.get("size")),
        "lines": _number(row.get("lines")),
        "waiting": _number(row.get("waiting")),
        "state": QUEUED if queued else RUNNING,
        "queued_s": took_s if queued else None,
        "running_s": None if queued else took_s,
        "host": str(row.get("host", ""))[:_TEXT_MOST],
        "pid": _number(row.get("pid")),
        "ending": row["ending"],
    }


def _number(value: object) -> int | None:
    return value if type(value) is int else None


LETTER_COLUMNS: Final = (
    *("topic", "id", "entry_id", "died_at", "enqueued_at", "error_type", "error"),
    *("fingerprint", "attempts", "epoch", "task"),
)


def letter_line(found: DeadLetter) -> dict[str, Any]:
    """A dead letter as a line of a spreadsheet: its last error in words."""
    error = {"error_type": found.error.get("type"), "error": found.error.get("message")}
    return {**found.row(), **error, "attempts": len(found.attempts)}


RESULT_COLUMNS: Final = (
    *("topic", "id", "entry_id", "state", "agent", "attempt", "epoch"),
    *("enqueued_at", "started_at", "finished_at", "task", "result"),
)


def result_row(topic: str, entry_id: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A result; rows by hand lack what their writer left out, and may say more.

    Where a row lies is known, whatever it says of that itself.
    """
    head = {"entry_id": entry_id, "id": None, "topic": topic, "state": "done"}
    past = {"epoch": 0, "attempts": [], "replays": []}
    told = {**head, **dict.fromkeys(_OF_RESULT), **past, **row}
    return {**told, "entry_id": entry_id, "topic": topic}


_OF_RESULT: Final = (
    *("task", "result", "agent", "attempt", "fence"),
    *("enqueued_at", "started_at", "finished_at"),
    *("max_attempts", "timeout_s", "again_of"),
)


_SHARES: Final = {"p50": 0.5, "p99": 0.99}


def topic_row(standing: Mapping[str, Any], rates: Rates) -> dict[str, Any]:
    """A topic, flat: counts, limits, what it did lately."""
    row = {name: value for name, value in standing.items() if name != "limits"}
    row |= standing["limits"]
    row["done_per_minute"] = round(rates.done_per_minute, 1)
    row["dead_per_minute"] = round(rates.dead_per_minute, 1)
    for name, share in _SHARES.items():
        row[f"wait_{name}_ms"] = rates.wait_ms(share)
        row[f"run_{name}_ms"] = rates.run_ms(share)
    return row
