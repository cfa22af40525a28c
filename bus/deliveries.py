"""Tasks as agents see them: groups, reading, and every way a delivery can end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import redis
import redis.asyncio

from . import connection, errors, keys, messages, scripts
from .conf import conf

BATCH: Final = 100
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
    record: messages.Record
    received_ms: int

    @property
    def fence(self) -> str:
        """The server's token of this delivery."""
        return f"{self.sid}.{self.record.n}"

    @property
    def enqueued_ms(self) -> int:
        """When the task was first accepted, server ms."""
        if self.meta:
            mark = messages.parse_options(self.meta).get("e", "")
            if mark.isdigit():
                return int(mark)
        return messages.entry_ms(self.sid)


@dataclass(slots=True)
class Claimed:
    """What a claim came to."""

    deliveries: list[Delivery]
    now_ms: int
    paused: bool
    suspects: int  # tasks that killed agents before and wait to be run alone
    timeout_s: float | None  # the topic's setting


# --- groups


def create_consumer_group(topic: str, group: str, observe: bool = False) -> bool:
    """Create a group from the first entry on; an existing one is success (False).

    The first group of a topic becomes its working group, which moves tasks on;
    `observe` makes one that only looks.
    """
    keys.check_topic(topic)
    keys.check_group(group)
    scripts.ensure_topic(topic)
    return bool(_ensure_group(topic, group, observe)[0])


def join_group(topic: str, default: str = "default") -> str:
    """The topic's working group, created as `default` if the topic has none."""
    keys.check_topic(topic)
    scripts.ensure_topic(topic)
    working = _ensure_group(topic, default, False)[1]
    if working != default:
        _ensure_group(topic, working, False)
    return working


def _ensure_group(topic: str, group: str, observe: bool) -> tuple[int, str]:
    args = [group, "1" if observe else "0"]
    created, working = scripts.run("ensure_group", topic, args)
    return int(created), str(working)


def is_nogroup(exc: BaseException) -> bool:
    """Whether an operator deleted the group (or flushed the server) meanwhile."""
    cause = exc.__cause__
    return "NOGROUP" in str(exc) or (cause is not None and "NOGROUP" in str(cause))


# --- hand-written agents


def read_group(
    topic: str, group: str, consumer: str, count: int = 1, block_ms: int = 1000
) -> list[tuple[str, dict[str, Any]]]:
    """Up to `count` tasks for a hand-written agent: `(entry id, fields)`.

    Fields: `id`, `json` (as sent), `payload` (its value; the text itself where it is no
    JSON), `meta`; in the working group also `attempt` and `fence`. Waits up to
    `block_ms` for the first. End each with `ack` or `move_to_dead`; one that is held
    for a lease (15 s) without a sign of life is handed to the next reader.
    """
    keys.check_topic(topic)
    keys.check_group(group)
    keys.check_group(consumer)
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 1000:
        raise errors.InvalidOption(f"count {count!r} is not 1 to 1000")
    until = time.monotonic() + max(0, block_ms) / 1000
    scripts.ensure_topic(topic)
    working = _ensure_group(topic, group, False)[1] == group
    if not working:
        _ensure_group(topic, group, True)
    block_s = 0.0
    while True:
        try:
            entries = (
                _read_new(topic, group, consumer, count, block_s)
                if (block_s or not working)
                else []
            )
            if working:
                found = _verified(topic, group, consumer, count, entries)
            else:
                found = [(sid, _observed(flat)) for sid, flat in entries]
        except errors.BusError as exc:
            if not is_nogroup(exc):
                raise
            _ensure_group(topic, group, not working)
            found = []
        left = until - time.monotonic()
        if found or left <= 0:
            return found
        # Short blocks keep the socket timeout out of it, and a reader that sleeps
        # inside the server would not see rows handed over.
        block_s = min(left, 1.0)


def _read_new(
    topic: str, group: str, consumer: str, count: int, block_s: float
) -> list[tuple[str, list[str]]]:
    """New entries as `(sid, flat fields)`, blocking for at most `block_s`."""
    command: list[Any] = ["XREADGROUP", "GROUP", group, consumer, "COUNT", count]
    if block_s:
        command += ["BLOCK", max(1, int(block_s * 1000))]
    command += ["STREAMS", keys.task_stream(topic), ">"]
    with connection.guard():
        client = connection.blocker()
        # The raw reply: redis-py's own parsing differs between its protocol versions.
        return messages.flat_entries(client.execute_command(*command))


def _verified(
    topic: str,
    group: str,
    consumer: str,
    count: int,
    entries: list[tuple[str, list[str]]],
) -> list[tuple[str, dict[str, Any]]]:
    sids = [sid for sid, _ in entries]
    raw = scripts.run("claim", topic, claim_args(group, consumer, count, True, sids))
    found = []
    for item in parse_claim(topic, raw).deliveries:
        fields = _observed(["id", item.id, "json", item.json, "meta", item.meta])
        fields |= {"attempt": item.record.attempt + 1, "fence": item.fence}
        found.append((item.sid, fields))
    return found


def _observed(flat: list[str]) -> dict[str, Any]:
    fields: dict[str, Any] = dict(zip(flat[::2], flat[1::2], strict=False))
    if "json" in fields:
        fields["payload"] = messages.decode_or_text(fields["json"])
    return fields


def ack(topic: str, group: str, entry_id: str) -> int:
    """1 if the entry was pending in the group, else 0.

    In the working group this completes the task without a result of its own.
    """
    keys.check_topic(topic)
    keys.check_group(group)
    return int(scripts.run("ack", topic, [group, keys.check_entry(entry_id)]))


# --- the agent runtime


def claim_args(
    group: str, consumer: str, want: int, alone: bool, sids: Sequence[str] = ()
) -> list[Any]:
    """Arguments of `claim`; `sids` are entries a blocking read delivered just now."""
    flag = "1" if alone else "0"
    return [group, consumer, want, flag, conf.SUSPECT_AFTER, "1", *sids]


async def claim(
    client: redis.asyncio.Redis,
    topic: str,
    group: str,
    consumer: str,
    want: int,
    alone: bool,
    sids: Sequence[str] | None = None,
) -> Claimed:
    """Take up to `want` tasks. Sent once: after an error `recover` finds what came."""
    args = claim_args(group, consumer, want, alone, sids or ())
    raw = await scripts.arun("claim", topic, args, client=client, retry_s=0)
    return parse_claim(topic, raw)


async def recover(
    client: redis.asyncio.Redis, topic: str, group: str, consumer: str, after: str
) -> tuple[int, str, list[Delivery]]:
    """Server ms, the sid to go on behind (or empty), and tasks this consumer holds."""
    args = [group, consumer, after]
    now, last, flat = await scripts.arun("recover", topic, args, client=client)
    return now, last, _deliveries(topic, now, flat)


def raw_fields(topic: str, sid: str) -> dict[str, str]:
    """The fields of an entry as somebody wrote them; empty if it is gone."""
    with connection.guard():
        rows = connection.reader().xrange(keys.task_stream(topic), sid, sid)
    return dict(rows[0][1]) if rows else {}


def parse_claim(topic: str, raw: list[Any]) -> Claimed:
    """The reply of `claim`."""
    now, paused, suspects, timeout, flat = raw
    timeout_s = float(timeout) if timeout else None
    items = _deliveries(topic, now, flat)
    return Claimed(items, now, bool(paused), suspects, timeout_s)


def _deliveries(topic: str, now: int, flat: list[str]) -> list[Delivery]:
    record = messages.parse_record
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
    client: redis.asyncio.Redis,
    topic: str,
    group: str,
    consumer: str,
    items: Sequence[Completion],
) -> list[str]:
    """End up to 100 deliveries of one topic; per item ok, duplicate, fenced or gone."""
    args: list[Any] = [group, consumer, conf.RESULTS_KEEP]
    for item in items:
        held = item.delivery
        args += (held.sid, held.record.n, held.id)
        args += (item.wait_bucket, item.run_bucket, item.row)
    raw = await scripts.arun("complete", topic, args, client=client)
    outcomes = [OK] * len(items)
    for at in range(1, len(raw), 3):
        index, kind, info = raw[at : at + 3]
        outcomes[index] = _refusal(kind, info, items[index].delivery.fence)
    return outcomes


def _refusal(kind: str, info: str, fence: str) -> str:
    """A repeat of one's own is told by the fence that ended the task."""
    if kind == "done":
        return DUPLICATE if messages.parse_row(info).get("fence") == fence else GONE
    if kind == "dead":
        return DUPLICATE if info == fence else GONE
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


async def fail(
    client: redis.asyncio.Redis, topic: str, group: str, consumer: str, item: Failure
) -> str:
    """End an attempt as failed: delayed, dead, cancelled, or fenced / gone."""
    held = item.delivery
    letter = messages.letter_json(held.id, held.json.encode())
    args: list[Any] = [group, consumer, topic, conf.RESULTS_KEEP]
    args += (held.sid, held.record.n, held.id, int(item.delay_s * 1000))
    args += ("1" if item.final else "0", item.max_attempts)
    args += (item.attempt_line, item.error_json, item.fingerprint, letter)
    args += (item.run_bucket,)
    group_key = keys.group_key(topic, item.fingerprint)
    reply = await scripts.arun("fail", topic, args, [group_key], client=client)
    return str(reply[0])


async def release(
    client: redis.asyncio.Redis,
    topic: str,
    group: str,
    consumer: str,
    held: Sequence[Delivery],
) -> int:
    """Give deliveries back unfinished, keeping their place; how many were ours."""
    count = 0
    for at in range(0, len(held), BATCH):
        args: list[Any] = [group, consumer]
        for item in held[at : at + BATCH]:
            args += (item.sid, item.record.n, item.id)
        count += int(await scripts.arun("release", topic, args, client=client))
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
