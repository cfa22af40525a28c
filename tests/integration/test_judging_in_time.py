"""The dead are found out when their registration ends, not a tick or two later."""

from __future__ import annotations

import math
import random
import time

import pytest
import redis
from pytest_django import Settings

import bus
from bus import agents, auditor, janitor, keys, looks
from bus.judge import Evenness, Judge
from tests.support.desk import GROUP, Desk, idle_for
from tests.support.pulse import Steady
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def holder(topic: str, expires_in_s: float) -> None:
    """An agent with a task in hand, whose registration ends then."""
    agents.register("holder", "holder#00000001", expires_in_s, {"topics": [topic]})
    bus.enqueue_task(topic, 1)
    assert Desk(topic, "holder#00000001").claim(1)


@pytest.mark.parametrize(
    ("expires_in_s", "least", "most"),
    [(1.0, 0.0, 1.1), (3.0, math.inf, math.inf)],
    ids=["it missed a beat", "it beats"],
)
def test_a_judge_comes_again_when_a_registration_ends(
    test_topic: str, expires_in_s: float, least: float, most: float
) -> None:
    holder(test_topic, expires_in_s)
    judge = Judge("me#00000001")

    judge.reclaim(test_topic)

    assert least <= judge.again_s <= most


def unrenewed(client: redis.Redis, topic: str, for_ms: int) -> bool:
    """Whether one who holds tasks has not renewed them for so long."""
    rows = client.xinfo_consumers(keys.task_stream(topic), GROUP)
    return any(row["pending"] and row["idle"] >= for_ms for row in rows)


def test_a_judge_comes_again_for_one_that_has_missed_to_renew_its_tasks(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """It beat rarely when it took them, and its registration lasts for long."""
    settings.MESH_BEAT_S, settings.MESH_EXPIRY_S = 0.2, 60.0  # missed after 0.3 s
    holder(test_topic, 3_600.0)
    wait_until(lambda: unrenewed(redis_client, test_topic, 400), 15)
    judge = Judge("me#00000001")

    judge.reclaim(test_topic)

    assert judge.again_s < 60.0


def test_one_of_a_crowd_that_saw_that_does_not_wait_for_its_turn(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Of a crowd few are left, and each would look again after up to 14 s."""
    crowd(150)
    holder(test_topic, 3_600.0)
    wait_until(lambda: unrenewed(redis_client, test_topic, 1_200), 15)
    survivor = janitor.Janitor("me#00000001", Steady(lambda: alive(redis_client)))
    survivor.start()
    try:
        wait_until(lambda: bus.stats(test_topic)["lost"], 7, "it is handed over")
    finally:
        survivor.close()
        survivor.join(5)


@pytest.mark.usefixtures("test_topic")
def test_no_tick_is_missed_for_a_wait_that_ends_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks: list[float] = []
    monkeypatch.setattr(random, "uniform", lambda *_: 1.1)
    monkeypatch.setattr(auditor, "tick", lambda *_: ticks.append(time.monotonic()))
    thread = janitor.Janitor("me#00000001", Steady())
    thread.start()
    try:
        wait_until(lambda: len(ticks) >= 4, 15, "it ticks")
    finally:
        thread.close()
        thread.join(5)

    gaps = [after - before for before, after in zip(ticks, ticks[1:], strict=False)]
    assert min(gaps) < 1.6


@pytest.mark.usefixtures("test_topic")
def test_a_mistake_of_ours_ends_no_janitor(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def mistaken(*_: object) -> None:
        nonlocal made
        made += 1
        raise LookupError("of ours")

    monkeypatch.setattr(auditor, "tick", mistaken)
    thread = janitor.Janitor("me#00000001", Steady())
    thread.start()
    try:
        wait_until(lambda: made >= 2, 15, "it goes on")
    finally:
        thread.close()
        thread.join(5)


@pytest.mark.usefixtures("redis_client")
def test_a_mistake_of_ours_in_one_topic_leaves_the_others_looked_after(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heeded: list[str] = []

    def heed(_: Judge, seen: looks.Look, *, tidy: bool) -> int:
        heeded.append(seen.topic)
        raise ValueError(f"{len(heeded)} digits")

    monkeypatch.setattr(Judge, "heed", heed)
    bus.enqueue_task("first", 1)
    bus.enqueue_task("second", 1)

    janitor.Janitor("me#1", Steady())._tick(["first", "second"])

    assert heeded == ["first", "second"]
    assert [told.getMessage() for told in caplog.records] == [
        "janitor: a mistake of ours; first: 1 digits",
        "janitor: a mistake of ours; second: 2 digits",
    ]
    assert all(told.exc_info for told in caplog.records)


# --- where the server's clock jumps, everybody looks dead


def sleep_of_the_machine(patch: pytest.MonkeyPatch, topic: str, for_s: float) -> None:
    """The server's clock goes on meanwhile, our monotonic one stands still."""
    real = time.monotonic
    patch.setattr(time, "monotonic", lambda: real() - for_s)
    idle_for(topic, "holder#00000001", for_s)
    client = bus.get_redis()
    for name in ("holder#00000001", "me#00000001"):
        client.zincrby(keys.AGENTS, -for_s * 1000, name)


@pytest.mark.parametrize("for_s", [10.0, 60.0], ids=["less than a lease", "more"])
def test_nobody_is_robbed_since_the_machine_slept(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, for_s: float
) -> None:
    holder(test_topic, 3.0)
    one = janitor.Janitor("me#00000001", Steady())
    one._tick(one.sharing.count())

    sleep_of_the_machine(monkeypatch, test_topic, for_s)
    one._tick(one.sharing.count())
    one._tick(one.sharing.count())

    assert bus.stats(test_topic)["lost"] == 0


def test_tasks_without_a_sign_of_life_since_then_are_taken(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> None:
    settings.MESH_JUDGE_AFTER_S, settings.MESH_LEASE_S = 0.2, 1.0
    holder(test_topic, 3.0)
    one = janitor.Janitor("holder#00000001", Steady())  # judged by its lease alone
    one.sharing.count()
    sleep_of_the_machine(monkeypatch, test_topic, 60.0)

    def lost() -> int:
        one._tick(one.sharing.count())
        return int(bus.stats(test_topic)["lost"])

    began = time.monotonic()
    wait_until(lost, 15, "its lease ends once more")

    assert time.monotonic() - began >= 0.9


def test_a_process_that_was_stopped_saw_no_jump(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Both clocks went on; nor did one whose answers are slow."""
    now = time.monotonic()
    clock = Evenness()
    for told_ms, asked_at, answered_at in [
        (1_000, now, now + 5),
        (7_000, now + 6, now + 6),
        (67_000, now + 66, now + 66),
        (66_000, now + 67, now + 67),
    ]:
        monkeypatch.setattr(time, "monotonic", lambda at=answered_at: at)
        clock.compare(told_ms, asked_at)

    assert clock.even_s == math.inf


# --- the more there are, the less often one of them looks


def crowd(count: int, *, ttl_s: float = 60.0, sort: str = "a{0}#00000000") -> None:
    """So many registrations that last so long."""
    for number in range(count):
        consumer = sort.format(number)
        agents.register(keys.agent_of(consumer), consumer, ttl_s, {})


def alive(client: redis.Redis) -> int:
    now_s, rest_us = client.time()
    return int(client.zcount(keys.AGENTS, now_s * 1000 + rest_us // 1000, "+inf"))


@pytest.mark.parametrize(
    ("count", "sort", "period_s"),
    [
        (1, "a{0}#00000000", 1.0),
        (8, "a{0}#00000000", 1.0),
        (36, "a{0}#00000000", 4.5),
        (80, "a{0}#00000000", 10.0),
        (100, "a{0}#00000000", 12.5),
        (160, "a{0}#00000000", 12.5),
        (100, "a{0}", 1.0),
        (100, "a{0}#http:30", 1.0),
    ],
    ids=[
        "alone",
        "a few",
        "many",
        "a crowd",
        "full",
        "more",
        "written by hand",
        "over HTTP",
    ],
)
@pytest.mark.usefixtures("test_topic")
def test_together_they_look_eight_times_a_second(
    redis_client: redis.Redis, count: int, sort: str, period_s: float
) -> None:
    crowd(count, sort=sort)
    sharing = janitor.Sharing(Steady(lambda: alive(redis_client)))

    assert sharing.period_s == 1.0  # before it has looked
    sharing.count()

    assert sharing.period_s == period_s


@pytest.mark.usefixtures("test_topic")
def test_what_can_wait_a_crowd_does_more_rarely(redis_client: redis.Redis) -> None:
    crowd(96)
    one = janitor.Janitor("me#00000001", Steady(lambda: alive(redis_client)))

    def turns(ticks: int) -> int:
        found = 0
        for tick in range(1, 61):
            one._ticks = tick
            found += one._turn(ticks)
        return found

    assert (turns(1), turns(5)) == (60, 12)
    one.sharing.count()

    assert (turns(1), turns(5)) == (6, 1)


def test_the_one_that_is_left_of_a_crowd_looks_at_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """With its period of a crowd the task would come after 12 s."""
    crowd(99, ttl_s=3.0)
    holder(test_topic, 3.0)
    agents.register("me", "me#00000001", 60.0, {})
    survivor = janitor.Janitor("me#00000001", Steady(lambda: alive(redis_client)))
    began = time.monotonic()
    survivor.start()
    try:
        wait_until(lambda: bus.stats(test_topic)["lost"], 15, "it is handed over")
    finally:
        survivor.close()
        survivor.join(5)

    assert time.monotonic() - began < 10.0


def test_in_a_crowd_what_is_due_comes_in_time(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who has looked since it was sent knows when it is due."""
    monkeypatch.setattr(janitor, "_PERIOD_MOST_S", 3.0)
    crowd(100)
    few = [janitor.Janitor(f"a{n}#00000000", Steady(lambda: 100)) for n in range(12)]
    for each in few:
        each.start()
    try:
        wait_until(lambda: all(each.sharing.period_s == 3.0 for each in few), 10)
        bus.enqueue_task(test_topic, 1, delay_s=3.5)
        wait_until(lambda: bus.stats(test_topic)["waiting"] == 1, 20, "it is due")
    finally:
        for each in few:
            each.close()
        for each in few:
            each.join(5)
