"""A delivery in somebody's hand, and how its attempt ends: what is sent, what it means.

For the agent runtime and for the leases that agents hold over HTTP.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import errors, keys, messages, records
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
class Fence:
    """A delivery as its agent names it."""

    topic: str
    id: str
    sid: str
    n: int

    @property
    def text(self) -> str:
        """As the delivery had it."""
        return f"{self.sid}.{self.n}"


def fence_of(topic: str, task_id: str, text: str) -> Fence:
    """A delivery from what its agent says; InvalidName where that cannot be one."""
    found = _FENCE.fullmatch(text)
    if found is None:
        raise errors.InvalidName(
            f"fence {text[:80]!r} is none, such as 1732287600000-0.0"
        )
    sid = keys.check_entry(found.group(1))
    return Fence(
        keys.check_topic(topic), keys.check_task_id(task_id), sid, int(found.group(2))
    )


_FENCE: Final = re.compile(r"([0-9]{1,20}-[0-9]{1,20})\.([0-9]{1,9})")


def parse_deliveries(topic: str, now: int, flat: list[str]) -> list[Delivery]:
    """Deliveries as scripts return them: flat sid, id, json, meta, record."""
    record = records.parse_record
    return [
        Delivery(topic, sid, task_id, json, meta, record(text), now)
        for sid, task_id, json, meta, text in zip(
            flat[::5], flat[1::5], flat[2::5], flat[3::5], flat[4::5], strict=True
        )
    ]


def result_row(
    task_id: str,
    topic: str,
    payload_json: str,
    result_json: bytes,
    *,
    agent: str,
    attempt: int,
    fence: str,
    enqueued_ms: int,
    started_ms: int,
    finished_ms: int,
    own: Mapping[str, Any],
) -> bytes:
    """A finished task's row, joined from texts that are JSON already.

    `own` is what the task was sent with (`records.own`).

    Ids, topics, consumers and fences are checked names: none needs escaping.
    """
    tail = f",{messages.dump(own)[1:-1].decode()}" if own else ""
    iso = messages.iso
    return (
        f'{{"id":"{task_id}","topic":"{topic}","state":"done","task":{payload_json},'
        f'"result":{result_json.decode()},"agent":"{agent}","attempt":{attempt},'
        f'"fence":"{fence}","enqueued_at":"{iso(enqueued_ms)}",'
        f'"started_at":"{iso(started_ms)}","finished_at":"{iso(finished_ms)}"{tail}}}'
    ).encode()


@dataclass(slots=True)
class Completion:
    """A finished delivery with its result row, on its way to `complete`."""

    delivery: Delivery
    row: bytes
    wait_bucket: int
    run_bucket: int


def complete_args(group: str, consumer: str, items: Sequence[Completion]) -> list[Any]:
    """Arguments of `complete`."""
    args: list[Any] = [group, consumer, conf.RESULTS_KEEP]
    for item in items:
        args += complete_part(item)
    return args


def complete_part(item: Completion) -> tuple[Any, ...]:
    """What `complete` and `finish` are told of one."""
    held = item.delivery
    place = (held.sid, held.record.n, held.id)
    return (*place, item.wait_bucket, item.run_bucket, item.row)


def complete_outcomes(raw: list[Any], items: Sequence[Completion]) -> list[str]:
    """What the reply of `complete` says of each: ok, duplicate, fenced or gone."""
    outcomes = [OK] * len(items)
    for at in range(1, len(raw), 3):
        index, kind, info = raw[at : at + 3]
        outcomes[index] = refusal(kind, info, items[index].delivery.fence)
    return outcomes


def refusal(kind: str, info: str, fence: str) -> str:
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


def fail_args(
    topic: str, group: str, consumer: str, items: Sequence[Failure]
) -> tuple[list[Any], list[str]]:
    """Arguments of `fail`, and the keys of the failure groups behind its own."""
    marks = list(dict.fromkeys(item.fingerprint for item in items))
    place = {mark: at for at, mark in enumerate(marks, 1)}
    args: list[Any] = [group, consumer, topic, conf.RESULTS_KEEP]
    for item in items:
        held = item.delivery
        args += (held.sid, held.record.n, held.id, int(item.delay_s * 1000))
        args += ("1" if item.final else "0", item.max_attempts)
        args += (item.attempt_line, item.error_json, item.fingerprint)
        args += (item.run_bucket, place[item.fingerprint])
    return args, [keys.group_key(topic, mark) for mark in marks]
