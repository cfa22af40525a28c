"""Agents over HTTP: they register with a lease, claim, and leave.

Such an agent has no process of ours and no connection to judge it by: what it neither
renews nor ends for one lease (`fences.py`) is handed over.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from typing import Any, Final

from . import (
    agents,
    connection,
    dead,
    endings,
    errors,
    fences,
    foreign,
    groups,
    judge,
    keys,
    messages,
    refusals,
    scripts,
)
from .conf import conf
from .endings import Delivery

LEASE_MOST_S: Final = 600
_TOPICS_MOST: Final = 100  # that an agent's record names


@dataclass(frozen=True, slots=True)
class Lent:
    """One task as an agent over HTTP gets it; `timeout_s` None where nobody set one."""

    topic: str
    id: str
    fence: str
    payload: Any
    attempt: int
    epoch: int
    timeout_s: float | None
    lease_s: int


@dataclass(frozen=True, slots=True)
class Claim:
    """What a claim came to; `drain` tells the agent to take nothing more, and end."""

    lent: list[Lent]
    drain: bool


def register(
    agent_id: str, agent_type: str, ttl_s: float, meta: Any, lease_s: int | None
) -> None:
    """Register an agent over HTTP, or renew its registration whole.

    `lease_s` is how long it may hold a task without a sign of life for it; None: 15.
    """
    record = agents.new_record(agent_id, agent_type, meta)
    least = int(conf.LEASE_S)
    lease_s = least if lease_s is None else lease_s
    if not least <= lease_s <= LEASE_MOST_S:
        said = f"lease_s {lease_s} is not {least} to {LEASE_MOST_S} s"
        raise errors.InvalidOption(said)
    # Where it may hold tasks: it need not have ended them before it registers again.
    before = _record(agent_id) or {}
    topics = before.get("topics", [])
    record |= {"lease_s": lease_s, "topics": topics}
    if before and (_lease_of(before) != lease_s or before.get("leases")):
        # A claim that is under way lends under the lease it has read.
        in_use = {_lease_of(before), *_leases_in_use(agent_id, topics)}
        record["leases"] = sorted(in_use)
    agents.register(agent_id, agent_id, ttl_s, record)


def _leases_in_use(agent_id: str, topics: list[str]) -> set[int]:
    """Under which leases it holds tasks: what it was lent keeps its own."""
    names = {name for topic in topics for name in _held_by(agent_id, topic)[1]}
    return {lease for name in names if (lease := keys.lease_of(name))}


def _held_by(agent_id: str, topic: str) -> tuple[str, list[str]]:
    """The working group, and under which names an agent over HTTP holds tasks of it."""
    group, names = judge.holders(topic)
    lent = [name for name in names if keys.lease_of(name) is not None]
    return group, [name for name in lent if keys.agent_of(name) == agent_id]


def leave(agent_id: str) -> bool:
    """End a registration; whether there was one. What it holds is handed over."""
    record = _record(agent_id)
    was = agents.deregister_agent(agent_id)
    if record is not None and not _is_runtime(record):
        with refusals.written(left=was) if was else contextlib.nullcontext():
            for topic in record.get("topics", ()):
                group, names = _held_by(agent_id, topic)
                for consumer in names:
                    judge.take(topic, group, consumer, 0)
    return was


def claim(topic: str, agent_id: str, count: int, claim_id: str | None = None) -> Claim:
    """Up to `count` tasks for a registered agent, now; the same claim again gives those
    of them that are still held, also to an agent that drains.

    AgentNotFound where it is not registered, Conflict where the id is an agent of the
    runtime. Fewer tasks come where their payloads are large, one where it is a suspect.
    """
    keys.check_topic(topic)
    keys.check_count(count, endings.BATCH)
    with refusals.guard():
        pipe = connection.reader().pipeline(transaction=False)
        pipe.get(keys.agent_key(agent_id))
        pipe.hget(keys.DRAINING, agent_id)
        text, told = pipe.execute()
    record = messages.parse_row(text) if text else None
    if record is None:
        raise errors.AgentNotFound(f"agent {agent_id!r} is not registered (any more)")
    if _is_runtime(record):
        raise errors.Conflict(
            f"agent {agent_id!r} is one of the agent runtime, which takes tasks itself"
        )
    drain = told == agent_id
    if drain and claim_id is None:
        return Claim([], True)
    if not drain:
        _remember_topic(agent_id, text, topic)
    lease_s = _lease_of(record)
    key = keys.claim_key(topic, agent_id, claim_id or str(uuid.uuid4()))
    # Who drains gets nothing new, but still hears what an answer that was lost told.
    args = [keys.lender_of(agent_id, lease_s), 0 if drain else count]
    args += [conf.SUSPECT_AFTER, lease_s * 1000, conf.RESULTS_KEEP]
    args += _other_lenders(agent_id, record, lease_s)
    now, timeout, holder, flat = _lend(topic, args, key)
    lease_s = keys.lease_of(holder) or lease_s
    items = endings.parse_deliveries(topic, now, flat)
    lent = [_lent(item, timeout, lease_s) for item in items]
    return Claim([each for each in lent if each is not None], drain)


def _other_lenders(agent_id: str, record: dict[str, Any], lease_s: int) -> list[str]:
    """Under which other names it may hold tasks since it registered again."""
    leases = record.get("leases", [])
    return [keys.lender_of(agent_id, other) for other in leases if other != lease_s]


def _lend(topic: str, args: list[Any], claim_key: str) -> Any:
    while True:
        try:
            # Sent again after a lost reply it finds what it was lent.
            return scripts.run("lend", topic, args, [claim_key])
        except errors.BusError as exc:
            if not groups.is_nogroup(exc):
                raise
        groups.join_group(topic)


def _lent(item: Delivery, topic_timeout: str, lease_s: int) -> Lent | None:
    """A delivery for its agent; None for what nobody can read, which is buried."""
    try:
        payload = foreign.payload_of(item.id, item.json, item.meta)
    except errors.Malformed as exc:
        dead.bury_malformed(item.topic, item.sid, str(exc))
        return None
    return Lent(
        item.topic,
        item.id,
        item.fence,
        payload,
        item.record.attempt + 1,
        item.record.epoch,
        fences.timeout_s(item.record, topic_timeout),
        lease_s,
    )


def _lease_of(record: dict[str, Any]) -> int:
    lease = record.get("lease_s")
    return lease if isinstance(lease, int) else int(conf.LEASE_S)


def _is_runtime(record: dict[str, Any]) -> bool:
    return keys.is_of_runtime(str(record.get("consumer", "")))


def _record(agent_id: str) -> dict[str, Any] | None:
    """What a live registration says; None if there is none."""
    with refusals.guard():
        text = connection.reader().get(keys.agent_key(agent_id))
    return messages.parse_row(text) if text else None


def _remember_topic(agent_id: str, text: str, topic: str) -> None:
    """Have its record name what it takes tasks of: for pages, and for its end.

    A beat, or a registration, that came since the record was read is not undone.
    """
    while text:
        record = messages.parse_row(text)
        known = record.get("topics", [])
        if topic in known or len(known) >= _TOPICS_MOST:
            return
        told = messages.dump({**record, "topics": [*known, topic]}).decode()
        args = [agent_id, text, told]
        now: str = scripts.run("amend", "", args, [keys.agent_key(agent_id)])
        if now == told:
            return
        text = now
