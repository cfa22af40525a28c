"""The raw limits: what redis-py alone does with bare streams."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import redis

from . import payloads

Item = tuple[str, str]  # id, JSON


def items(numbers: Sequence[int]) -> list[Item]:
    """Entries made beforehand: the raw limit does not pay for ids or encoding."""
    return [(payloads.bare_id(number), payloads.text(number)) for number in numbers]


def send_singly_s(client: Any, stream: str, entries: Sequence[Item]) -> float:
    """Seconds to XADD the entries one by one."""
    began = time.perf_counter()
    for entry_id, text in entries:
        client.xadd(stream, {"id": entry_id, "json": text})
    return time.perf_counter() - began


def send_piped_s(client: Any, stream: str, entries: Sequence[Item]) -> float:
    """Seconds to XADD the entries in pipelines of 100."""
    began = time.perf_counter()
    for at in range(0, len(entries), payloads.BATCH):
        pipe = client.pipeline(transaction=False)
        for entry_id, text in entries[at : at + payloads.BATCH]:
            pipe.xadd(stream, {"id": entry_id, "json": text})
        pipe.execute()
    return time.perf_counter() - began


def trips_s(
    client: Any, tasks: str, results: str, entries: Sequence[Item]
) -> list[float]:
    """Seconds from each XADD to its result, which a consumer elsewhere writes."""
    took = []
    newest = client.xrevrange(results, count=1)
    last = newest[0][0] if newest else b"0-0"
    for entry_id, text in entries:
        began = time.perf_counter()
        client.xadd(tasks, {"id": entry_id, "json": text})
        reply = client.xread({results: last}, block=2_000)
        took.append(time.perf_counter() - began)
        if not reply:
            raise redis.TimeoutError("the bare consumer does not answer")
        last, fields = reply[0][1][-1]
        assert fields[b"id"] == entry_id.encode()
    return took


def finished_per_s(client: Any, results: str) -> float:
    """Results per second between the first and the last one, on the server's clock.

    The results of the first millisecond are the start, so they do not count.
    """
    first = _ms(client.xrange(results, count=1)[0][0])
    last = _ms(client.xrevrange(results, count=1)[0][0])
    at_start = len(client.xrange(results, first, first))
    return float((client.xlen(results) - at_start) * 1000 / max(last - first, 1))


def _ms(entry_id: bytes) -> int:
    return int(entry_id.partition(b"-")[0])
