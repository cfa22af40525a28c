"""Replies in the one shape we read, whatever redis-py made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def streams_of(reply: Any) -> list[tuple[str, list[tuple[str, list[str]]]]]:
    """Each stream of an XREAD-like reply with its `(entry id, flat fields)`.

    redis-py shapes such replies differently per protocol version; both are read.
    """
    pairs = reply.items() if isinstance(reply, dict) else reply or []
    out = []
    for stream, entries in pairs:
        if entries and entries[0] and isinstance(entries[0][0], (list, tuple)):
            entries = entries[0]
        rows = [
            (entry_id, fields if type(fields) is list else _flat(fields))
            for entry_id, fields in entries
        ]
        if rows:
            out.append((stream, rows))
    return out


def clock_ms(told: Sequence[Any]) -> int:
    """The server's clock in ms, of what it answers to TIME."""
    seconds, micros = told
    return int(seconds) * 1000 + int(micros) // 1000


def _flat(fields: Any) -> list[str]:
    """Fields as they lie in the entry; none where it was deleted since."""
    if isinstance(fields, dict):
        return [part for pair in fields.items() for part in pair]
    return list(fields or [])


def flat_entries(reply: Any) -> list[tuple[str, list[str]]]:
    """All entries of an XREAD-like reply as `(entry id, flat fields)`."""
    return [row for _, rows in streams_of(reply) for row in rows]
