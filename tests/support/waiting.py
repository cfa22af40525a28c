"""Waiting for something to become true, instead of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.01


def wait_until(
    predicate: Callable[[], T], timeout_s: float = 5.0, description: str = ""
) -> T:
    """Call `predicate` until what it returns is true, then return that."""
    deadline = time.monotonic() + timeout_s
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
    deadline = time.monotonic() + timeout_s
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
    return f"after {timeout_s} s still not: {what} (last value: {last!r})"
