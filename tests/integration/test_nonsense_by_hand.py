"""What somebody writes into a topic's settings and counters by hand stops nobody."""

from __future__ import annotations

import pytest
import redis
from django.core.management import call_command

import bus
from bus import auditor, keys
from tests.support import agents, work
from tests.support.desk import Desk

NONSENSE = ["abc", "-7", "1.5", "", "9" * 30, "nan", "5 s"]
LIMITS = ["results_keep", "backlog_max", "dead_max", "max_attempts", "timeout_s"]


@pytest.mark.parametrize("value", NONSENSE)
def test_limits_that_are_none_count_as_not_set(
    test_topic: str, redis_client: redis.Redis, value: str
) -> None:
    usual = bus.stats(test_topic)["limits"]
    settings = keys.named("settings", test_topic)
    redis_client.hset(settings, mapping=dict.fromkeys(LIMITS, value))

    kept = [bus.enqueue_task(test_topic, n) for n in range(6)]
    later = bus.enqueue_task(test_topic, 6, delay_s=60)
    desk = Desk(test_topic)
    desk.complete(desk.one(), desk.one())
    retried = desk.fail(desk.one())
    dead = desk.fail(item := desk.one(), final=True)
    bus.discard(item.id, test_topic)
    cancelled = [bus.cancel(task_id, test_topic) for task_id in (later, kept[5])]
    desk.release(desk.one())

    assert (retried, dead, cancelled) == ("delayed", "dead", ["cancelled"] * 2)
    stats = bus.stats(test_topic)
    if value != "1.5":  # of a time limit that is one
        assert stats["limits"] == usual
    assert (stats["done"], stats["results"], stats["ledger"]["drift"]) == (2, 5, 0)


def test_an_agent_works_on_under_a_time_limit_that_is_none(
    test_topic: str, redis_client: redis.Redis
) -> None:
    redis_client.hset(keys.named("settings", test_topic), "timeout_s", "abc")
    with agents.running(test_topic, work.echo):
        for number in range(2):  # one by a claim, one by a blocking read
            task_id = bus.enqueue_task(test_topic, number)
            assert bus.wait_result(task_id, test_topic, 10).result == number


@pytest.mark.parametrize("value", ["banana", "1.5", "", "9" * 30])
def test_a_counter_that_is_none_is_read_as_0_and_taken_out(
    test_topic: str, redis_client: redis.Redis, value: str
) -> None:
    counters = keys.named("counters", test_topic)
    bus.enqueue_many(test_topic, range(3))
    desk = Desk(test_topic)
    desk.complete(desk.one())
    redis_client.hset(counters, mapping={"done": value, "repaired": value})

    stats = bus.stats(test_topic)
    call_command("topics", test_topic)
    found = auditor.audit(test_topic)
    ended = desk.complete(desk.one())

    assert (stats["done"], stats["repaired"]) == (0, 0)
    assert sorted(found.mended) == ["counter done", "counter repaired"]
    assert (ended, bus.stats(test_topic)["done"]) == (["ok"], 1)
    assert bus.stats(test_topic)["ledger"]["drift"] == 1  # which `--settle` accepts
