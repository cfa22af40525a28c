"""Token buckets that all processes share, on the server's clock.

A bucket holds `capacity` tokens and gets `refill_per_s` back; it starts full. It lives
in one key of its own, which expires as soon as the bucket is full again.

A take whose reply was lost is sent again and may then have taken twice: the limit errs
towards refusing, never towards letting through.
"""

from __future__ import annotations

import math
from typing import Any, Final

from . import errors, keys, scripts

# Whoever waits for a permission would rather be told soon that there is none.
_RETRY_S: Final = 1.0
_SPAN_MOST_S: Final = 366 * 86400.0


def take(key: str, capacity: float, refill_per_s: float) -> float:
    """0.0 if the bucket gave a token, else seconds until it could.

    `key` is any text, such as `generate:token:3f…`; buckets of other keys are others.
    Raises BusUnavailable if Redis is away, InvalidOption for numbers without sense
    (not above 0, or a bucket that never holds a whole token).
    """
    args = [*_args(capacity, refill_per_s), 1]
    more = [keys.rate_key(key)]
    return _waits(scripts.run("take", "", args, more, retry_s=_RETRY_S), 1)[0]


async def atake(key: str, capacity: float, refill_per_s: float) -> float:
    """`take` for asyncio."""
    return (await atake_each(key, capacity, refill_per_s, 1))[0]


async def atake_each(
    key: str, capacity: float, refill_per_s: float, count: int, *, client: Any = None
) -> list[float]:
    """As many takes as `count` in one call: for each what `take` would have said."""
    args = [*_args(capacity, refill_per_s), count]
    more = [keys.rate_key(key)]
    reply = await scripts.arun("take", "", args, more, client=client, retry_s=_RETRY_S)
    return _waits(reply, count)


def _args(capacity: float, refill_per_s: float) -> list[Any]:
    if not all(math.isfinite(each) and each > 0 for each in (capacity, refill_per_s)):
        raise errors.InvalidOption(
            f"capacity {capacity!r} and refill_per_s {refill_per_s!r} must be finite "
            "numbers above 0"
        )
    if capacity < 1:
        raise errors.InvalidOption(f"a bucket of {capacity!r} never holds a token")
    if capacity / refill_per_s > _SPAN_MOST_S:
        raise errors.InvalidOption(
            f"a bucket of {capacity!r} at {refill_per_s!r}/s takes over a year to fill"
        )
    # The span is counted in tokens, not in seconds: a bucket of 3 that refills 7 a
    # second gives exactly 3, whatever a seventh is in whole microseconds.
    token_us = max(1, round(1e6 / refill_per_s))
    return [round(capacity * token_us), token_us]


def _waits(reply: Any, count: int) -> list[float]:
    given, wait_us = map(int, reply)
    return [0.0] * given + [wait_us / 1e6] * (count - given)
