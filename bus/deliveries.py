"""Deliveries in the hand of the agent runtime: claimed, renewed, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import redis

from . import (
    endings,
    records,
    scripts,
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
    "finish",
    "heartbeat",
    "heartbeat_call",
    "parse_claim",
    "parse_deliveries",
    "parse_heartbeat",
    "recover",
    "release",
]

# What a claim does about suspects, which are run alone: it tells of them if no other
# agent makes itself empty for them, or in any case, or leaves them to others.
BUSY, EMPTY, PASS_BY = "0", "2", "3"


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


def finish(seat: Seat, item: Completion) -> asyncio.Future[Any] | None:
    """End one delivery, sent in this step: a future, true where the server did so.

    Any other answer, an error too, leaves it to `complete`. So does None: the task was
    tried before, or there is no connection.
    """
    if not records.is_first(item.delivery.record):
        return None
    mine = (seat.group, seat.consumer, conf.RESULTS_KEEP)
    part = endings.complete_part(item)
    return scripts.sent(seat.client, "finish", seat.topic, mine, part)


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
