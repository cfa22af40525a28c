"""One task looked up as it stands."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any, Final

from . import (
    connection,
    errors,
    history,
    keys,
    letters,
    messages,
    records,
    refusals,
    scripts,
    volley,
)
from .messages import Task

Reach = Callable[[str], bool]  # whether a caller may hear of a topic
# The states a call that changes tasks is about: those it acts on, and what comes of it.
TO_CANCEL: Final = messages.LIVE | {messages.CANCELLED}
TO_DECIDE: Final = frozenset({messages.DEAD, messages.DISCARDED})
TO_RUN: Final = frozenset(messages.STATES)


class SeveralTopics(errors.Conflict):
    """Several topics have a task of this id; `facts["topics"]` names them."""

    code = "several_topics"


def _everywhere(_: str) -> bool:
    return True


def get_task(task_id: str, topic: str | None = None) -> Task:
    """The task as it stands, ended or live; TaskNotFound if it is unknown.

    Without `topic` all known topics are asked in one round trip; where several know the
    id, the topic in which it lives wins.
    """
    task_id = keys.check_task_id(task_id)
    if topic is None:
        task = _best(_searched(task_id), messages.LIVE)
    else:
        task = found(keys.check_topic(topic), task_id)
    if task is None:
        raise unknown(task_id)
    return task


def topic_of(
    task_id: str,
    topic: str | None,
    states: Container[str] = messages.LIVE,
    reach: Reach = _everywhere,
) -> str:
    """The given topic, checked; for None the one that knows the task, to read it.

    Where several know it, the first in which it is in one of `states` wins.
    TaskNotFound if none within `reach` does, InvalidName for an id or topic that is not
    allowed.
    """
    task_id = keys.check_task_id(task_id)
    if topic is not None:
        return keys.check_topic(topic)
    task = _best(_searched(task_id, reach), states)
    if task is None:
        raise unknown(task_id)
    return task.topic


def one_topic(
    task_id: str,
    topic: str | None,
    states: Container[str],
    reach: Reach = _everywhere,
) -> str:
    """`topic_of` for a call that changes tasks in one of `states`.

    SeveralTopics where that does not tell one: whatever picked one would pick another
    once the first was changed, and a repeat of the call change a second task.
    """
    task_id = keys.check_task_id(task_id)
    if topic is not None:
        return keys.check_topic(topic)
    known = _searched(task_id, reach)
    fitting = [task for task in known if task.state in states]
    found = [task.topic for task in fitting or known]
    if not found:
        raise unknown(task_id)
    if len(found) > 1:
        said = f"several topics have a task {task_id}, say which: {', '.join(found)}"
        raise SeveralTopics(said, topics=found)
    return found[0]


def _best(tasks: list[Task], states: Container[str]) -> Task | None:
    """Ids are unique unless somebody chose the same one in two topics."""
    fitting = [task for task in tasks if task.state in states]
    return next(iter(fitting or tasks), None)


def unknown(task_id: str) -> errors.TaskNotFound:
    """The error for an id nobody knows."""
    return errors.TaskNotFound(
        f"no task {task_id}: never sent, its result was trimmed, or its topic deleted"
    )


def found(topic: str, task_id: str) -> Task | None:
    """The task if this topic knows it; names must have been checked."""
    return task_of(topic, task_id, scripts.run("get_task", topic, [task_id]))


async def afound(topic: str, task_id: str, client: Any = None) -> Task | None:
    """`found` for asyncio, over a client of the caller's if there is one."""
    raw = await scripts.arun("get_task", topic, [task_id], client=client)
    return task_of(topic, task_id, raw)


def _searched(task_id: str, reach: Reach = _everywhere) -> list[Task]:
    """Ask every known topic; one pipeline after one look at their names."""
    with refusals.guard():
        topics = sorted(filter(reach, connection.reader().smembers(keys.TOPICS)))
    replies = volley.run("get_task", topics, [task_id])
    failed = [raw for raw in replies if isinstance(raw, Exception)]
    pairs = zip(topics, replies, strict=True)
    looked = (
        task_of(topic, task_id, raw)
        for topic, raw in pairs
        if not isinstance(raw, Exception)
    )
    known = [task for task in looked if task is not None]
    if failed and not known:  # a topic that somebody damaged may be the one
        raise refusals.mapped(failed[0]) from failed[0]
    return known


def task_of(topic: str, task_id: str, raw: list[Any]) -> Task | None:
    """The task in a reply of `get_task`; None if the topic does not know it."""
    if not raw:
        return None
    if raw[0] == "live":
        return live_task(topic, task_id, *raw[1:])
    if raw[0] == "dead":
        fields = dict(zip(raw[2][::2], raw[2][1::2], strict=True))
        letter = letters.parse_letter(topic, raw[1], fields)
        if letter.id != task_id:
            return None  # known by its entry only, see `dead.py`
        return dead_task(letter)
    if not raw[1]:
        state = raw[3] if len(raw) > 3 else messages.DONE
        ended_at = messages.iso(int(raw[2])) if raw[2] != "" else None
        return Task(task_id, topic, None, state, ended_at=ended_at)
    fields = dict(zip(raw[1][::2], raw[1][1::2], strict=True))
    return done_task(topic, task_id, fields, str(raw[2]))


def dead_task(letter: letters.DeadLetter) -> Task:
    """A dead task from its letter."""
    return Task(
        id=letter.id,
        topic=letter.topic,
        payload=letter.payload,
        state=messages.DEAD,
        attempt=letters.executions(letter.attempts, letter.epoch),
        epoch=letter.epoch,
        fence=letter.fence,
        enqueued_at=letter.enqueued_at,
        attempts=letter.attempts,
        error=letter.error,
        ended_at=letter.died_at,
        replays=letter.replays,
        **records.own(letter.options),
    )


def done_task(
    topic: str,
    task_id: str,
    fields: Mapping[str, str],
    entry_id: str,
    row: Mapping[str, Any] | None = None,
) -> Task:
    """An ended task from the fields of its result entry; `row` where it is parsed.

    Whatever else a row by hand says of its state, its task has ended: it is done.
    """
    if row is None:
        row = messages.parse_row(fields.get("json", ""))
    state = row.get("state")
    past = history.of_result(fields)
    return messages.task(
        id=task_id,
        topic=topic,
        payload=row.get("task"),
        state=state if state in messages.ROW_STATES else messages.DONE,
        attempt=row.get("attempt", 0),
        epoch=past.epoch,
        fence=row.get("fence", ""),
        enqueued_at=row.get("enqueued_at"),
        started_at=row.get("started_at"),
        agent=row.get("agent"),
        attempts=past.attempts,
        result=row.get("result"),
        error=row.get("error"),
        ended_at=row.get("finished_at") or messages.iso(messages.entry_ms(entry_id)),
        replays=past.replays,
        **_own(row),
    )


_OWN: Final = frozenset({"max_attempts", "timeout_s", "again_of"})


def _own(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row says its task was sent with; a row by hand may say anything."""
    if _OWN.isdisjoint(row):
        return {}
    most, limit = row.get("max_attempts"), row.get("timeout_s")
    return {
        "max_attempts": most if type(most) is int and records.may_try(most) else None,
        "timeout_s": records.seconds(str(limit)),
        "again_of": _id(row.get("again_of")),
    }


def _id(value: Any) -> str | None:
    try:
        return keys.check_task_id(value)
    except errors.InvalidName:
        return None


def _due_at(score: str) -> str | None:
    """A due time; None where there is none, or somebody wrote what is no time."""
    due_ms = float(score or "nan")
    return messages.iso(int(due_ms)) if 0 <= due_ms < math.inf else None


def live_task(
    topic: str,
    task_id: str,
    text: str,
    json: str,
    meta: str,
    due: str,
    who: str,
    log: str,
) -> Task:
    """A live task from its record, payload, marks, due time, holder and attempts."""
    record = records.parse_record(text)
    options = records.parse_options(record.options)
    marks = records.parse_options(meta)
    if not record.sid:
        state = messages.DELAYED
    elif who and who != keys.HANDED_OVER:
        state = messages.RUNNING
    else:
        state = messages.WAITING
    past = history.parse(log, record.epoch)
    # A delayed task whose payload is gone has neither, until the audit ends it.
    clock = record.sid.partition("-")[0]
    enqueued = records.number(marks.get("e", clock))
    return Task(
        id=task_id,
        topic=topic,
        payload=messages.decode_or_text(json),
        state=state,
        attempt=record.attempt + (state == messages.RUNNING),
        epoch=record.epoch,
        fence=f"{record.sid}.{record.n}" if record.sid else "",
        max_attempts=records.number(options.get("m", "")),
        timeout_s=records.seconds(options.get("t")),
        enqueued_at=None if enqueued is None else messages.iso(enqueued),
        due_at=_due_at(due),
        agent=keys.agent_of(who) if state == messages.RUNNING else None,
        attempts=past.attempts,
        cancel_requested="c" in record.flags,
        replays=past.replays,
        again_of=options.get("of"),
    )
