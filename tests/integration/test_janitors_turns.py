"""Many janitors look no more often than a few, and none relies on another."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import redis

import bus
from bus import janitor, keys
from bus.janitor import Janitor
from tests.support.waiting import wait_until

MINUTES = 100.0  # of ticks: no turn ends within a test


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(janitor, "_TURN", MINUTES)


def steady(name: str = "me#1") -> Janitor:
    """One that may judge, after its first look."""
    made = Janitor(name, lambda: MINUTES)
    assert made._is_first(time.monotonic()), "whoever starts looks for itself"
    return made


def soon() -> float:
    return time.monotonic() + 1


@pytest.fixture
def running() -> Iterator[Janitor]:
    made = Janitor("me#1", lambda: MINUTES)
    yield made
    made.close()
    made.join(10)


@pytest.mark.usefixtures("test_topic")
def test_of_a_hundred_one_looks(redis_client: redis.Redis) -> None:
    crowd = [steady(f"a#{number}") for number in range(100)]

    looked = [each._is_first(soon()) for each in crowd]
    redis_client.delete(keys.TURN)  # as its time does
    later = [each._is_first(soon()) for each in crowd]

    assert looked.count(True) == later.count(True) == 1


@pytest.mark.usefixtures("test_topic")
def test_a_turn_ends_by_itself_before_the_one_who_had_it_comes_again(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    one = steady()

    one._is_first(soon())

    ttl_ms = int(redis_client.pttl(keys.TURN))  # type: ignore[arg-type]
    assert ttl_ms <= 0.7 * janitor._TICK_S * 1000


@pytest.mark.parametrize("kind", ["text", "list"])
@pytest.mark.usefixtures("test_topic")
def test_nobody_is_stopped_by_what_stands_there(
    redis_client: redis.Redis, kind: str
) -> None:
    one = steady()
    if kind == "text":
        redis_client.set(keys.TURN, "for ever")
    else:
        redis_client.rpush(keys.TURN, "for ever")

    assert not one._is_first(soon())
    assert one._is_first(time.monotonic() + janitor._ALONE_S)
    assert int(redis_client.pttl(keys.TURN)) > 0  # type: ignore[arg-type]
    redis_client.delete(keys.TURN)


@pytest.mark.usefixtures("test_topic")
def test_who_may_not_judge_yet_takes_no_turn(redis_client: redis.Redis) -> None:
    young = Janitor("young#1", lambda: 0.0)

    assert young._is_first(soon()) and young._is_first(soon())
    assert not redis_client.exists(keys.TURN)


@pytest.mark.usefixtures("test_topic")
def test_the_duties_go_on_while_memory_is_full(redis_client: redis.Redis) -> None:
    one = steady()
    redis_client.config_set("maxmemory", 1)

    assert one._is_first(soon())


def test_who_sees_a_task_coming_due_comes_back_for_it(
    test_topic: str, redis_client: redis.Redis, running: Janitor
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=0.9)
    redis_client.set(keys.TURN, "another", ex=600)

    running.start()

    wait_until(lambda: bus.get_task(task_id, test_topic).state == "waiting", 15)
    assert redis_client.get(keys.TURN) == "another"
