"""What a blocking read brings an agent, and whether it may run as it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from . import keys, records, replies, verbs, wire
from .conf import conf
from .deliveries import Claimed, Delivery, Seat

_FIELDS: Final = ["id", "json", "meta"]
_SETTINGS: Final = ("paused", "timeout_s", "renewed")
# Entries that are looked up with the read; more are asked for by their ids.
_LOOK_UP: Final = 10


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
    looked_at = len(arrived.records) >= len(arrived.entries)
    if not (looked_at or await _look_up(seat, arrived)):
        return None
    paused, timeout_s, renewed = arrived.settings
    items, topic, now_ms = [], seat.topic, arrived.now_ms
    for sid, flat in arrived.entries:
        text = arrived.records.get(sid)
        if not text or flat[::2] != _FIELDS:
            return None
        try:
            record = records.parse_record(text)
        except ValueError:  # by hand, and in no shape
            return None
        if record.sid != sid or record.lost >= conf.SUSPECT_AFTER:
            return None
        if "c" in record.flags:  # it was asked to be cancelled since, and is to end so
            return None
        if renewed and records.is_upto(sid, renewed):
            return None
        items.append(Delivery(topic, sid, flat[1], flat[3], flat[5], record, now_ms))
    if paused == "1":
        return None
    return Claimed(items, now_ms, False, 0, records.seconds(timeout_s))


async def _look_up(seat: Seat, arrived: Arrived) -> bool:
    """Ask for the records of more entries than the read looked at; False where some
    are not in our own shape."""
    if not all(flat[::2] == _FIELDS for _, flat in arrived.entries):
        return False
    arrived.settings, texts = await seat.client.execute_all(
        ("HMGET", keys.named("settings", seat.topic), *_SETTINGS),
        ("HMGET", keys.named("tasks", seat.topic), *(x[1] for _, x in arrived.entries)),
    )
    sids = [sid for sid, _ in arrived.entries]
    arrived.records = dict(zip(sids, texts, strict=True))
    return True
