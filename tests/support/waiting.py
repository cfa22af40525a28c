"""Waiting for something to become true, instead of sleeping."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.01
# A shared machine that runs four workers on two cores may take its time; what is true
# there at last is true. Nothing that comes in time waits longer for it.
PATIENCE = 3 if os.environ.get("CI") else 1


def wait_until(
    predicate: Callable[[], T], timeout_s: float = 5.0, description: str = ""
) -> T:
    """Call `predicate` until what it returns is true, then return that."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(_failure(predicate, timeout_s, description, value))
        time.sleep(POLL_S)
    return value


async def wait_until_async(
    predicate: Callable[[], T | Awaitable[T]],
    timeout_s: float = 5.0,
    description: str = "",
) -> T:
    """`wait_until` for a running loop; `predicate` may be a coroutine function."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        value = predicate()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(_failure(predicate, timeout_s, description, value))
        await asyncio.sleep(POLL_S)


def _failure(
    predicate: object, timeout_s: float, description: str, last: object
) -> str:
    what = description or getattr(predicate, "__qualname__", repr(predicate))
    return f"after {timeout_s * PATIENCE} s still not: {what} (last value: {last!r})"
