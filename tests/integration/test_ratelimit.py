"""Token buckets let exactly so many through, on the server's clock, leaving nothing."""

from __future__ import annotations

import asyncio
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

import bus
from bus import keys, ratelimit
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.usefixtures("cleanup_test_data")
NEVER = 1e-4  # refills so slowly that no token comes back during a test


def _taken(key: str, tries: int, capacity: float, refill_per_s: float) -> int:
    """How many of so many takes passed."""
    waits = [ratelimit.take(key, capacity, refill_per_s) for _ in range(tries)]
    return waits.count(0.0)


def test_a_burst_of_the_capacity_passes_and_the_next_is_told_how_long() -> None:
    waits = [ratelimit.take("burst", 10, 2) for _ in range(11)]

    assert waits[:10] == [0.0] * 10
    assert 0 < waits[10] <= 0.5, "one token comes back every half second"


@pytest.mark.parametrize("capacity", [1, 3, 7, 10, 1000])
@pytest.mark.parametrize("refill_per_s", [0.013, 3, 7, 1666.67])
def test_no_rounding_adds_or_loses_a_token(
    capacity: int, refill_per_s: float, redis_client: redis.Redis
) -> None:
    span_us, token_us = ratelimit._args(capacity, refill_per_s)

    assert span_us == capacity * token_us
    assert token_us == pytest.approx(1e6 / refill_per_s, rel=0.001)


def test_a_refused_take_costs_nothing(redis_client: redis.Redis) -> None:
    assert _taken("patient", 4, 3, NEVER) == 3
    first = ratelimit.take("patient", 3, NEVER)

    for _ in range(50):
        ratelimit.take("patient", 3, NEVER)

    assert ratelimit.take("patient", 3, NEVER) <= first


def test_what_was_told_to_wait_passes_afterwards() -> None:
    # Where the machine stalls a token comes in between.
    takes = (ratelimit.take("again", 5, 2) for _ in range(100))
    wait_s = next(each for each in takes if each > 0)

    async def later() -> float:
        await asyncio.sleep(wait_s)
        return await ratelimit.atake("again", 5, 2)

    assert asyncio.run(later()) == 0.0


def test_many_threads_get_exactly_the_capacity(redis_client: redis.Redis) -> None:
    with ThreadPoolExecutor(16) as threads:
        waits = list(
            threads.map(lambda _: ratelimit.take("crowd", 25, NEVER), range(200))
        )

    assert waits.count(0.0) == 25


def test_many_coroutines_get_exactly_the_capacity(redis_client: redis.Redis) -> None:
    async def crowd() -> list[float]:
        return await asyncio.gather(
            *(ratelimit.atake("crowd", 10, NEVER) for _ in range(100))
        )

    assert asyncio.run(crowd()).count(0.0) == 10


def test_takes_of_one_call_are_answered_each() -> None:
    waits = asyncio.run(ratelimit.atake_each("each", 3, NEVER, 5))

    assert waits[:3] == [0.0] * 3
    assert len(waits) == 5 and waits[3] == waits[4] > 0


def test_the_clock_of_this_process_does_not_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert _taken("clock", 3, 2, NEVER) == 2

    monkeypatch.setattr("time.time", lambda: 4e9)

    assert ratelimit.take("clock", 2, NEVER) > 0


def test_a_server_clock_set_back_locks_nobody_out(redis_client: redis.Redis) -> None:
    """The bucket says it will be full in a year: the clock was a year ahead."""
    seconds, _ = redis_client.time()
    redis_client.set(keys.rate_key("odd"), (seconds + 31_536_000) * 1_000_000)

    assert 0 < ratelimit.take("odd", 10, 100) <= 0.01
    wait_until(lambda: ratelimit.take("odd", 10, 100) == 0.0, 1)


def test_buckets_are_told_apart_by_their_whole_name(redis_client: redis.Redis) -> None:
    names = ["a", "A", "a b", "a}{b", "ä", "x" * 500, "x" * 501, "", "\ud800"]

    assert [ratelimit.take(name, 1, NEVER) for name in names] == [0.0] * len(names)
    assert all(ratelimit.take(name, 1, NEVER) > 0 for name in names)
    for name in redis_client.scan_iter():
        assert len(name) < 150


def test_a_bucket_is_gone_when_it_is_full_again(redis_client: redis.Redis) -> None:
    ratelimit.take("short", 10, 0.02)
    ratelimit.take("short", 10, 0.02)

    assert 0 < redis_client.pttl(keys.rate_key("short")) <= 100_000


def test_buckets_work_at_maxmemory(redis_client: redis.Redis) -> None:
    """Agents report their results then: a limit must not stand in their way."""
    redis_client.config_set("maxmemory", 1)

    assert _taken("full", 3, 2, NEVER) == 2


@pytest.mark.parametrize(
    "numbers", [(0, 1), (1, 0), (-1, 1), (1, -1), (math.nan, 1), (math.inf, 1)]
)
def test_numbers_without_sense_are_refused(numbers: Any) -> None:
    capacity, refill_per_s = numbers
    said = (
        f"capacity {capacity} and refill_per_s {refill_per_s} must be finite "
        "numbers above 0"
    )

    with pytest.raises(bus.InvalidOption, match=said):
        ratelimit.take("odd", *numbers)


def test_what_a_bucket_could_never_give_is_refused() -> None:
    with pytest.raises(bus.InvalidOption, match="never holds a token"):
        ratelimit.take("odd", 0.5, 1)
    with pytest.raises(bus.InvalidOption, match="takes over a year to fill"):
        ratelimit.take("odd", 1e9, 1e-9)


def test_without_redis_nobody_is_let_through(
    failure_simulator: FailureSimulator,
) -> None:
    failure_simulator.unreachable()

    with pytest.raises(bus.BusUnavailable):
        ratelimit.take("away", 10, 2)
