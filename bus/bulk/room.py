"""Which bulk replays make room for others: old ones, and those that nobody started."""

from __future__ import annotations

import contextlib
from typing import Final

from .. import errors
from . import parts, record
from .record import Job

# One that is to start at once is frozen for a moment as well.
_SETTLED_MS: Final = 5_000


def drop(job_id: str, job: Job | None) -> None:
    """Forget a bulk replay that ended, or was never started, with all it keeps."""
    for topic in job.topics if job else ():
        parts.forget(topic, job_id)
    record.forget(job_id)


def put_away(job: Job) -> None:
    """Forget one that nobody started; Conflict where somebody has, ReplayNotFound."""
    record.turn(job.id, record.CANCELLED, (record.FROZEN,), "")
    drop(job.id, job)


def prune() -> None:
    """Forget the oldest, beyond those that are kept."""
    old = record.ids()[record.KEEP :]
    still_open = set(record.ids(only_open=True))
    old = [job_id for job_id in old if job_id not in still_open]
    for job_id, job in zip(old, record.read(old), strict=True):
        drop(job_id, job)


def make(by: str | None) -> None:
    """Where as many are open as may be, put away one that was only looked at.

    The oldest of whoever wants another; else the oldest of somebody who has looked at a
    newer one since. Of those that name nobody it cannot be told whose they are.
    """
    ids = record.ids(only_open=True)
    if by is None or len(ids) < record.OPEN_MOST:
        return
    jobs = [job for job in reversed(record.read(ids)) if job]
    if any(job.state == record.CANCELLED for job in jobs):
        return  # it is followed no longer, which is room enough
    looks = [job for job in jobs if job.state == record.FROZEN and job.by]
    newest = {job.by: job for job in looks}
    own = [job for job in looks if job.by == by]
    left = [job for job in looks if newest[job.by] is not job]
    for job in own + left:
        if record.age_ms(job) < _SETTLED_MS:
            continue
        with contextlib.suppress(errors.Conflict, errors.NotFound):  # started just now
            put_away(job)
            return
