"""A task that is run now: at once where it is delayed, again where it has ended."""

from __future__ import annotations

import contextlib
import hashlib
import secrets
from typing import Final

from . import accepting, decisions, errors, keys, lookup, messages, scripts
from .messages import Task
from .wanted import Wanted

_LOOKS: Final = 5  # at a task that moves while we decide


class NotRunnable(errors.Conflict):
    """The task waits or runs already, or its payload is not kept any more."""

    code = "not_runnable"


def run_now(
    task_id: str,
    topic: str | None = None,
    *,
    by: str | None = None,
    principal: str = "",
    request_id: str | None = None,
) -> str:
    """Run a task now; the id of the task that runs.

    A delayed one starts at once, as the same attempt. A dead one is replayed, `by` whom
    its history says. One that is done, cancelled or discarded is sent again as a new
    task with the same payload, `max_attempts` and `timeout_s`, which names it as
    `again_of`.
    NotRunnable, with the `state`, for one that waits or runs, or whose payload left
    with its trimmed result; TopicFull where a new task has no room. A repeat with the
    same `request_id` (any text, of this `principal`) gives the same id and changes
    nothing: of a replay always, of a new task for a day, of a start as long as it is
    among the newest 1,000 events of the topic. Without `topic` all are asked;
    TaskNotFound if none knows it, SeveralTopics if more than one does.
    """
    topic = lookup.one_topic(task_id, topic, lookup.TO_RUN)
    return ran(task_id, topic, by, principal, request_id)[0]


def ran(
    task_id: str,
    topic: str,
    by: str | None = None,
    principal: str = "",
    request_id: str | None = None,
) -> tuple[str, bool]:
    """`run_now` in a known topic: the id, and False for a repeat."""
    task_id = keys.check_task_id(task_id)
    mark = _mark(task_id, request_id)
    named = None if request_id is None else f"run {principal} {request_id}"
    if named is not None:
        # Also where it is not dead (any more): a repeat of that replay is told by it.
        with contextlib.suppress(errors.NotDead, errors.DeadLetterNotFound):
            return task_id, decisions.replayed(task_id, topic, by=by, request_id=named)
    for _ in range(_LOOKS):
        outcome = scripts.run("run_now", topic, [task_id, mark])
        if outcome in ("started", "repeat"):
            return task_id, outcome == "started"
        task = lookup.found(topic, task_id)
        if task is None:
            raise lookup.unknown(task_id)
        if task.state == messages.DEAD:
            with contextlib.suppress(errors.NotDead, errors.DeadLetterNotFound):
                return task_id, decisions.replayed(task_id, topic, by=by)
        elif task.ended:
            return _sent_again(task, principal, request_id, mark)
        elif outcome == "torn" or task.state != messages.DELAYED:
            raise _not_runnable(task)
        # It has just moved: look again at what it came to.
    raise _not_runnable(lookup.get_task(task_id, topic))


def _sent_again(
    task: Task, principal: str, request_id: str | None, mark: str
) -> tuple[str, bool]:
    """A new task like one that has ended: its id, and whether it is new."""
    if task.payload is None and not (task.fence or task.enqueued_at):
        said = f"task {task.id} is {task.state}, and its payload left with its result"
        raise NotRunnable(f"{said}: send it anew", state=task.state)
    keyed = request_id is not None
    wanted = Wanted(
        messages.encode(task.payload),
        idempotency_key=f"run {task.id} {mark}" if keyed else None,
        principal=principal if keyed else "",
        max_attempts=task.max_attempts,
        timeout_s=task.timeout_s,
        again_of=task.id,
    )
    [sent] = accepting.taken(task.topic, accepting.accept(task.topic, [wanted]))
    return sent.id, sent.new


def _mark(task_id: str, request_id: str | None) -> str:
    """What tells this request from all others, also when its answer was lost."""
    if request_id is None:
        return secrets.token_hex(8)
    text = f"{task_id} {request_id}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def _not_runnable(task: Task) -> NotRunnable:
    why = "it runs without being asked to"
    if task.state == messages.DELAYED:
        why = "its payload is missing, and the audit looks for it"
    return NotRunnable(f"task {task.id} is {task.state}: {why}", state=task.state)
