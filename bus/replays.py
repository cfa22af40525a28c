"""Bulk replay: many dead letters put back to work as one job that survives crashes.

Its letters are frozen when it is created; agents and web servers drive it, see
`bulk.driver`. Each letter leaves the list in the step that replays it, so none is
replayed twice, whoever dies meanwhile; what others replay or discard first is skipped.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from . import errors, keys, purges, refusals, wanted
from .bulk import pace as paces
from .bulk import parts, record, room, selection
from .bulk.pace import Pace
from .bulk.parts import Told
from .bulk.record import Job, ReplayNotFound
from .bulk.selection import Found, Selection

__all__ = [
    "Job",
    "Pace",
    "ReplayNotFound",
    "Selection",
    "cancel",
    "create",
    "create_once",
    "discard",
    "drop",
    "get",
    "letters",
    "list_jobs",
    "paced",
    "pause",
    "preview",
    "put_away",
    "resume",
    "select",
]

UNSTARTED_S = 3_600  # a frozen one that nobody started is dropped
_TOLD_MOST = 1_000

select = selection.checked
paced = paces.checked
drop = room.drop
put_away = room.put_away


def _any(topic: str) -> bool:
    return True


def preview(chosen: Selection, may: Callable[[str], bool] = _any) -> dict[str, Any]:
    """What a bulk replay of these letters would be of; nothing is written.

    Only of topics that whoever asks `may` reach, as for `create`.

    `total`, `topics`, the largest `groups`, a `sample`, `oldest_at`, `newest_at`, and
    how many ids are no dead letters (`missing`).
    """
    found = selection.find(chosen, may)
    told = found.plan(chosen, None)
    told["topics"] = [{"topic": t, "count": n} for t, n in told["topics"].items()]
    del told["by"]
    return {**told, "total": found.total, "missing": found.missing}


def create(
    chosen: Selection,
    pace: Pace | None = None,
    by: str | None = None,
    *,
    start: bool = True,
    may: Callable[[str], bool] = _any,
) -> Job:
    """Freeze the letters and, unless told otherwise, start.

    `by` whom it is goes into the history of each task. DeadLetterNotFound where nothing
    is selected; InvalidOption beyond 100,000 letters; Conflict while ten are open. One
    that is not started within the hour is dropped, sooner where another needs the room.
    """
    job, _ = create_once(None, chosen, pace, by, start=start, may=may)
    return job


def create_once(
    request_id: str | None,
    chosen: Selection,
    pace: Pace | None = None,
    by: str | None = None,
    *,
    start: bool = True,
    may: Callable[[str], bool] = _any,
) -> tuple[Job, bool]:
    """`create` for a request that may come again: the job, and whether it is new.

    For two days a repeat gets the job of the first, as it stands; Conflict where it
    asks for something else, ReplayNotFound where the job was forgotten since.
    """
    pace = pace or Pace()
    asked = None
    if request_id is not None:
        asked = record.request(request_id, [chosen, pace, start])
    if asked and (made := record.made_by(asked)):
        return _running_if(made, start), False
    found = selection.find(chosen, may)
    if not found.total:
        # A request of this name that came together with this one may have taken them.
        if asked and (made := record.made_by(asked)):
            return _running_if(made, start), False
        raise errors.DeadLetterNotFound("no dead letter is selected")
    room.make(by)
    job_id = wanted.new_id()
    made = _written(job_id, found, found.plan(chosen, by), pace, asked)
    if made != job_id:
        _tidy(job_id, found.members)
        return _running_if(made, start), False
    with refusals.written(job=made):
        room.prune()
    # A repeat may have found it before this, and have started it.
    return _running_if(job_id, start), True


def _running_if(job_id: str, start: bool) -> Job:
    """The job, started if that is wanted and nobody has: not its maker, who may have
    died, nor a repeat of his request."""
    with refusals.written(job=job_id):
        job = get(job_id)
        if start and job.state == record.FROZEN:
            with contextlib.suppress(errors.Conflict):  # the first one lives, after all
                return resume(job_id)
            return get(job_id)
        return job


def _written(
    job_id: str,
    found: Found,
    plan: dict[str, Any],
    pace: Pace,
    asked: record.Request | None,
) -> str:
    """Freeze the letters, write the job down: the id of the one the request made."""
    try:
        for topic, members in found.members.items():
            parts.freeze(topic, job_id, members)
        made = record.write(job_id, plan, pace, asked)
        if not made and _closed_cancelled():
            made = record.write(job_id, plan, pace, asked)
    except errors.BusError as exc:
        # If nobody knows, the job may be there, and these are its letters.
        if not isinstance(exc, errors.OutcomeUnknown):
            _tidy(job_id, found.members)
        raise
    if not made:
        _tidy(job_id, found.members)
        raise errors.Conflict(
            f"{record.OPEN_MOST} bulk replays are open: let one end, or cancel one"
        )
    return made


def _closed_cancelled() -> bool:
    """Follow cancelled ones no longer, where there is need of room; whether any was."""
    ids = record.ids(only_open=True)
    over = [job for job in record.read(ids) if job and job.state == record.CANCELLED]
    for job in over:
        record.close(job.id)
    return bool(over)


def _tidy(job_id: str, topics: Any) -> None:
    """Drop what was frozen in vain; where that fails too, it goes within a day."""
    with contextlib.suppress(errors.BusUnavailable):
        for topic in topics:
            parts.forget(topic, job_id)


def get(job_id: str) -> Job:
    """One bulk replay, or ReplayNotFound."""
    [job] = record.read([_checked(job_id)])
    if job is None:
        raise ReplayNotFound(f"no bulk replay {job_id}")
    return job


def list_jobs() -> list[Job]:
    """The newest first: all that are open, and the newest 100 of the last 30 days."""
    return [job for job in record.read(record.ids()) if job is not None]


def letters(job: Job, most: int = _TOLD_MOST) -> list[Told]:
    """Its letters that were not done, with what came of them and why."""
    found: list[Told] = []
    for topic in job.topics:
        found += parts.told(topic, job.id)
        if len(found) >= most:
            break
    return found[:most]


def resume(job_id: str, pace: Pace | None = None) -> Job:
    """Start a frozen one, or let a paused or stopped one go on; with another pace.

    A canary begins anew, and what failed before does not count any more. Conflict in
    any other state, ReplayNotFound.
    """
    before = (record.FROZEN, record.PAUSED, record.STOPPED)
    fields = {"gauge": b""}
    if pace is not None:
        fields["pace"] = orjson.dumps(pace)
    return _turned(job_id, record.RUNNING, before, "", **fields)


def pause(job_id: str, by: str | None = None) -> Job:
    """No letter is replayed after this returns, until somebody resumes it.

    Conflict where it does not run, ReplayNotFound.
    """
    why = f"by {by or 'somebody'}"
    return _turned(job_id, record.PAUSED, (record.RUNNING,), why)


def cancel(job_id: str, by: str | None = None) -> Job:
    """End it: no letter is replayed after this returns; those not replayed stay dead.

    What was replayed goes on, and its outcomes are still counted. Conflict where it has
    ended, ReplayNotFound.
    """
    before = (record.FROZEN, record.RUNNING, record.PAUSED, record.STOPPED)
    return _turned(job_id, record.CANCELLED, before, f"by {by or 'somebody'}")


def discard(job_id: str, each: Callable[[str, int], None] = lambda t, n: None) -> int:
    """Discard the letters of a frozen one instead, and forget it; how many they were.

    Those that were replayed or discarded since are left. `each` is told of a topic with
    its count, also if it breaks. `undo` brings the newest 10,000 of an hour back. In
    steps: after an error call it again. Conflict once it was started, ReplayNotFound.
    """
    job = get(job_id)
    if job.state != record.FROZEN:
        raise errors.Conflict(f"bulk replay {job.id} is {job.state}", state=job.state)
    count = 0
    for topic in job.topics:
        gone, at = 0, 0
        try:
            while found := parts.entries(topic, job.id, at, purges.LETTERS):
                gone += purges.discard_entries(topic, found)
                at += len(found)
        finally:
            each(topic, gone)
        count += gone
    # Somebody who starts it meanwhile replays what was left then, each letter once. Put
    # away meanwhile (room.py), the rest is not known any more.
    try:
        cancel(job.id)
        drop(job.id, job)
    except ReplayNotFound:
        if count < job.total:
            said = f"bulk replay {job.id} was put away: {count:,} are discarded"
            raise errors.Conflict(said) from None
    except errors.Conflict:
        pass
    return count


def _turned(
    job_id: str, state: str, before: Sequence[str], why: str, **fields: bytes
) -> Job:
    job_id = _checked(job_id)
    fence = record.turn(job_id, state, tuple(before), why, **fields)
    with refusals.written(state=state):
        job = get(job_id)
        for topic in job.topics:
            # A driver may be about to replay some: from here on its fence is too old.
            parts.halt(topic, job_id, fence, drop=state == record.CANCELLED)
        return job


def _checked(job_id: str) -> str:
    try:
        return keys.check_task_id(job_id)
    except errors.InvalidName:
        raise ReplayNotFound(f"no bulk replay {job_id!r:.60}") from None
