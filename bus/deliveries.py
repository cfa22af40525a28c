"""Deliveries in the hand of the agent runtime: claimed, renewed, ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis

from . import (
    endings,
    keys,
    records,
    replies,
    scripts,
    verbs,
    wire,
)
from .conf import conf
from .endings import (
    BATCH,
    DUPLICATE,
    FENCED,
    OK,
    Completion,
    Delivery,
    Failure,
    parse_deliveries,
)

__all__ = [
    "BATCH",
    "BUSY",
    "DUPLICATE",
    "EMPTY",
    "OK",
    "PASS_BY",
    "Beat",
    "Claimed",
    "Completion",
    "Delivery",
    "Failure",
    "Seat",
    "claim",
    "claim_args",
    "complete",
    "fail",
    "heartbeat",
    "heartbeat_call",
    "parse_claim",
    "parse_deliveries",
    "parse_heartbeat",
    "recover",
    "release",
    "verify",
    "wait_for_new",
]

# What a claim does about suspects, which are run alone: it tells of them if no other
# agent makes itself empty for them, or in any case, or leaves them to others.
BUSY, EMPTY, PASS_BY = "0", "2", "3"

_FIELDS: Final = ["id", "json", "meta"]
_SETTINGS: Final = ("paused", "timeout_s", "renewed")
# Entries that are looked up with the read; more are asked for by their ids.
_LOOK_UP: Final = 10


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a consumer takes its tasks: one topic's working group, over one client."""

    client: wire.Wire
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
    group: str,
    consumer: str,
    want: int,
    alone: bool,
    sids: Sequence[str] = (),
    about: str = BUSY,
) -> list[Any]:
    """Arguments of `claim`; `sids` are entries a blocking read delivered just now."""
    flag = "1" if alone else about
    fixed = [conf.SUSPECT_AFTER, "1", conf.RESULTS_KEEP]
    return [group, consumer, want, flag, *fixed, *sids]


async def claim(
    seat: Seat, want: int, alone: bool, sids: Sequence[str] = (), about: str = BUSY
) -> Claimed:
    """Take up to `want` tasks. Sent once: after an error `recover` finds what came."""
    args = claim_args(seat.group, seat.consumer, want, alone, sids, about)
    raw = await scripts.arun("claim", seat.topic, args, client=seat.client, retry_s=0)
    return parse_claim(seat.topic, raw)


@dataclass(slots=True)
class Arrived:
    """What a blocking read has brought: entries as `(sid, flat fields)`, and what stood
    in the settings and, by sid, in the records of those looked up with it."""

    entries: list[tuple[str, list[str]]]
    now_ms: int
    settings: list[Any]
    records: dict[str, str]


async def wait_for_new(
    seat: Seat,
    reader: wire.Wire,
    want: int,
    block_s: float,
    after: str,
    more_s: float = 0.0,
) -> Arrived | None:
    """New entries for this consumer, waiting for the first; None where none came.

    It waits for `block_s`, which the timeout of the reader allows for, and for
    `more_s`. `after` is the last sid it was given. What decides whether they may run is
    asked for behind the read on the same connection: the server answers both in one
    write, and an idle agent has what it needs a trip earlier.
    """
    read: list[Any] = ["XREADGROUP", "GROUP", seat.group, seat.consumer]
    read += ["COUNT", want, "BLOCK", int((block_s + more_s) * 1000)]
    read += ["STREAMS", keys.task_stream(seat.topic), ">"]
    args = [seat.group, seat.consumer, after, _LOOK_UP]
    ask = verbs.command("received", seat.topic, args)
    reply, looked = await reader.ask_all(tuple(read), ask, more_s=more_s)
    if isinstance(reply, Exception):
        raise reply
    entries = replies.flat_entries(reply)
    if not entries:
        return None
    if not isinstance(looked, list):  # the server forgot its scripts
        looked = await seat.run("received", args)
    now_ms, *settings = looked[:4]
    records_of = dict(zip(looked[4::2], looked[5::2], strict=True))
    return Arrived(entries, now_ms, settings, records_of)


async def verify(seat: Seat, arrived: Arrived) -> Claimed | None:
    """What a blocking read has delivered, checked against the records.

    The short way of `claim` for the common case: every entry is ours and its record
    names it. None where anything else is among them, for the script to sort out.
    """
    if not all(flat[::2] == _FIELDS for _, flat in arrived.entries):
        return None
    settings = arrived.settings
    texts = [arrived.records.get(sid) for sid, _ in arrived.entries]
    if not all(texts):
        ids = [flat[1] for _, flat in arrived.entries]
        settings, texts = await seat.client.execute_all(
            ("HMGET", keys.named("settings", seat.topic), *_SETTINGS),
            ("HMGET", keys.named("tasks", seat.topic), *ids),
        )
    items, now_ms = [], arrived.now_ms
    for (sid, flat), text in zip(arrived.entries, texts, strict=True):
        if not text or not text.startswith(sid + "|"):
            return None
        record = records.parse_record(text)
        if record.lost >= conf.SUSPECT_AFTER or records.is_upto(sid, settings[2]):
            return None
        if "c" in record.flags:  # it was asked to be cancelled since, and is to end so
            return None
        items.append(
            Delivery(seat.topic, sid, flat[1], flat[3], flat[5], record, now_ms)
        )
    if settings[0] == "1":
        return None
    return Claimed(items, now_ms, False, 0, records.seconds(settings[1]))


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
    timeout_s = records.seconds(timeout)
    items = parse_deliveries(topic, now, flat)
    return Claimed(items, now, bool(paused), suspects, timeout_s)


async def complete(
    seat: Seat,
    items: Sequence[Completion],
) -> list[str]:
    """End up to 100 deliveries of one topic; per item ok, duplicate, fenced or gone."""
    args = endings.complete_args(seat.group, seat.consumer, items)
    return endings.complete_outcomes(await seat.run("complete", args), items)


async def fail(seat: Seat, items: Sequence[Failure]) -> list[str]:
    """End up to 100 attempts of one topic as failed.

    Per item delayed, dead or cancelled; fenced or gone where it was not ours.
    """
    args, groups = endings.fail_args(seat.topic, seat.group, seat.consumer, items)
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
        outcomes = await seat.run("release", args)
        count += sum(outcome != FENCED for outcome in outcomes)
    return count


@dataclass(slots=True)
class Beat:
    """What the server answered a lease renewal."""

    now_ms: int
    paused: bool
    handed_over: bool  # rows wait for any agent of this group
    cancelled: list[Delivery]
    fenced: list[Delivery]
    consumers: int  # of the group, who would take them as well


def heartbeat(
    client: redis.Redis,
    topic: str,
    group: str,
    consumer: str,
    held: Sequence[Delivery],
) -> Beat:
    """Renew the lease of up to 100 deliveries of one topic."""
    call = heartbeat_call(topic, group, consumer, held)
    # One try: the beat thread has its own rhythm and reconnects itself.
    return parse_heartbeat(scripts.run(*call, client=client, retry_s=0), held)


def heartbeat_call(
    topic: str, group: str, consumer: str, held: Sequence[Delivery]
) -> scripts.Call:
    """`heartbeat` as a call of its script."""
    args: list[Any] = [group, consumer]
    for item in held:
        args += (item.sid, item.record.n, item.id)
    return "heartbeat", topic, args, ()


def parse_heartbeat(reply: list[Any], held: Sequence[Delivery]) -> Beat:
    """What `heartbeat_call` came to."""
    now, paused, waiting, cancelled, fenced, consumers = reply
    return Beat(
        now,
        bool(paused),
        bool(waiting),
        [held[i] for i in cancelled],
        [held[i] for i in fenced],
        consumers,
    )
