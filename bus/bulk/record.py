"""The record of a bulk replay: what was asked for, by whom, how far it is."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from .. import connection, errors, keys, messages, refusals, replies, scripts
from .pace import Counts, Gauge, Pace, named

FROZEN: Final = "frozen"  # its letters are chosen, nobody has started it
RUNNING: Final = "running"
PAUSED: Final = "paused"  # by somebody
STOPPED: Final = "stopped"  # by itself
DONE: Final = "done"  # every letter had its turn, every outcome is known
CANCELLED: Final = "cancelled"
STATES: Final = (FROZEN, RUNNING, PAUSED, STOPPED, DONE, CANCELLED)

KEEP: Final = 100  # the newest; open ones always
KEEP_S: Final = 30 * 86_400  # from its last change on
REQUEST_S: Final = 2 * 86_400  # a repeat is told from a new request
OPEN_MOST: Final = 10  # each may hold 100,000 letters
LEASE_MS: Final = 5_000  # until another may drive on where a driver died


class ReplayNotFound(errors.NotFound):
    """No bulk replay with this id: never created, or forgotten since."""

    code = "replay_not_found"


class Request(NamedTuple):
    """A request that has a name: where that stands, a digest of what it asks for."""

    key: str
    digest: str


@dataclass(frozen=True, slots=True)
class Job:
    """A bulk replay as it stands; `counts` are of its last checkpoint."""

    id: str
    state: str
    why: str  # it is paused, stopped or ended
    by: str | None
    selection: dict[str, Any]
    topics: dict[str, int]  # how many letters of each
    groups: list[dict[str, Any]]  # the largest: topic, fingerprint, count, error
    sample: list[dict[str, Any]]  # the first: id, topic, died_at, error
    oldest_at: str
    newest_at: str
    pace: Pace
    counts: Counts
    gauge: Gauge | None  # None: the driver begins to count anew
    fence: int
    created_at: str
    started_at: str | None
    ended_at: str | None  # or when it was paused or stopped
    told_ms: int

    @property
    def total(self) -> int:
        """How many letters it is of."""
        return sum(self.topics.values())

    @property
    def reach(self) -> frozenset[str]:
        """The topics of its letters, and those it was asked of that had none."""
        return frozenset((*self.topics, *self.selection.get("topics", ())))

    @property
    def topic(self) -> str:
        """The only topic it is about, for the audit trail; empty where it tells of
        several, which not everybody reaches."""
        return next(iter(self.reach)) if len(self.reach) == 1 else ""

    @property
    def step(self) -> str:
        """The step of its canary, for eyes."""
        return named(self.pace, self.gauge.step if self.gauge else 0)

    @property
    def handled(self) -> int:
        """Letters that had their turn."""
        return self.counts.replayed + self.counts.skipped + self.counts.failed

    def as_dict(self) -> dict[str, Any]:
        """For clients."""
        return {
            "id": self.id,
            "state": self.state,
            "why": self.why or None,
            "by": self.by,
            "created_at": self.created_at,
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "selection": self.selection,
            "total": self.total,
            "topics": [{"topic": t, "count": n} for t, n in self.topics.items()],
            "groups": self.groups,
            "sample": self.sample,
            "oldest_at": self.oldest_at,
            "newest_at": self.newest_at,
            **self.pace.as_dict(),
            "step": self.step or None,
            "counts": self.counts.as_dict(),
        }


def parse(job_id: str, raw: dict[str, str]) -> Job | None:
    """The record in the fields of its key; None if it is none (any more), whoever
    wrote it."""
    try:
        return _parsed(job_id, raw)
    except (LookupError, TypeError, ValueError):
        return None


def _parsed(job_id: str, raw: dict[str, str]) -> Job:
    plan = orjson.loads(raw["plan"])
    gauge = raw.get("gauge")
    return Job(
        id=job_id,
        state=raw["state"],
        why=raw.get("why", ""),
        by=plan["by"],
        selection=plan["selection"],
        topics=plan["topics"],
        groups=plan["groups"],
        sample=plan["sample"],
        oldest_at=plan["oldest_at"],
        newest_at=plan["newest_at"],
        pace=Pace(**orjson.loads(raw["pace"])),
        counts=Counts(**orjson.loads(raw["counts"])),
        gauge=Gauge(**orjson.loads(gauge)) if gauge else None,
        fence=int(raw["fence"]),
        created_at=messages.iso(int(raw["created"])),
        started_at=_time(raw.get("started")),
        ended_at=_time(raw.get("ended")),
        told_ms=int(raw.get("told") or raw["created"]),
    )


def _time(ms: str | None) -> str | None:
    return messages.iso(int(ms)) if ms else None


def write(
    job_id: str, plan: dict[str, Any], pace: Pace, request: Request | None = None
) -> str | None:
    """Write a new one down, frozen: its id, or that of the one this request made first.

    None where too many are open; Conflict where the request asked for something else.
    """
    total = sum(plan["topics"].values())
    line = f"{job_id} {request.digest}" if request else ""
    args: list[Any] = [job_id, OPEN_MOST, KEEP_S, REQUEST_S, line, "state", FROZEN]
    args += ["plan", orjson.dumps(plan), "pace", orjson.dumps(pace)]
    args += ["counts", orjson.dumps(Counts(todo=total))]
    more = [keys.job_key(job_id), *([request.key] if request else [])]
    outcome, *known = scripts.run("replays_open", "", args, more)
    if request and known:
        return _same(request, known[0])
    return job_id if outcome == "made" else None


def request(request_id: str, asked: list[Any]) -> Request:
    """A request by its name; two are the same if they have asked for the same."""
    digest = hashlib.blake2b(orjson.dumps(asked), digest_size=9).hexdigest()
    return Request(keys.request_key(request_id), digest)


def made_by(request: Request) -> str | None:
    """The bulk replay it has made already; Conflict where it asked for another."""
    with refusals.guard():
        line = connection.reader().get(request.key)
    return None if line is None else _same(request, str(line))


def _same(request: Request, line: str) -> str:
    job_id, digest = line.split()
    if digest != request.digest:
        said = f"this request has made bulk replay {job_id}, which is of something else"
        raise errors.Conflict(f"{said}: name another request differently")
    return job_id


def read(job_ids: list[str]) -> list[Job | None]:
    """These, in one round trip; None for each that is gone."""
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        for job_id in job_ids:
            pipe.hgetall(keys.job_key(job_id))
        replies = pipe.execute() if job_ids else []
    return [parse(*pair) for pair in zip(job_ids, replies, strict=True)]


def ids(*, only_open: bool = False) -> list[str]:
    """The newest first."""
    with refusals.guard():
        name = keys.OPEN_REPLAYS if only_open else keys.REPLAYS
        return [str(each) for each in connection.reader().zrevrange(name, 0, -1)]


def age_ms(job: Job) -> int:
    """How long ago it was changed, by the server's clock."""
    with refusals.guard():
        return replies.clock_ms(connection.reader().time()) - job.told_ms


def hold(job_id: str, driver: str) -> Job | None:
    """Take it, or keep it, to drive it; None where another driver has it."""
    more = [keys.job_key(job_id)]
    flat = scripts.run("replays_hold", "", [driver, LEASE_MS], more, retry_s=0)
    return parse(job_id, dict(zip(flat[::2], flat[1::2], strict=True)))


def tell(
    job: Job,
    driver: str,
    counts: Counts,
    gauge: Gauge,
    state: str | None = None,
    why: str = "",
    *,
    close: bool = False,
) -> bool:
    """The driver's checkpoint; False where it is not the driver any more."""
    args: list[Any] = [job.id, driver, job.fence, job.state, state or job.state]
    args += ["1" if close else "0", KEEP_S, "counts", orjson.dumps(counts)]
    args += ["gauge", orjson.dumps(gauge)]
    if state is not None:
        args += ["why", why]
    more = [keys.job_key(job.id)]
    return bool(scripts.run("replays_tell", "", args, more, retry_s=0))


def turn(
    job_id: str, state: str, before: tuple[str, ...], why: str, **fields: bytes
) -> int:
    """Somebody changes its state; the fence from then on.

    ReplayNotFound, or Conflict where its state is none of `before`.
    """
    told: list[Any] = [part for pair in fields.items() for part in pair]
    mark = secrets.token_hex(8)
    args = [state, f",{','.join(before)},", KEEP_S, mark, "why", why, *told]
    reply = scripts.run("replays_turn", "", args, [keys.job_key(job_id)])
    if not reply:
        raise ReplayNotFound(f"no bulk replay {job_id}")
    if reply[0] == "not":
        raise errors.Conflict(f"bulk replay {job_id} is {reply[1]}", state=reply[1])
    return int(reply[1])


def close(job_id: str) -> None:
    """Let nobody drive or follow it any more."""
    with refusals.guard():
        connection.reader().zrem(keys.OPEN_REPLAYS, job_id)


def forget(job_id: str) -> None:
    """Take it off the lists."""
    scripts.run("replays_forget", "", [job_id], [keys.job_key(job_id)])
