"""What operators decide about dead letters: replay, discard, undo."""

from __future__ import annotations

import hashlib
import secrets
from typing import Any, Final

import orjson

from . import (
    connection,
    dead,
    errors,
    history,
    keys,
    letters,
    lookup,
    messages,
    refusals,
    scripts,
)
from .conf import conf
from .letters import DeadLetter

_PAGE: Final = 500


def replay(
    task_id: str,
    topic: str | None = None,
    *,
    payload: Any = ...,
    entry_id: str | None = None,
    by: str | None = None,
    request_id: str | None = None,
) -> str:
    """Put a dead letter back to work in its next epoch; the task's id.

    Its attempts start from zero, its history is kept and says `by` whom. Of any number
    of concurrent replays exactly one succeeds, the others raise NotDead, which tells
    the state. A `payload` replaces the original one, which stays readable in `replays`
    of the task. `entry_id` is the letter that was seen, NotDead if it is another one by
    now. A repeat with the same `request_id` (any text) is the same replay: it succeeds
    and changes nothing, wherever the task is by then; with another payload than that
    replay had it is a TaskConflict. Without `topic` all are asked; DeadLetterNotFound
    if none knows it, SeveralTopics if it is dead or discarded in more than one.
    """
    topic = dead.one_topic(task_id, topic)
    replayed(task_id, topic, payload, entry_id, by, request_id)
    return task_id


def replayed(
    task_id: str,
    topic: str,
    payload: Any = ...,
    entry_id: str | None = None,
    by: str | None = None,
    request_id: str | None = None,
) -> bool:
    """`replay` in a known topic: True if this call did it, False for a repeat."""
    task_id = keys.check_task_id(task_id)
    seen = None if entry_id is None else keys.check_entry(entry_id)
    given = None if payload is ... else messages.encode(payload)
    mark = mark_of(request_id)
    while True:
        letter = _letter(topic, task_id)
        if letter is None or seen not in (None, letter.entry_id):
            args = [task_id, "", "", "", 0, mark, ""]
            reply = scripts.run("replay", topic, args, [keys.group_key(topic, "")])
            if reply[0] == "repeat":
                _check_repeat(task_id, reply[1], payload)
                return False
            raise _not_dead(topic, task_id)
        new = body(letter) if given is None else given
        runs = letter.payload if given is None else payload
        edited = given is not None and not messages.same(payload, letter.payload)
        # Encoded anew: what others wrote may have line breaks, or be no JSON.
        original = messages.encode_kept(letter.payload) if edited else None
        line = history.replay_line(letter.entry_id, by, digest(runs), original)
        args = [task_id, letter.entry_id, new, letter.options, letter.epoch + 1]
        args += [mark, line]
        more = [keys.group_key(topic, letter.fingerprint)]
        reply = scripts.run("replay", topic, args, more)
        if reply[0] == "replayed":
            return True
        if reply[0] == "repeat":
            _check_repeat(task_id, reply[1], payload)
            return False
        # Replayed by somebody else since we looked, and perhaps dead again: look again.


def _check_repeat(task_id: str, line: str, payload: Any) -> None:
    """TaskConflict where a repeat means another payload than the replay had."""
    edited, ran = history.replayed_as(line)
    # A line that an older version wrote has no digest: then nobody can tell.
    other = edited if payload is ... else ran not in ("", digest(payload))
    if other:
        raise errors.TaskConflict(
            f"this request has replayed task {task_id} with another payload"
        )


def digest(payload: Any) -> str:
    """What equal payloads share, however their keys are ordered."""
    try:
        plain = orjson.dumps(payload, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        plain = messages.encode_kept(payload)  # integers beyond 64 bits
    return hashlib.sha256(plain).hexdigest()[:16]


def mark_of(request_id: str | None) -> str:
    """What tells this request from all others, also when its answer was lost."""
    if request_id is None:
        return secrets.token_hex(8)
    text = request_id.encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def _letter(topic: str, task_id: str) -> DeadLetter | None:
    try:
        return dead.letter_of(topic, task_id)
    except errors.DeadLetterNotFound:
        return None


def _not_dead(topic: str, task_id: str) -> errors.BusError:
    """Why a task has no letter, or another one than was seen; with its `state`."""
    task = lookup.found(topic, task_id)
    if task is None:
        return errors.DeadLetterNotFound(
            f"no dead letter of task {task_id} in topic {topic!r}"
        )
    if task.state == messages.DEAD:
        says = (
            f"the letter of task {task_id} is another one by now: it was replayed, or "
            "discarded and restored"
        )
    else:
        says = f"task {task_id} is not dead (any more), it is {task.state}"
    return errors.NotDead(says, state=task.state)


def body(letter: DeadLetter) -> bytes:
    """The payload as it was sent; our letters carry it word for word."""
    text = letter.raw.get("json", "")
    head = f'{{"id":"{letter.id}","payload":'
    if text.startswith(head) and text.endswith("}"):
        return text[len(head) : -1].encode()
    return messages.encode_kept(letter.payload)


def discard(
    task_id: str, topic: str | None = None, *, request_id: str | None = None
) -> None:
    """Take a dead letter out for good; `undo` brings it back within an hour.

    Without `topic` all are asked: SeveralTopics where it is dead or discarded in more
    than one. DeadLetterNotFound, or NotDead in another state: of any number of
    concurrent discards exactly one succeeds. A repeat with the same `request_id` (any
    text) is the same discard, as long as that is among the newest 1,000 events of the
    topic: it succeeds and changes nothing, also after an undo.
    """
    discarded(task_id, dead.one_topic(task_id, topic), request_id)


def discarded(task_id: str, topic: str, request_id: str | None = None) -> bool:
    """`discard` in a known topic: True if this call did it, False for a repeat."""
    task_id = keys.check_task_id(task_id)
    mark = mark_of(request_id)
    while True:
        letter = _letter(topic, task_id)
        seen, row, fp = "", b"", ""
        if letter is not None:
            row, fp = letters.discarded_row(letter), letter.fingerprint
            seen = letter.entry_id
        args = [task_id, seen, row, conf.RESULTS_KEEP, conf.BIN_MAX, mark]
        more = [keys.group_key(topic, fp)]
        outcome = scripts.run("discard", topic, args, more)[0]
        if outcome in ("discarded", "repeat"):
            return bool(outcome == "discarded")
        if letter is None:
            raise _not_dead(topic, task_id)
        # Another decision was first: look again at what it came to.


def undo(
    task_id: str, topic: str | None = None, *, request_id: str | None = None
) -> str:
    """Bring a discarded letter back; its new entry id.

    DeadLetterNotFound if it was not discarded in the last hour, is not among the newest
    10,000 discarded, or was brought back already: of any number of concurrent undos
    exactly one succeeds. Conflict if its id was sent again since. A repeat with the
    same `request_id` (any text) is the same undo, as long as that is among the newest
    1,000 events of the topic: it gives the same entry id and changes nothing. Without
    `topic` all are asked: SeveralTopics where it is dead or discarded in more than one.
    """
    return undone(task_id, topic, request_id)[0]


def undone(
    task_id: str, topic: str | None, request_id: str | None = None
) -> tuple[str, bool]:
    """`undo`: the entry id, and False for a repeat."""
    task_id = keys.check_task_id(task_id)
    mark = mark_of(request_id)
    for name in _undo_topics(task_id, topic):
        found = _undone(name, task_id, mark)
        if found is not None:
            return found
    hours = conf.BIN_KEEP_S / 3600
    raise errors.DeadLetterNotFound(
        f"nothing to undo: task {task_id} was not discarded in the last "
        f"{'hour' if hours == 1 else f'{hours:g} hours'}, or more than "
        f"{conf.BIN_MAX:,} others were since"
    )


def _undo_topics(task_id: str, topic: str | None) -> list[str]:
    """Where to look; the bin outlives the row that says in which topic it is."""
    try:
        return [lookup.one_topic(task_id, topic, lookup.TO_DECIDE)]
    except errors.TaskNotFound:
        with refusals.guard():
            return sorted(connection.reader().smembers(keys.TOPICS))


def _undone(topic: str, task_id: str, mark: str) -> tuple[str, bool] | None:
    """The new entry id, and whether this call made it; None if the bin lacks it."""
    before = "+"
    while True:
        with refusals.guard():
            client = connection.reader()
            rows = client.xrevrange(keys.named("bin", topic), before, "-", count=_PAGE)
        for bin_id, fields in rows:
            if fields.get("id") == task_id:
                found = _restored(topic, task_id, bin_id, fields.get("fp", ""), mark)
                if found is not None:
                    return found
        if len(rows) < _PAGE:
            # What this request restored is in no bin any more.
            return _restored(topic, task_id, "", "", mark)
        before = f"({rows[-1][0]}"


def _restored(
    topic: str, task_id: str, bin_id: str, fp: str, mark: str
) -> tuple[str, bool] | None:
    args = [task_id, bin_id, conf.BIN_KEEP_S * 1000, mark]
    more = [keys.group_key(topic, fp)]
    outcome, *rest = scripts.run("undo", topic, args, more)
    if outcome == "taken":
        said = f"task {task_id} was sent again since it was discarded"
        raise errors.Conflict(said)
    return None if outcome == "gone" else (str(rest[0]), outcome == "dead")
