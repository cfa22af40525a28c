"""The mesh, called as its users call it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import bus

WARM_S = 30.0  # for the first task, while its agent starts


def send_singly_s(topic: str, tasks: Sequence[Any]) -> float:
    """Seconds to enqueue the payloads one by one."""
    began = time.perf_counter()
    for payload in tasks:
        bus.enqueue_task(topic, payload)
    return time.perf_counter() - began


def send_many_s(topic: str, tasks: Sequence[Any]) -> float:
    """Seconds to enqueue the payloads with one call."""
    began = time.perf_counter()
    bus.enqueue_many(topic, tasks)
    return time.perf_counter() - began


def trips_s(topic: str, tasks: Sequence[Any], timeout_s: float = 10.0) -> list[float]:
    """Seconds from each enqueue to its result, waited for with `wait_result`."""
    took = []
    for payload in tasks:
        began = time.perf_counter()
        task_id = bus.enqueue_task(topic, payload)
        task = bus.wait_result(task_id, topic, timeout_s)
        took.append(time.perf_counter() - began)
        if task.state != "done":
            raise bus.BusError(f"the task is {task.state} after {timeout_s:g} s")
    return took


def followed_trips_s(topic: str, tasks: Sequence[Any]) -> list[float]:
    """The same for a user who follows the results stream with XREAD of his own."""
    # Any: redis-py's types cover asynchronous replies as well.
    client: Any = bus.get_redis()
    stream = bus.result_stream(topic)
    last = client.xrevrange(stream, count=1)[0][0]
    took = []
    for payload in tasks:
        began = time.perf_counter()
        task_id = bus.enqueue_task(topic, payload)
        reply = client.xread({stream: last}, block=2_000)
        took.append(time.perf_counter() - began)
        if not reply:
            raise bus.BusError("no result within 2 s")
        last, fields = reply[0][1][-1]
        assert fields["id"] == task_id
    return took
