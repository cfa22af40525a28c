"""The life of one task in order, from what the mesh still knows of it."""

from __future__ import annotations

from typing import Any, Final

from . import history, keys, messages, scripts
from .messages import Task

_LOOK: Final = 1_000  # newest events of the topic that are searched

_REPLAYS_MOST: Final = 50  # in a row; no history is longer

_LATEST: Final = "~"  # behind every time

# Events that leave no other trace; attempts, replays and ends are known from the task
# itself, but for those of tasks that somebody acknowledged by hand.
_FROM_EVENTS: Final = {
    "cancel_asked": "cancel asked for",
    "hurried": "run now",
    "discarded": "discarded",
    "restored": "restored",
}


def timeline(task: Task) -> list[dict[str, Any]]:
    """What happened to a task, the oldest first: rows of `at, what, agent, detail`.

    `what` is enqueued, started, failed, lost, cancel asked for, run now, replayed,
    discarded, restored, running, due (the next start, in the future), or the state it
    ended in. `at` is ISO text, None where nobody wrote the time down; `agent` and
    `detail` are None where there is none. Discards, restores and what was asked for
    come from the topic's event log, which is searched to a bound. A replay of which
    neither the task nor the log knows any more stands without its time where it must
    have been.
    """
    rows: list[dict[str, Any]] = [_row(task.enqueued_at, "enqueued")]
    epoch = 0
    for attempt in task.attempts:
        now = attempt.get("epoch")
        if isinstance(now, int) and now > epoch:
            rows += _replays(task, epoch, now)
            epoch = now
        rows += _attempt(attempt)
    rows += _replays(task, epoch, task.epoch)
    return _merged([*rows, *_now(task)], _logged(task))


def _row(
    at: Any, what: str, agent: Any = None, detail: str | None = None
) -> dict[str, Any]:
    at = at if isinstance(at, str) else None  # a row by hand may hold anything
    return {"at": at, "what": what, "agent": agent, "detail": detail}


def _replays(task: Task, before: int, now: int) -> list[dict[str, Any]]:
    """What lies between two epochs, which a letter by hand may have far apart."""
    told = {each.get("epoch"): each for each in task.replays if _is_numbered(each)}
    first = max(before, now - _REPLAYS_MOST) + 1
    return [_replay(told.get(epoch, {})) for epoch in range(first, now + 1)]


def _is_numbered(replay: dict[str, Any]) -> bool:
    return isinstance(replay.get("epoch"), int)  # a line by hand may have a list there


def _replay(replay: dict[str, Any]) -> dict[str, Any]:
    said = ["with an edited payload"] if replay.get("edited") else []
    said += [f"by {replay['by']}"] if replay.get("by") else []
    return _row(replay.get("at"), "replayed", None, " ".join(said) or None)


def _attempt(attempt: dict[str, Any]) -> list[dict[str, Any]]:
    agent, number = attempt.get("agent"), attempt.get("attempt")
    detail = None if number is None else f"attempt {number}"
    rows = []
    if attempt.get("started_at"):
        rows.append(_row(attempt["started_at"], "started", agent, detail))
    what = "lost" if history.is_lost(attempt) else "failed"
    why = history.error_text(attempt)
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
    why = history.error_text({"error": task.error}) if task.error else None
    return [*rows, _row(task.ended_at, task.state, task.agent, why)]


def _logged(task: Task) -> list[dict[str, Any]]:
    since = max(0, messages.iso_ms(task.enqueued_at) or 0)  # by hand: before 1970
    flat = scripts.run("story", task.topic, [task.id, since, _LOOK])
    bare = not (task.attempts or task.replays or task.epoch)
    rows = []
    for ms, event, detail in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        at = messages.iso(int(ms))
        if event in _FROM_EVENTS:
            rows.append(_row(at, _FROM_EVENTS[event]))
        elif bare and event == "replayed":
            rows.append(_row(at, event))
        elif bare and event == "delayed":
            rows.append(_row(at, "failed", None, detail))
        elif bare and event == "lost":
            rows.append(_row(at, event, keys.agent_of(detail)))
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
