"""What a bulk replay keeps of one topic: letters to come, and what came of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import (
    alike,
    connection,
    decisions,
    errors,
    history,
    keys,
    lookup,
    messages,
    refusals,
    scripts,
)
from ..letters import DeadLetter
from . import record
from .pace import Counts

CHUNK: Final = 500  # letters frozen per call
BATCH: Final = 100  # letters replayed per call
BATCH_MAX_BYTES: Final = 2 * 1024 * 1024  # of their payloads; one letter may be larger
LOOKS: Final = 500  # outcomes looked for per call
TOLD_MOST: Final = 1_000  # letters that were not done are told by name, per topic
_FIRST_LOOK_MS: Final = 100
_UNSTARTED_S: Final = 86_400  # what a creation that died half-way leaves goes by itself


@dataclass(frozen=True, slots=True)
class Look:
    """How a topic's part stands after a look for outcomes."""

    looked: int
    next_ms: int | None  # until the next outcome is to be looked for
    counts: Counts


@dataclass(frozen=True, slots=True)
class Told:
    """A letter that was not done: `dead` again, `cancelled`, `skipped`, `failed`."""

    topic: str
    id: str
    what: str
    why: str


def freeze(topic: str, job_id: str, members: Sequence[str]) -> None:
    """Write down which letters (`entry id task id`) it is of, in their order."""
    more = _keys(topic, job_id, "todo", "facts")
    for at in range(0, len(members), CHUNK):
        args: list[Any] = [_UNSTARTED_S, at, *members[at : at + CHUNK]]
        scripts.run("replay_freeze", topic, args, more)


def entries(topic: str, job_id: str, first: int, count: int) -> list[str]:
    """Entry ids of the letters to come, so many from the `first` one (0) on."""
    with refusals.guard():
        key = keys.job_part(topic, job_id, "todo")
        members = connection.reader().zrange(key, first, first + count - 1)
    return [str(member).partition(" ")[0] for member in members]


def halt(topic: str, job_id: str, fence: int, *, drop: bool = False) -> None:
    """Let only the driver with this fence go on; `drop` what is left to do."""
    args = [fence, record.KEEP_S, "1" if drop else "0"]
    scripts.run("replay_halt", topic, args, _all_keys(topic, job_id))


def forget(topic: str, job_id: str) -> None:
    """Drop all that is kept of it."""
    scripts.run("replay_halt", topic, [0, 0, "2"], _all_keys(topic, job_id))


def look(topic: str, job_id: str, looks: int = LOOKS) -> Look:
    """Look for so many outcomes that are due, and at how far it is."""
    more, args = _all_keys(topic, job_id), [looks, TOLD_MOST]
    reply = scripts.run("replay_settle", topic, args, more, retry_s=0)
    looked, _, next_ms, todo, open_, flat = reply
    facts = dict(zip(flat[::2], map(int, flat[1::2]), strict=True))
    facts = {name: n for name, n in facts.items() if name not in ("fence", "frozen")}
    counts = Counts(todo=todo, open=open_, **facts)
    return Look(looked, None if next_ms < 0 else int(next_ms), counts)


def replay(topic: str, job: record.Job, count: int) -> bool:
    """Put up to `count` of the next letters back to work; False for a stale driver."""
    part = keys.job_part(topic, job.id, "todo")
    with refusals.guard():
        members = connection.reader().zrange(part, 0, min(count, BATCH) - 1)
    pairs = [str(member).split(" ", 1) for member in members]
    read = alike.found([(topic, entry_id) for entry_id, _ in pairs])
    found: list[DeadLetter] = []
    size, unfit, gone = 0, [], []
    for (entry_id, task_id), letter in zip(pairs, read, strict=True):
        if not _is_id(task_id):
            unfit += [entry_id, task_id, "failed", "its id is no task id"]
            continue
        if letter is None:
            gone.append((entry_id, task_id))
            continue
        size += len(letter.raw.get("json", ""))
        if found and size > BATCH_MAX_BYTES:
            break
        found.append(letter)
    if found:
        state, ids = _run(topic, job, found)
        if state == "fenced":
            return False
        gone += [(each.entry_id, each.id) for each in found if each.id in ids]
    for entry_id, task_id in gone:
        unfit += [entry_id, task_id, *_fate(topic, task_id, entry_id)]
    if unfit:
        more = _keys(topic, job.id, "todo", "facts", "told")
        args = [job.fence, TOLD_MOST, *unfit]
        scripts.run("replay_skip", topic, args, more, retry_s=0)
    return True


def _run(topic: str, job: record.Job, found: list[DeadLetter]) -> tuple[str, set[str]]:
    """One call for these letters; the ids of those that are none any more."""
    fingerprints = sorted({letter.fingerprint for letter in found})
    more = _keys(topic, job.id, "todo", "out", "facts")
    more += [keys.group_key(topic, fp) for fp in fingerprints]
    mark = hashlib.sha256(job.id.encode()).hexdigest()[:16]
    args: list[Any] = [job.fence, _FIRST_LOOK_MS, mark]
    for letter in found:
        digest = decisions.digest(letter.payload)
        line = history.replay_line(letter.entry_id, job.by, digest, None, job.id)
        args += [letter.entry_id, letter.id, decisions.body(letter), letter.options]
        args += [letter.epoch + 1, line, fingerprints.index(letter.fingerprint) + 1]
    state, ids = scripts.run("replay_batch", topic, args, more, retry_s=0)
    return str(state), set(ids)


def _fate(topic: str, task_id: str, entry_id: str) -> tuple[str, str]:
    """Why a letter is none any more, or cannot be replayed."""
    task = lookup.found(topic, task_id)
    if task is not None:
        for each in reversed(task.replays):
            if each.get("letter") == entry_id:
                return "skipped", f"replayed by {each.get('by') or 'somebody'}"
        if task.state == messages.DISCARDED:
            return "skipped", "discarded"
        if task.state == messages.DEAD:
            return "skipped", "discarded and restored"
        return "skipped", f"it is {task.state}"
    with refusals.guard():
        key = keys.dead_stream(topic)
        if connection.reader().xrange(key, entry_id, entry_id):
            return "failed", "in no index: somebody wrote this letter by hand"
    return "skipped", "deleted"


def told(topic: str, job_id: str) -> list[Told]:
    """Its letters that were not done, in the order in which that came out."""
    with refusals.guard():
        key = keys.job_part(topic, job_id, "told")
        rows = connection.reader().lrange(key, 0, -1)
    found = []
    for row in rows:
        what, task_id, why = str(row).split(" ", 2)
        found.append(Told(topic, task_id, what, why))
    return found


def _is_id(text: str) -> bool:
    try:
        return keys.check_task_id(text) == text
    except errors.InvalidName:
        return False


def _keys(topic: str, job_id: str, *parts: str) -> list[str]:
    return [keys.job_part(topic, job_id, part) for part in parts]


def _all_keys(topic: str, job_id: str) -> list[str]:
    return _keys(topic, job_id, "todo", "out", "facts", "told")
