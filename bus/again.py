"""A task that is run now: at once where it is delayed, again where it has ended."""

from __future__ import annotations

import contextlib
import hashlib
from typing import Final

from . import accepting, decisions, errors, keys, lookup, messages, scripts
from .messages import Task
from .wanted import Wanted, keyed_id

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
    named = key = None
    other_id = ""  # of the task that this request sends where this one has ended
    if request_id is not None:
        named, key = f"run {principal} {request_id}", _key(task_id, request_id)
        other_id = keyed_id(principal, topic, key)
    # One mark for all that a request may do: whichever it did before is found by it.
    args = [task_id, decisions.mark_of(named), other_id]
    for _ in range(_LOOKS):
        outcome = scripts.run("run_now", topic, args)
        if outcome == "sent":
            return other_id, False
        if outcome in ("started", "repeat"):
            return task_id, outcome == "started"
        task = lookup.found(topic, task_id)
        if task is None:
            raise lookup.unknown(task_id)
        if task.state == messages.DEAD:
            with contextlib.suppress(errors.NotDead, errors.DeadLetterNotFound):
                did = decisions.replayed(task_id, topic, by=by, request_id=named)
                return task_id, did
        elif task.ended:
            return _sent_again(task, principal, key)
        elif outcome == "torn" or task.state != messages.DELAYED:
            raise _not_runnable(task)
        # It has just moved: look again at what it came to.
    raise _not_runnable(lookup.get_task(task_id, topic))


def _sent_again(task: Task, principal: str, key: str | None) -> tuple[str, bool]:
    """A new task like one that has ended: its id, and whether it is new."""
    if task.payload is None and not (task.fence or task.enqueued_at):
        said = f"task {task.id} is {task.state}, and its payload left with its result"
        raise NotRunnable(f"{said}: send it anew", state=task.state)
    wanted = Wanted(
        messages.encode(task.payload),
        idempotency_key=key,
        principal=principal,
        max_attempts=task.max_attempts,
        timeout_s=task.timeout_s,
        again_of=task.id,
    )
    [sent] = accepting.taken(task.topic, accepting.accept(task.topic, [wanted]))
    return sent.id, sent.new


def _key(task_id: str, request_id: str) -> str:
    """The idempotency key under which this request sends an ended task again."""
    text = f"{task_id} {request_id}".encode("utf-8", "surrogatepass")
    return f"run {task_id} {hashlib.sha256(text).hexdigest()[:16]}"


def _not_runnable(task: Task) -> NotRunnable:
    why = "it runs without being asked to"
    if task.state == messages.DELAYED:
        why = "its payload is missing, and the audit looks for it"
    return NotRunnable(f"task {task.id} is {task.state}: {why}", state=task.state)
