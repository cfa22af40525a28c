"""When the letters of a failure died, counted on the server or read one by one."""

from __future__ import annotations

import time

import pytest
import redis

from bus import deaths, keys

HOUR_S = 3600


def put(client: redis.Redis, topic: str, ages_s: list[float], fp: str = "fp") -> int:
    """Letters of one failure that died so long ago; how many."""
    now_ms = int(time.time() * 1000)
    entries = {
        f"{now_ms - int(age * 1000)}-{at}": now_ms - int(age * 1000)
        for at, age in enumerate(ages_s)
    }
    client.zadd(keys.group_key(topic, fp), entries)
    return len(ages_s)


@pytest.mark.parametrize("times", [1, 10], ids=["read", "counted"])
def test_letters_stand_in_the_hour_they_died_in(
    test_topic: str, redis_client: redis.Redis, times: int
) -> None:
    # An hour may turn meanwhile; whatever its number, three hours lie between them.
    ages = [1.0, 3 * HOUR_S + 1.0, 3 * HOUR_S + 1.0, 20 * HOUR_S + 1.0] * times
    letters = put(redis_client, test_topic, ages)

    [found] = deaths.of([("fp", {test_topic: letters})])

    assert len(found.hours) == deaths.HOURS
    assert [each for each in found.hours if each] == [times, 2 * times, times]
    last, before, first = (at for at in range(23, -1, -1) if found.hours[at])
    assert (last - before, before - first) == (3, 17)
    assert found.at_ms % deaths.HOUR_MS == 0
    assert found.left_out == 0


@pytest.mark.parametrize("times", [1, 30], ids=["read", "counted"])
def test_older_letters_count_nothing_and_those_of_a_clock_ahead_count_now(
    test_topic: str, redis_client: redis.Redis, times: int
) -> None:
    letters = put(redis_client, test_topic, [25.0 * HOUR_S, -2.0 * HOUR_S] * times)

    [found] = deaths.of([("fp", {test_topic: letters})])

    assert sum(found.hours) == found.hours[-1] == times


def test_topics_add_up_and_failures_stay_apart(
    test_topic: str, redis_client: redis.Redis
) -> None:
    other = f"{test_topic}-b"
    here = put(redis_client, test_topic, [1.0] * 40)
    there = put(redis_client, other, [1.0] * 2)
    own = put(redis_client, other, [1.0] * 3, "own")

    both, alone, none = deaths.of(
        [("fp", {other: there, test_topic: here}), ("own", {other: own}), ("no", {})]
    )

    assert (sum(both.hours), sum(alone.hours), sum(none.hours)) == (42, 3, 0)
    assert deaths.of([]) == []


def test_of_too_many_topics_those_with_most_letters_are_asked(
    test_topic: str, redis_client: redis.Redis
) -> None:
    names = {f"{test_topic}-{at}": 100 + at for at in range(30)}
    for name, letters in names.items():
        put(redis_client, name, [1.0] * letters)

    [found] = deaths.of([("fp", names)])

    asked = len(names) - found.left_out
    assert 0 < asked < 30
    assert sum(found.hours) == sum(sorted(names.values())[-asked:])
