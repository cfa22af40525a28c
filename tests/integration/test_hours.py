"""What a topic counted hour by hour, read from the rings of its scripts."""

from __future__ import annotations

from collections import Counter

import pytest
import redis

import bus
from bus import errors, keys, rates
from bus.rates import Span
from dashboard import charts
from tests.support import rings
from tests.support.desk import Desk

HOUR_MS = 3_600_000


def test_an_hour_counts_its_ring_and_the_minute_that_still_runs(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(3))
    desk = Desk(test_topic)
    desk.complete(*desk.claim(2))
    desk.fail(desk.one(), final=True)
    hour = rings.hour_of(redis_client) - 5
    rings.write_hour(redis_client, test_topic, hour, "a=9 d=7 t=1 x=1 l=2 w3=7 r10=9")

    found = rates.hours(test_topic)

    assert len(found) == 24
    now = found[-1].at_ms
    assert [each.at_ms for each in found] == [
        now - ago * HOUR_MS for ago in range(23, -1, -1)
    ]
    # An hour may have ended since.
    assert sum(each.accepted for each in found[-2:]) == 3
    assert sum(each.done for each in found[-2:]) == 2
    assert sum(each.dead for each in found[-2:]) == 1
    [old] = [each for each in found if each.done == 7]
    counted = {"accepted": 9, "done": 7, "retried": 1, "dead": 1, "lost": 2}
    assert old == Span(
        hour * HOUR_MS, **counted, waits=Counter({3: 7}), runs=Counter({10: 9})
    )
    assert (old.wait_ms(0.5), old.run_ms(0.95)) == (8, 1_024)


@pytest.mark.parametrize("ago", [0, 1, 4])
def test_the_last_minute_is_added_to_its_own_hour(
    ago: int, test_topic: str, redis_client: redis.Redis
) -> None:
    """Up to the first call after it, which adds it there, whenever that comes."""
    hour = rings.hour_of(redis_client) - ago
    rings.write_hour(redis_client, test_topic, hour, "a=2 d=1 w0=1 r0=1")
    rings.write_minute(redis_client, test_topic, hour * 60 + 59, "A=4 d=5 w0=1 r1=5")
    redis_client.hset(keys.named("counters", test_topic), "accepted", 10)

    found = rates.hours(test_topic, 6)

    assert [each for each in found if each.done] == [
        Span(hour * HOUR_MS, 8, 6, waits=Counter({0: 2}), runs=Counter({0: 1, 1: 5}))
    ]


@pytest.mark.parametrize("ago", [3, 200])
def test_a_last_minute_of_before_is_left_out(
    ago: int, test_topic: str, redis_client: redis.Redis
) -> None:
    hour = rings.hour_of(redis_client) - ago
    rings.write_minute(redis_client, test_topic, hour * 60 + 59, "A=0 d=5 r1=5")

    found = rates.hours(test_topic, 2)

    assert not any(each.done or any(each.runs) for each in found)


def test_a_row_of_the_rings_last_turn_is_not_the_last_minute(
    test_topic: str, redis_client: redis.Redis
) -> None:
    minute = rings.hour_of(redis_client) * 60
    rings.write_minute(redis_client, test_topic, minute - 180, "A=0 d=5 r1=5")
    redis_client.hset(keys.named("minutes", test_topic), "last", minute)

    assert not any(each.done for each in rates.hours(test_topic, 6))


def test_a_topic_of_which_nothing_is_counted_has_empty_hours(test_topic: str) -> None:
    found = rates.hours(test_topic, 1)

    assert found == (Span(found[0].at_ms),)


def test_a_minute_that_ended_is_counted_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    minute = int(redis_client.time()[0]) // 60
    redis_client.delete(keys.named("minutes", test_topic))
    rings.write_minute(redis_client, test_topic, minute - 1, "A=0 d=4 r0=4")

    before = rates.hours(test_topic, 3)
    bus.enqueue_task(test_topic, 2)  # the first call after it adds it to its hour
    after = rates.hours(test_topic, 3)

    assert sum(each.done for each in before) == 4
    assert sum(each.done for each in after) == 4
    assert sum(each.accepted for each in before) == 1
    assert sum(each.accepted for each in after) == 2


def test_hours_of_a_month_ago_count_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    hour = rings.hour_of(redis_client)
    rings.write_hour(redis_client, test_topic, hour - 720, "a=9 d=9")
    rings.write_hour(redis_client, test_topic, hour - 721, "nonsense d=x w99=3 =")

    found = rates.hours(test_topic, rates.HOURS_MOST)

    assert len(found) == 719
    assert not any(each.done or each.accepted for each in found)


@pytest.mark.parametrize("count", [0, 720])
def test_hours_outside_the_ring_are_refused(test_topic: str, count: int) -> None:
    with pytest.raises(errors.InvalidOption, match="is not 1 to 719"):
        rates.hours(test_topic, count)


def test_a_topic_that_cannot_be_one_is_refused() -> None:
    with pytest.raises(errors.InvalidName):
        rates.hours("no topic")


def test_a_server_that_is_away_is_told(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")

    with pytest.raises(errors.BusUnavailable):
        rates.hours(test_topic)


@pytest.mark.parametrize(
    ("span", "done"), [("day", [1]), ("week", [2, 1]), ("month", [4, 2, 1])]
)
def test_longer_times_are_drawn_from_them(
    span: str, done: list[int], test_topic: str, redis_client: redis.Redis
) -> None:
    hour = rings.hour_of(redis_client)
    for ago, count in ((20, 1), (160, 2), (600, 4)):
        rings.write_hour(redis_client, test_topic, hour - ago, f"a={count} d={count}")

    row = charts.of_topic(test_topic, span, [])

    assert [each["done"] for each in row["rows"]] == done[::-1]
    assert (row["span"], row["quiet"]) == (span, False)
