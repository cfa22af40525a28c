"""Deliveries in the hand of the agent runtime: claimed, renewed, ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio

from . import (
    keys,
    messages,
    records,
    replies,
    scripts,
    wire,
)
from .conf import conf

BATCH: Final = 100
_FIELDS: Final = ["id", "json", "meta"]
OK: Final = "ok"
DUPLICATE: Final = "duplicate"
FENCED: Final = "fenced"
GONE: Final = "gone"


@dataclass(slots=True)
class Delivery:
    """One task in an agent's hand. `sid.n` is its fence; times are server ms."""

    topic: str
    sid: str
    id: str
    json: str
    meta: str
    record: records.Record
    received_ms: int

    @property
    def fence(self) -> str:
        """The server's token of this delivery."""
        return f"{self.sid}.{self.record.n}"

    @property
    def enqueued_ms(self) -> int:
        """When the task was first accepted, server ms."""
        if self.meta:
            came = records.number(records.parse_options(self.meta).get("e", ""))
            if came is not None:
                return came
        return messages.entry_ms(self.sid)


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a consumer takes its tasks: one topic's working group, over one client."""

    client: redis.asyncio.Redis
    topic: str
    group: str
    consumer: str

    async def run(self, name: str, args: list[Any], more: Sequence[str] = ()) -> Any:
        """A script of this topic."""
        return await scripts.arun(name, self.topic, args, more, client=self.client)


@dataclass(slots=True)
class Claimed:
    """What a claim came to."""

    deliveries: list[Delivery]
    now_ms: int
    paused: bool
    suspects: int  # tasks that killed agents before and wait to be run alone
    timeout_s: float | None  # the topic's setting


def claim_args(
    group: str, consumer: str, want: int, alone: bool, sids: Sequence[str] = ()
) -> list[Any]:
    """Arguments of `claim`; `sids` are entries a blocking read delivered just now."""
    flag = "1" if alone else "0"
    return [group, consumer, want, flag, conf.SUSPECT_AFTER, "1", *sids]


async def claim(
    seat: Seat,
    want: int,
    alone: bool,
    sids: Sequence[str] | None = None,
) -> Claimed:
    """Take up to `want` tasks. Sent once: after an error `recover` finds what came."""
    args = claim_args(seat.group, seat.consumer, want, alone, sids or ())
    raw = await scripts.arun("claim", seat.topic, args, client=seat.client, retry_s=0)
    return parse_claim(seat.topic, raw)


async def wait_for_new(
    seat: Seat, reader: Any, want: int, block_s: float
) -> list[tuple[str, list[str]]]:
    """New entries for this consumer, `(sid, flat fields)`, waiting for the first."""
    command: list[Any] = ["XREADGROUP", "GROUP", seat.group, seat.consumer]
    command += ["COUNT", want, "BLOCK", int(block_s * 1000)]
    command += ["STREAMS", keys.task_stream(seat.topic), ">"]
    return replies.flat_entries(await reader.execute_command(*command))


async def verify(
    seat: Seat, entries: Sequence[tuple[str, list[str]]], now_ms: int
) -> Claimed | None:
    """Entries a blocking read has delivered, checked against their records.

    The short way of `claim` for the common case: every entry is ours and its record
    names it. None where anything else is among them, for the script to sort out.
    """
    ours = all(flat[::2] == _FIELDS for _, flat in entries)
    if not ours or not isinstance(seat.client, wire.Wire):
        return None
    ids = [flat[1] for _, flat in entries]
    settings, texts = await seat.client.execute_all(
        ("HMGET", keys.named("settings", seat.topic), "paused", "timeout_s"),
        ("HMGET", keys.named("tasks", seat.topic), *ids),
    )
    items = []
    for (sid, flat), text in zip(entries, texts, strict=True):
        if not text or not text.startswith(sid + "|"):
            return None
        record = records.parse_record(text)
        if record.lost >= conf.SUSPECT_AFTER:
            return None
        items.append(
            Delivery(seat.topic, sid, flat[1], flat[3], flat[5], record, now_ms)
        )
    if settings[0] == "1":
        return None
    return Claimed(items, now_ms, False, 0, float(settings[1]) if settings[1] else None)


@dataclass(slots=True)
class Recovered:
    """Tasks a consumer holds on the server; `after` is where to go on, if anywhere."""

    now_ms: int
    paused: bool
    after: str
    deliveries: list[Delivery]


async def recover(seat: Seat, after: str) -> Recovered:
    """Up to 100 tasks this consumer holds, from behind sid `after`."""
    args = [seat.group, seat.consumer, after, ""]
    now, paused, last, flat = await seat.run("recover", args)
    return Recovered(now, bool(paused), last, parse_deliveries(seat.topic, now, flat))


def parse_claim(topic: str, raw: list[Any]) -> Claimed:
    """The reply of `claim`."""
    now, paused, suspects, timeout, flat = raw
    timeout_s = float(timeout) if timeout else None
    items = parse_deliveries(topic, now, flat)
    return Claimed(items, now, bool(paused), suspects, timeout_s)


def parse_deliveries(topic: str, now: int, flat: list[str]) -> list[Delivery]:
    """Deliveries as scripts return them: flat sid, id, json, meta, record."""
    record = records.parse_record
    return [
        Delivery(topic, sid, task_id, json, meta, record(text), now)
        for sid, task_id, json, meta, text in zip(
            flat[::5], flat[1::5], flat[2::5], flat[3::5], flat[4::5], strict=True
        )
    ]


@dataclass(slots=True)
class Completion:
    """A finished delivery with its result row, on its way to `complete`."""

    delivery: Delivery
    row: bytes
    wait_bucket: int
    run_bucket: int


async def complete(
    seat: Seat,
    items: Sequence[Completion],
) -> list[str]:
    """End up to 100 deliveries of one topic; per item ok, duplicate, fenced or gone."""
    args: list[Any] = [seat.group, seat.consumer, conf.RESULTS_KEEP]
    for item in items:
        held = item.delivery
        args += (held.sid, held.record.n, held.id)
        args += (item.wait_bucket, item.run_bucket, item.row)
    raw = await seat.run("complete", args)
    outcomes = [OK] * len(items)
    for at in range(1, len(raw), 3):
        index, kind, info = raw[at : at + 3]
        outcomes[index] = _refusal(kind, info, items[index].delivery.fence)
    return outcomes


def _refusal(kind: str, info: str, fence: str) -> str:
    """A repeat of one's own is told by the fence that got the task done.

    A task that was cancelled with this fence, or died of it, has no such result.
    """
    if kind == "done":
        row = messages.parse_row(info)
        is_done = row.get("state", messages.DONE) == messages.DONE
        return DUPLICATE if is_done and row.get("fence") == fence else GONE
    return FENCED if kind == "fenced" else GONE


@dataclass(slots=True)
class Failure:
    """A failed attempt on its way to `fail`."""

    delivery: Delivery
    attempt_line: bytes
    error_json: bytes
    fingerprint: str
    delay_s: float
    final: bool
    max_attempts: int
    run_bucket: int
    said: str = ""  # for the log


async def fail(seat: Seat, items: Sequence[Failure]) -> list[str]:
    """End up to 100 attempts of one topic as failed.

    Per item delayed, dead or cancelled; fenced or gone where it was not ours.
    """
    # Every key is declared: those of the failure groups stand behind the others.
    marks = list(dict.fromkeys(item.fingerprint for item in items))
    place = {mark: at for at, mark in enumerate(marks, 1)}
    args: list[Any] = [seat.group, seat.consumer, seat.topic, conf.RESULTS_KEEP]
    for item in items:
        held = item.delivery
        args += (held.sid, held.record.n, held.id, int(item.delay_s * 1000))
        args += ("1" if item.final else "0", item.max_attempts)
        args += (item.attempt_line, item.error_json, item.fingerprint)
        args += (item.run_bucket, place[item.fingerprint])
    groups = [keys.group_key(seat.topic, mark) for mark in marks]
    return list(await seat.run("fail", args, groups))


async def release(
    seat: Seat,
    held: Sequence[Delivery],
) -> int:
    """Give deliveries back unfinished, keeping their place; how many were ours."""
    count = 0
    for at in range(0, len(held), BATCH):
        args: list[Any] = [seat.group, seat.consumer, seat.topic, conf.RESULTS_KEEP]
        for item in held[at : at + BATCH]:
            args += (item.sid, item.record.n, item.id)
        count += int(await seat.run("release", args))
    return count


@dataclass(slots=True)
class Beat:
    """What the server answered a lease renewal."""

    now_ms: int
    paused: bool
    handed_over: bool  # rows wait for any agent of this group
    cancelled: list[Delivery]
    fenced: list[Delivery]


def heartbeat(
    client: redis.Redis,
    topic: str,
    group: str,
    consumer: str,
    held: Sequence[Delivery],
) -> Beat:
    """Renew the lease of up to 100 deliveries of one topic."""
    args: list[Any] = [group, consumer]
    for item in held:
        args += (item.sid, item.record.n, item.id)
    # One try: the beat thread has its own rhythm and reconnects itself.
    raw = scripts.run("heartbeat", topic, args, client=client, retry_s=0)
    now, paused, waiting, cancelled, fenced = raw
    return Beat(
        now,
        bool(paused),
        bool(waiting),
        [held[i] for i in cancelled],
        [held[i] for i in fenced],
    )
