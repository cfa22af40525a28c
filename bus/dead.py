"""Dead letters: written, listed, grouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import (
    connection,
    errors,
    failures,
    foreign,
    keys,
    letters,
    lookup,
    messages,
    records,
    refusals,
    scripts,
    volley,
)
from .conf import conf
from .letters import DeadLetter


def move_to_dead(
    topic: str, entry_id: str, payload: Any, error: str | None = None
) -> str:
    """Make a stream entry a dead letter; the letter's entry id.

    For hand-written agents: acknowledges in the working group, deletes the entry and
    writes `{id, payload}`, in one step. A repeat gives the same letter, or NotDead once
    that was replayed or discarded. A task whose cancel was asked for while it ran gives
    an empty id, and has no letter: it ends `cancelled`. `payload` is what a replay will
    run; `error` (else an "error" in the payload) groups failures.
    """
    said = payload.get("error") if isinstance(payload, dict) and not error else error
    message = str(said) if said else "moved to dead by its agent"
    body = messages.encode_kept(payload)
    letter = bury(topic, entry_id, body, failures.plain("Moved", message, "moved"))
    if letter == messages.CANCELLED:
        return ""
    if not letter:
        raise errors.NotDead(
            f"entry {entry_id} was moved to dead before, and its letter was replayed "
            "or discarded since"
        )
    return letter


def count_dead() -> int:
    """Dead letters of all topics, in two round trips."""
    return sum(counts().values())


def counts() -> dict[str, int]:
    """How many letters each topic has that has any, by name; in two round trips."""
    with refusals.guard():
        names = sorted(connection.reader().smembers(keys.TOPICS))
    lengths = volley.ask([("XLEN", keys.dead_stream(topic)) for topic in names])
    found = zip(names, lengths, strict=True)
    return {topic: letters for topic, letters in found if letters}


def bury(topic: str, entry_id: str, body: bytes, error: dict[str, Any]) -> str:
    """`move_to_dead` of payload JSON, with the error it is to be grouped by.

    Empty where its letter was replayed or discarded since, `cancelled` where the task
    was asked to be cancelled.
    """
    keys.check_topic(topic)
    entry_id = keys.check_entry(entry_id)
    scripts.ensure_topic(topic)
    fp = failures.fingerprint(error)
    args: list[Any] = [entry_id, keys.foreign_id(topic, entry_id)]
    args += ['{"id":"', b'","payload":%b}' % body, messages.dump(error), fp]
    args += [topic, conf.RESULTS_KEEP]
    more = [keys.group_key(topic, fp)]
    return str(scripts.run("move_to_dead", topic, args, more))


def bury_malformed(topic: str, entry_id: str, why: str) -> str:
    """Bury an entry nobody can read, with all that it holds; the letter's entry id."""
    with refusals.guard():
        key = keys.task_stream(topic)
        rows = connection.reader().xrange(key, entry_id, entry_id)
    fields = dict(rows[0][1]) if rows else {}
    # No limits here: whatever came is kept for whoever looks at the letter.
    body = foreign.kept_of(fields)
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
    topic = topic_of(task_id, topic)
    return letter_of(topic, keys.check_task_id(task_id))


def topic_of(task_id: str, topic: str | None) -> str:
    """`lookup.topic_of` where a letter is wanted, and missed as such."""
    try:
        return lookup.topic_of(task_id, topic, {messages.DEAD})
    except errors.TaskNotFound:
        raise _nowhere(task_id) from None


def one_topic(task_id: str, topic: str | None) -> str:
    """`lookup.one_topic` of a letter that is to be changed, and missed as such."""
    try:
        return lookup.one_topic(task_id, topic, lookup.TO_DECIDE)
    except errors.TaskNotFound:
        raise _nowhere(task_id) from None


def _nowhere(task_id: str) -> errors.DeadLetterNotFound:
    return errors.DeadLetterNotFound(f"no dead letter of task {task_id} in any topic")


def letter_of(topic: str, task_id: str) -> DeadLetter:
    """`get_dead` of a topic and an id that were checked."""
    with refusals.guard():
        client = connection.reader()
        entry_id = client.hget(keys.named("dead_index", topic), task_id)
        rows = (
            client.xrange(keys.dead_stream(topic), entry_id, entry_id)
            if records.is_sid(entry_id)
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
    return groups_of([topic])[0]


def groups_of(topics: Sequence[str]) -> list[list[dict[str, Any]]]:
    """`dead_groups` of each of these topics, in two round trips."""
    names = [keys.named("errors", keys.check_topic(topic)) for topic in topics]
    told = volley.ask([("HGETALL", name) for name in names])
    facts = [*map(volley.pairs, told)]
    groups = [
        keys.group_key(topic, fp)
        for topic, of in zip(topics, facts, strict=True)
        for fp in of
    ]
    counts = iter(volley.ask([("ZCARD", group) for group in groups]))
    found = [
        [_group(fp, text, next(counts)) for fp, text in of.items()] for of in facts
    ]
    return [sorted(each, key=lambda group: -group["count"]) for each in found]


def groups_alike(topics: Sequence[str], fingerprint: str) -> dict[str, dict[str, Any]]:
    """The group of this failure, as `dead_groups` has it, in each of these topics that
    has one; in one round trip."""
    asked: list[tuple[Any, ...]] = []
    for topic in topics:
        asked.append(("HGET", keys.named("errors", topic), fingerprint))
        asked.append(("ZCARD", keys.group_key(keys.check_topic(topic), fingerprint)))
    replies = volley.ask(asked)
    told = zip(topics, replies[::2], replies[1::2], strict=True)
    return {topic: _group(fingerprint, text, n) for topic, text, n in told if text}


def _group(fingerprint: str, text: str, count: int) -> dict[str, Any]:
    first, last, total, error = text.split("|", 3)
    return {
        "fingerprint": fingerprint,
        "count": count,
        "total": int(total),
        "first_at": messages.iso(int(first)),
        "last_at": messages.iso(int(last)),
        "error": messages.parse_row(error),
    }
