"""Dead letters: list, group, replay, discard, undo."""

from __future__ import annotations

import secrets
from typing import Any, Final

from . import (
    connection,
    errors,
    failures,
    keys,
    letters,
    lookup,
    messages,
    records,
    refusals,
    scripts,
)
from .conf import conf
from .letters import DeadLetter

_PAGE: Final = 500


def move_to_dead(
    topic: str, entry_id: str, payload: Any, error: str | None = None
) -> str:
    """Make a stream entry a dead letter; the letter's entry id.

    For hand-written agents: acknowledges in the working group, deletes the entry and
    writes `{id, payload}`, in one step. A repeat gives the same letter. `payload` is
    what a replay will run; `error` (else an "error" in the payload) groups failures.
    """
    said = payload.get("error") if isinstance(payload, dict) and not error else error
    message = str(said) if said else "moved to dead by its agent"
    body = messages.encode_kept(payload)
    return bury(topic, entry_id, body, failures.plain("Moved", message, "moved"))


def bury(topic: str, entry_id: str, body: bytes, error: dict[str, Any]) -> str:
    """`move_to_dead` of payload JSON, with the error it is to be grouped by."""
    keys.check_topic(topic)
    entry_id = keys.check_entry(entry_id)
    scripts.ensure_topic(topic)
    fp = failures.fingerprint(error)
    args: list[Any] = [entry_id, keys.foreign_id(topic, entry_id)]
    args += ['{"id":"', b'","payload":%b}' % body, messages.dump(error), fp]
    more = [keys.group_key(topic, fp)]
    return str(scripts.run("move_to_dead", topic, args, more))


def bury_malformed(topic: str, entry_id: str, why: str) -> str:
    """Bury an entry nobody can read, with all that it holds; the letter's entry id."""
    with refusals.guard():
        key = keys.task_stream(topic)
        rows = connection.reader().xrange(key, entry_id, entry_id)
    fields = dict(rows[0][1]) if rows else {}
    # No limits here: whatever came is kept for whoever looks at the letter.
    body = messages.dump(fields.get("json", fields))
    return bury(topic, entry_id, body, failures.plain("Malformed", why, "malformed"))


def list_dead(topic: str, count: int = 50, before: str = "+") -> list[DeadLetter]:
    """The newest letters first; `before` is the entry id to continue below."""
    key = keys.dead_stream(topic)
    keys.check_count(count)
    if before != "+":
        before = keys.below(keys.check_entry(before))
    with refusals.guard():
        rows = connection.reader().xrevrange(key, before, "-", count=count)
    return [letters.parse_letter(topic, sid, fields) for sid, fields in rows]


def dead_after(topic: str, after: str, count: int = 100) -> list[DeadLetter]:
    """Letters newer than entry id `after`, oldest first."""
    key = keys.dead_stream(topic)
    with refusals.guard():
        rows = connection.reader().xrange(key, keys.above(after), "+", count=count)
    return [letters.parse_letter(topic, sid, fields) for sid, fields in rows]


def last_dead_id(topic: str) -> str:
    """The newest letter's entry id, from which to follow; `0-0` if there is none."""
    with refusals.guard():
        rows = connection.reader().xrevrange(keys.dead_stream(topic), count=1)
    return str(rows[0][0]) if rows else "0-0"


def get_dead(task_id: str, topic: str | None = None) -> DeadLetter:
    """The letter of a task, or DeadLetterNotFound; without `topic` all are asked."""
    topic = _topic_of(task_id, topic)
    return _letter(topic, keys.check_task_id(task_id))


def _topic_of(task_id: str, topic: str | None) -> str:
    """`lookup.topic_of` where a letter is wanted, and missed as such."""
    try:
        return lookup.topic_of(task_id, topic, {messages.DEAD})
    except errors.TaskNotFound:
        raise errors.DeadLetterNotFound(
            f"no dead letter of task {task_id} in any topic"
        ) from None


def _letter(topic: str, task_id: str) -> DeadLetter:
    with refusals.guard():
        client = connection.reader()
        entry_id = client.hget(keys.named("dead_index", topic), task_id)
        rows = (
            client.xrange(keys.dead_stream(topic), entry_id, entry_id)
            if entry_id
            else []
        )
    letter = letters.parse_letter(topic, *rows[0]) if rows else None
    # The index also knows letters by the entry they came from, for `move_to_dead`.
    if letter is None or letter.id != task_id:
        raise errors.DeadLetterNotFound(
            f"no dead letter of task {task_id} in topic {topic!r}"
        )
    return letter


def dead_groups(topic: str) -> list[dict[str, Any]]:
    """Letters grouped by failure: fingerprint, count, total, first_at, last_at, error.

    `count` is what lies dead now, `total` what ever died of it since the group opened.
    """
    keys.check_topic(topic)
    with refusals.guard():
        client = connection.reader()
        facts = client.hgetall(keys.named("errors", topic))
        pipe = client.pipeline(transaction=False)
        for fp in facts:
            pipe.zcard(keys.group_key(topic, fp))
        counts = pipe.execute() if facts else []
    groups = []
    for (fp, text), count in zip(facts.items(), counts, strict=True):
        first, last, total, error = text.split("|", 3)
        groups.append(
            {
                "fingerprint": fp,
                "count": count,
                "total": int(total),
                "first_at": messages.iso(int(first)),
                "last_at": messages.iso(int(last)),
                "error": messages.parse_row(error),
            }
        )
    return sorted(groups, key=lambda group: -group["count"])


def replay(
    task_id: str,
    topic: str | None = None,
    *,
    payload: Any = ...,
    entry_id: str | None = None,
) -> str:
    """Put a dead letter back to work in its next epoch; the task's id.

    Its attempts start from zero, its history is kept. Of any number of concurrent
    replays exactly one succeeds, the others raise NotDead. A `payload` replaces the
    original one; `entry_id` is the letter that was seen, NotDead if it is another one
    by now. Without `topic` all are asked; DeadLetterNotFound if none knows it.
    """
    topic = _topic_of(task_id, topic)
    task_id = keys.check_task_id(task_id)
    mark = secrets.token_hex(4)
    while True:
        letter = _letter_or_not_dead(topic, task_id)
        if entry_id not in (None, letter.entry_id):
            raise errors.NotDead(f"task {task_id} was replayed, and is dead again")
        body = _body(letter) if payload is ... else messages.encode(payload)
        options = records.without_option(letter.options, "q")
        args = [task_id, letter.entry_id, body, options, letter.epoch + 1, mark]
        more = [keys.group_key(topic, letter.fingerprint)]
        outcome = scripts.run("replay", topic, args, more)[0]
        if outcome in ("replayed", "repeat"):
            return task_id
        if outcome == "not_dead":
            raise errors.NotDead(f"task {task_id} is not dead any more")
        # 'moved': replayed and dead again since we looked; look again.


def _body(letter: DeadLetter) -> bytes:
    """The payload as it was sent; our letters carry it word for word."""
    text = letter.raw.get("json", "")
    head = f'{{"id":"{letter.id}","payload":'
    if text.startswith(head) and text.endswith("}"):
        return text[len(head) : -1].encode()
    return messages.encode_kept(letter.payload)


def discard(task_id: str, topic: str | None = None) -> None:
    """Take a dead letter out for good; `undo` brings it back within an hour.

    Without `topic` all are asked. DeadLetterNotFound, or NotDead in another state.
    """
    topic = _topic_of(task_id, topic)
    task_id = keys.check_task_id(task_id)
    mark = secrets.token_hex(4)
    while True:
        letter = _letter_or_not_dead(topic, task_id)
        row = messages.encode_kept(
            {
                "id": task_id,
                "topic": topic,
                "state": messages.DISCARDED,
                "task": letter.payload,
                "result": None,
                "error": letter.error,
                "agent": None,
                "attempt": letters.executions(letter.attempts, letter.epoch),
                "fence": letter.fence,
                "enqueued_at": letter.enqueued_at,
                "started_at": None,
                "finished_at": letter.died_at,
            }
        )
        args = [task_id, letter.entry_id, row, conf.RESULTS_KEEP, conf.BIN_MAX, mark]
        more = [keys.group_key(topic, letter.fingerprint)]
        outcome = scripts.run("discard", topic, args, more)[0]
        if outcome in ("discarded", "repeat"):
            return
        if outcome == "not_dead":
            raise errors.NotDead(f"task {task_id} is not dead any more")


def _letter_or_not_dead(topic: str, task_id: str) -> DeadLetter:
    """The letter; NotDead where the task exists in another state."""
    try:
        return _letter(topic, task_id)
    except errors.DeadLetterNotFound:
        found = scripts.run("get_task", topic, [task_id])
        if found and found[0] != "dead":
            raise errors.NotDead(f"task {task_id} is not dead (any more)") from None
        raise


def undo(task_id: str, topic: str | None = None) -> str:
    """Bring a discarded letter back; its new entry id.

    DeadLetterNotFound if it was not discarded in the last hour, Conflict if its id was
    sent again since. Without `topic` all are asked.
    """
    task_id = keys.check_task_id(task_id)
    for name in _undo_topics(task_id, topic):
        dead_id = _undone(name, task_id)
        if dead_id is not None:
            return dead_id
    raise errors.DeadLetterNotFound(
        f"nothing to undo: task {task_id} was not discarded in the last hour"
    )


def _undo_topics(task_id: str, topic: str | None) -> list[str]:
    """Where to look; the bin outlives the row that says in which topic it is."""
    try:
        return [lookup.topic_of(task_id, topic, {messages.DISCARDED})]
    except errors.TaskNotFound:
        with refusals.guard():
            return sorted(connection.reader().smembers(keys.TOPICS))


def _undone(topic: str, task_id: str) -> str | None:
    """The new entry id; None if the topic's bin does not hold the letter."""
    before = "+"
    while True:
        with refusals.guard():
            client = connection.reader()
            rows = client.xrevrange(keys.named("bin", topic), before, "-", count=_PAGE)
        for bin_id, fields in rows:
            if fields.get("id") == task_id:
                fp = fields.get("fp", "")
                more = [keys.group_key(topic, fp)]
                reply = scripts.run("undo", topic, [task_id, bin_id], more)
                if reply[0] == "dead":
                    return str(reply[1])
                if reply[0] == "taken":
                    raise errors.Conflict(f"task {task_id} was sent again meanwhile")
        if len(rows) < _PAGE:
            return None
        before = f"({rows[-1][0]}"
