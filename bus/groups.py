"""Consumer groups, with the three calls an agent written by hand lives on."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from . import (
    auditor,
    connection,
    dead,
    deliveries,
    errors,
    foreign,
    ghosts,
    keys,
    lookup,
    messages,
    refusals,
    replies,
    scripts,
)
from .conf import conf


def create_consumer_group(topic: str, group: str, observe: bool = False) -> bool:
    """Create a group from the first entry on; an existing one is success (False).

    The first group of a topic becomes its working group, which moves tasks on;
    `observe` makes one that only looks.
    """
    keys.check_topic(topic)
    keys.check_group(group)
    scripts.ensure_topic(topic, agent=True)
    return bool(_ensure_group(topic, group, observe)[0])


def join_group(topic: str, default: str = "default") -> str:
    """The topic's working group, created as `default` if the topic has none."""
    keys.check_topic(topic)
    scripts.ensure_topic(topic, agent=True)
    return _ensured(topic, scripts.run("ensure_group", topic, [default, "2"]))[1]


async def ajoin_group(topic: str, default: str = "default") -> str:
    """`join_group` for an agent's loop, where it can be cancelled."""
    await scripts.aensure_topic(keys.check_topic(topic), agent=True)
    return _ensured(topic, await scripts.arun("ensure_group", topic, [default, "2"]))[1]


def _ensure_group(topic: str, group: str, observe: bool) -> tuple[int, str]:
    args = [group, "1" if observe else "0"]
    return _ensured(topic, scripts.run("ensure_group", topic, args))


def _ensured(topic: str, reply: list[Any]) -> tuple[int, str]:
    """Whether the group was created, and the topic's working group."""
    created, working, mended = reply
    auditor.tell(topic, mended)
    return int(created), str(working)


def is_nogroup(exc: BaseException) -> bool:
    """Whether an operator deleted the group (or flushed the server) meanwhile."""
    cause = exc.__cause__
    return "NOGROUP" in str(exc) or (cause is not None and "NOGROUP" in str(cause))


def read_group(
    topic: str, group: str, consumer: str, count: int = 1, block_ms: int = 1000
) -> list[tuple[str, dict[str, Any]]]:
    """Up to `count` tasks for a hand-written agent: `(entry id, fields)`.

    Fields: `id`, `json` (as sent), `payload` (its value), `meta`; in the working group
    `attempt` and `fence` too. Waits up to `block_ms` for the first. End each with `ack`
    or `move_to_dead`; one that is held for longer than a lease (15 s) is handed to the
    next reader. A consumer that is registered (`register_agent`) keeps its tasks for as
    long as its registration lives, be it longer or shorter than that, and loses them
    when it has ended. What is no JSON becomes a dead letter, `malformed`.

    A process that is started again under a registered name gets what the one before it
    had in hand, and after an error what came with the lost reply. So a registered name
    is for one process at a time (threads may share it): the first read of another hands
    over what it has in hand.
    """
    return read_while(lambda: True, topic, group, consumer, count, block_ms)


def read_while(
    wanted: Callable[[], bool],
    topic: str,
    group: str,
    consumer: str,
    count: int = 1,
    block_ms: int = 1000,
) -> list[tuple[str, dict[str, Any]]]:
    """`read_group`, whose wait ends within a second once it is not `wanted`."""
    keys.check_topic(topic)
    keys.check_group(group)
    keys.check_group(consumer)
    keys.check_count(count, 1000)
    until = time.monotonic() + max(0, block_ms) / 1000
    scripts.ensure_topic(topic, agent=True)
    working = _ensure_group(topic, group, False)[1] == group
    block_s, patient_until = 0.0, 0.0
    while True:
        try:
            if working:
                again = patient_until > 0
                found = _read(topic, group, consumer, count, block_s, again)
            else:
                found = _observe(topic, group, consumer, count, block_s)
            patient_until = 0.0
        except errors.OutcomeUnknown:
            # Of a claim: what came with its answer is looked for, then asked again.
            patient_until = patient_until or time.monotonic() + conf.SEND_RETRY_S
            if time.monotonic() >= patient_until or not wanted():
                raise
            block_s = 0.0
            continue
        except errors.BusError as exc:
            if not is_nogroup(exc):
                raise
            _ensure_group(topic, group, not working)
            found = []
        left = until - time.monotonic()
        if found or left <= 0 or not wanted():
            return found
        # Short blocks keep the socket timeout out of it, and a reader that sleeps
        # inside the server would not see rows handed over.
        block_s = min(left, 1.0)


def _read(
    topic: str, group: str, consumer: str, count: int, block_s: float, again: bool
) -> list[tuple[str, dict[str, Any]]]:
    """What the working group has for this consumer, handed-over tasks first."""
    reader = ghosts.reader(topic, group, consumer)
    reader.look(again)
    with reader.reading():
        entries = _read_new(topic, group, consumer, count, block_s) if block_s else []
        return _verified(topic, group, consumer, count, entries)


def _observe(
    topic: str, group: str, consumer: str, count: int, block_s: float
) -> list[tuple[str, dict[str, Any]]]:
    """What is new to a group that only looks."""
    entries = _read_new(topic, group, consumer, count, block_s)
    return [(sid, _observed(flat)) for sid, flat in entries]


def give_back(
    topic: str, group: str, consumer: str, rows: list[tuple[str, dict[str, Any]]]
) -> None:
    """Let the next reader have what `read_group` gave, at its old place."""
    args: list[Any] = [group, consumer, topic, conf.RESULTS_KEEP]
    for sid, fields in rows:
        if "fence" in fields:  # of the working group: an observer has nothing to give
            args += [sid, fields["fence"].rpartition(".")[2], fields["id"]]
    if len(args) > 4:
        scripts.run("release", topic, args)


def _read_new(
    topic: str, group: str, consumer: str, count: int, block_s: float
) -> list[tuple[str, list[str]]]:
    """New entries as `(sid, flat fields)`, blocking for at most `block_s`."""
    command: list[Any] = ["XREADGROUP", "GROUP", group, consumer, "COUNT", count]
    if block_s:
        command += ["BLOCK", max(1, int(block_s * 1000))]
    command += ["STREAMS", keys.task_stream(topic), ">"]
    with refusals.guard():
        client = connection.waiter()
        # The raw reply: redis-py's own parsing differs between its protocol versions.
        return replies.flat_entries(client.execute_command(*command))


def _verified(
    topic: str,
    group: str,
    consumer: str,
    count: int,
    entries: list[tuple[str, list[str]]],
) -> list[tuple[str, dict[str, Any]]]:
    """What is really there for this consumer, as `(entry id, fields)`."""
    sids = [sid for sid, _ in entries]
    empty = deliveries.EMPTY  # as far as is known: it reads once it has ended all
    args = deliveries.claim_args(group, consumer, count, False, sids, empty)
    claimed = _claimed(topic, args)
    if not claimed.deliveries and claimed.suspects:
        # A task that lost its agents before is given alone.
        claimed = _claimed(topic, deliveries.claim_args(group, consumer, 1, True))
    found = []
    for item in claimed.deliveries:
        if _buried(item):
            continue
        fields = _observed(["id", item.id, "json", item.json, "meta", item.meta])
        fields |= {"attempt": item.record.attempt + 1, "fence": item.fence}
        found.append((item.sid, fields))
    # All of them, or none: what raises has given nothing.
    ghosts.given.extend(
        (consumer, fields["fence"], fields["id"]) for _, fields in found
    )
    return found


def _buried(item: deliveries.Delivery) -> bool:
    """Whether nobody could read it, so that it became a dead letter: `malformed`."""
    try:
        foreign.payload_of(item.id, item.json, item.meta)
    except errors.Malformed as exc:
        dead.bury_malformed(item.topic, item.sid, str(exc))
        return True
    return False


def _claimed(topic: str, args: list[Any]) -> deliveries.Claimed:
    """A claim, sent once: if its answer is lost, the tasks that came with it are ours
    and unknown to us."""
    return deliveries.parse_claim(topic, scripts.run("claim", topic, args, retry_s=0))


def _observed(flat: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=False))
    if "json" in fields:
        fields["payload"] = messages.decode_or_text(fields["json"])
    return fields


def ack(topic: str, group: str, entry_id: str) -> int:
    """1 if the entry was pending in the group, else 0: also for a second ack.

    In the working group this completes the task without a result of its own.
    """
    keys.check_topic(topic)
    keys.check_group(group)
    args = [group, keys.check_entry(entry_id)]
    try:
        return int(scripts.run("ack", topic, args, retry_s=0))
    except errors.BusUnavailable:
        # It may have counted, and then its repeat finds nothing pending.
        return int(scripts.run("ack", topic, args)) or _acked(topic, entry_id)


def _acked(topic: str, entry_id: str) -> int:
    """1 if an ack ended the task this process was given as `entry_id`, else 0."""
    given = ghosts.given.copy()  # in one step: other threads go on giving out
    ids = {id for _, fence, id in given if fence.rpartition(".")[0] == entry_id}
    tasks = [task for id in ids if (task := lookup.found(topic, id)) is not None]
    # A fence would tell of an end with a result.
    return int(any(task.state == messages.DONE and not task.fence for task in tasks))
