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


def take(key: str, capacity: float, refill_per_s: float, cost: float = 1) -> float:
    """0.0 if the bucket gave `cost` tokens, else seconds until it could.

    `key` is any text, such as `generate:token:3f…`; buckets of other keys are others.
    Raises BusUnavailable if Redis is away, InvalidOption for numbers without sense
    (not above 0, or a cost that the full bucket could not pay).
    """
    args = [*_args(capacity, refill_per_s, cost), 1]
    more = [keys.rate_key(key)]
    return _waits(scripts.run("take", "", args, more, retry_s=_RETRY_S), 1)[0]


async def atake(
    key: str, capacity: float, refill_per_s: float, cost: float = 1
) -> float:
    """`take` for asyncio."""
    return (await atake_each(key, capacity, refill_per_s, 1, cost))[0]


async def atake_each(
    key: str,
    capacity: float,
    refill_per_s: float,
    count: int,
    cost: float = 1,
    *,
    client: Any = None,
) -> list[float]:
    """As many takes as `count` in one call: for each what `take` would have said."""
    args = [*_args(capacity, refill_per_s, cost), count]
    more = [keys.rate_key(key)]
    reply = await scripts.arun("take", "", args, more, client=client, retry_s=_RETRY_S)
    return _waits(reply, count)


def _args(capacity: float, refill_per_s: float, cost: float) -> list[Any]:
    numbers = (capacity, refill_per_s, cost)
    if not all(math.isfinite(each) and each > 0 for each in numbers):
        raise errors.InvalidOption(
            f"capacity {capacity!r}, refill_per_s {refill_per_s!r} and cost {cost!r} "
            "must be finite numbers above 0"
        )
    if cost > capacity:
        raise errors.InvalidOption(
            f"cost {cost!r} is more than the bucket ever holds ({capacity!r})"
        )
    if capacity / refill_per_s > _SPAN_MOST_S:
        raise errors.InvalidOption(
            f"a bucket of {capacity!r} at {refill_per_s!r}/s takes over a year to fill"
        )
    # The span is counted in costs, not in seconds: a bucket of 3 that refills 7 a
    # second gives exactly 3, whatever a seventh is in whole microseconds.
    cost_us = max(1, round(cost / refill_per_s * 1e6))
    return [round(capacity / cost * cost_us), cost_us]


def _waits(reply: Any, count: int) -> list[float]:
    given, wait_us = map(int, reply)
    return [0.0] * given + [wait_us / 1e6] * (count - given)
