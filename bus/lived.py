"""How a task ended, in one sentence."""

from __future__ import annotations

from . import history, messages, words
from .messages import Task


def ended(task: Task) -> str:
    """When and of what an ended task ended, and what it took."""
    when = f" at {task.ended_at}" if task.ended_at else ""
    if task.state == messages.DONE:
        who = f" by agent {task.agent}" if task.agent else ""
        return words.sentence(f"it was done{who}{when}{_lives(task)}")
    if task.state == messages.CANCELLED:
        return words.sentence(f"it was cancelled{when}")
    why = history.error_text({"error": task.error})
    if task.state == messages.DISCARDED:
        return words.sentence(f"it died{when} of {why}, and its letter was discarded")
    after = _lives(task) or " after 1 attempt"
    return words.sentence(f"it died{when}{after}: {why}; replay runs it again")


def _lives(task: Task) -> str:
    """What an ended task took beyond one attempt."""
    count = len(task.attempts) + (task.state == messages.DONE)
    said = [words.count(count, "attempt")] if count > 1 else []
    if task.epoch:
        said += [words.count(task.epoch, "replay")]
    return f" after {' and '.join(said)}" if said else ""
