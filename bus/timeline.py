"""The life of one task in order, from what the mesh still knows of it."""

from __future__ import annotations

from typing import Any, Final

from . import keys, messages, scripts, whynot
from .messages import Task

_LOOK: Final = 1_000  # newest events of the topic that are searched

_LATEST: Final = "~"  # behind every time

# Events that leave no other trace; attempts and ends are known from the task itself,
# but for the attempts before the one that got it done.
_FROM_EVENTS: Final = {
    "cancel_asked": "cancel asked for",
    "replayed": "replayed",
    "discarded": "discarded",
    "restored": "restored",
}


def timeline(task: Task) -> list[dict[str, Any]]:
    """What happened to a task, the oldest first: rows of `at, what, agent, detail`.

    `what` is enqueued, started, failed, lost, cancel asked for, replayed, discarded,
    restored, running, due (the next start, in the future), or the state it ended in.
    `at` is ISO text, None where nobody wrote the time down; `agent` and `detail` are
    None where there is none. Replays, discards and restores come from the topic's event
    log, which is searched to a bound: a replay that is not found there stands without
    its time where it must have been.
    """
    rows: list[dict[str, Any]] = [_row(task.enqueued_at, "enqueued")]
    logged = _logged(task)
    replays = iter([row for row in logged if row["what"] == "replayed"])
    epoch = 0
    for attempt in task.attempts:
        at_epoch = attempt.get("epoch")
        while isinstance(at_epoch, int) and epoch < at_epoch:
            rows.append(next(replays, _row(None, "replayed")))
            epoch += 1
        rows += _attempt(attempt)
    while epoch < task.epoch:
        rows.append(next(replays, _row(None, "replayed")))
        epoch += 1
    others = [row for row in logged if row["what"] != "replayed"]
    return _merged([*rows, *_now(task)], others)


def _row(
    at: Any, what: str, agent: Any = None, detail: str | None = None
) -> dict[str, Any]:
    at = at if isinstance(at, str) else None  # a row by hand may hold anything
    return {"at": at, "what": what, "agent": agent, "detail": detail}


def _attempt(attempt: dict[str, Any]) -> list[dict[str, Any]]:
    agent, number = attempt.get("agent"), attempt.get("attempt")
    detail = None if number is None else f"attempt {number}"
    rows = []
    if attempt.get("started_at"):
        rows.append(_row(attempt["started_at"], "started", agent, detail))
    what = "lost" if whynot.is_lost(attempt) else "failed"
    why = whynot.error_text(attempt)
    rows.append(_row(attempt.get("finished_at"), what, agent, why))
    return rows


def _now(task: Task) -> list[dict[str, Any]]:
    """How the task stands: the end of the line."""
    if task.state == messages.DELAYED:
        return [_row(task.due_at, "due")]
    if task.state == messages.RUNNING:
        return [_row(None, "running", task.agent, f"attempt {task.attempt}")]
    if not task.ended or task.state == messages.DISCARDED:
        return []  # a discard is an event, its row carries the time of the death
    rows = []
    if task.started_at:
        detail = f"attempt {task.attempt}"
        rows.append(_row(task.started_at, "started", task.agent, detail))
    why = whynot.error_text({"error": task.error}) if task.error else None
    return [*rows, _row(task.ended_at, task.state, task.agent, why)]


def _logged(task: Task) -> list[dict[str, Any]]:
    since = messages.iso_ms(task.enqueued_at) or 0
    flat = scripts.run("story", task.topic, [task.id, since, _LOOK])
    rows = []
    for ms, event, detail in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        at = messages.iso(int(ms))
        if event in _FROM_EVENTS:
            rows.append(_row(at, _FROM_EVENTS[event]))
        elif not task.attempts and event == "delayed":
            rows.append(_row(at, "failed", None, detail))
        elif not task.attempts and event == "lost":
            rows.append(_row(at, "lost", keys.agent_of(detail)))
    return rows


def _merged(
    chain: list[dict[str, Any]], others: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The chain in its own order, the others between by their time.

    Agents guess the server's time to a few ms, so times of the chain may cross.
    """
    latest, keyed = "", [(row["at"], 0, row) for row in others]
    for row in chain:
        now = _LATEST if row["what"] == messages.RUNNING else ""
        latest = max(latest, row["at"] or now)
        keyed.append((latest, 1, row))
    return [row for *_, row in sorted(keyed, key=lambda each: each[:2])]
