"""Sanity floors far below what `bench/` measures: load does not break the mesh."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pytest
import redis

import bus
from tests.support import agents
from tests.support.figures import Figures
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE, wait_until


async def echo(payload: Any, task: Any) -> Any:
    return payload


def _all_done(topic: str, count: int, timeout_s: float = 40.0) -> None:
    wait_until(
        lambda: bus.stats(topic)["done"] == count, timeout_s, f"{count} tasks are done"
    )


def test_one_sender_enqueues_at_least_100_a_second(
    test_topic: str, performance_metrics: Figures
) -> None:
    for number in range(500):
        with performance_metrics.measure():
            bus.enqueue_task(test_topic, {"number": number})

    assert performance_metrics.rate >= 100
    assert performance_metrics.error_rate == 0
    assert performance_metrics.mean_s < 0.1
    assert bus.stats(test_topic)["waiting"] == 500


def test_10_senders_together_enqueue_at_least_200_a_second(
    test_topic: str, performance_metrics: Figures
) -> None:
    def send(number: int) -> None:
        for at in range(100):
            with performance_metrics.measure():
                bus.enqueue_task(test_topic, [number, at])

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(send, range(10)))

    assert performance_metrics.rate >= 200
    assert performance_metrics.error_rate == 0
    assert bus.stats(test_topic)["waiting"] == 1_000


def test_500_results_are_read_at_once(
    test_topic: str, performance_metrics: Figures
) -> None:
    ids = bus.enqueue_many(test_topic, range(500))
    with agents.running(test_topic, echo):
        _all_done(test_topic, 500)

    for _ in range(5):
        with performance_metrics.measure():
            rows = bus.tail_results(test_topic, 500)

    assert performance_metrics.error_rate == 0
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert performance_metrics.mean_s < 1.0


@pytest.mark.parametrize("for_s", [10, pytest.param(30, marks=pytest.mark.slow)])
def test_50_a_second_are_worked_off_as_they_come(
    test_topic: str, performance_metrics: Figures, for_s: int
) -> None:
    waiting: list[int] = []
    count = 50 * for_s
    began = time.monotonic()

    with agents.running(test_topic, echo), Stalls() as stalls:
        for number in range(count):
            time.sleep(max(0.0, began + number / 50 - time.monotonic()))  # the pace
            with performance_metrics.measure():
                bus.enqueue_task(test_topic, number)
            if number % 50 == 49:
                waiting.append(bus.stats(test_topic)["backlog"])
        took_s = time.monotonic() - began
        _all_done(test_topic, count)

    assert performance_metrics.error_rate < 0.01
    assert performance_metrics.mean_s < 0.1 * PATIENCE + stalls.total_s / count
    assert took_s < for_s + 5 * PATIENCE + stalls.total_s
    assert max(waiting) < 100 * PATIENCE + 50 * stalls.total_s


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
def test_payloads_of_every_size_come_back_whole(
    test_topic: str, performance_metrics: Figures, size: int
) -> None:
    text = ("0123456789" * (size // 10))[:size]

    with agents.running(test_topic, echo):
        for number in range(50):
            with performance_metrics.measure():
                bus.enqueue_task(test_topic, {"number": number, "text": text})
        _all_done(test_topic, 50)

    rows = [row["result"] for _, row in bus.tail_results(test_topic, 50)]
    assert performance_metrics.error_rate == 0
    assert performance_metrics.mean_s < 0.1
    assert sorted(row["number"] for row in rows) == list(range(50))
    assert {row["text"] for row in rows} == {text}


def test_5000_tasks_go_end_to_end(test_topic: str, redis_client: redis.Redis) -> None:
    with agents.process(test_topic, "tests.support.work:echo"):
        wait_until(bus.list_agents, 20, "the agent is registered")
        began = time.monotonic()
        ids = bus.enqueue_many(test_topic, range(5_000))
        _all_done(test_topic, 5_000)
        took_s = time.monotonic() - began

    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    assert sorted(fields["id"] for _, fields in rows) == sorted(ids)
    assert took_s < 25
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_finished_work_leaves_bounded_memory_behind(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.set_limits(test_topic, results_keep=100)
    used = []

    with agents.running(test_topic, echo):
        for round_number in range(1, 5):
            bus.enqueue_many(test_topic, ["x" * 500] * 2_000)
            _all_done(test_topic, 2_000 * round_number)
            used.append(redis_client.info("memory")["used_memory_dataset"])

    assert redis_client.xlen(bus.task_stream(test_topic)) == 0
    assert redis_client.xlen(bus.result_stream(test_topic)) == 100
    assert redis_client.hlen(f"mesh:{{{test_topic}}}:tasks") == 0
    # 2,000 payloads are 1 MB; what ids of the last 30 s cost is far below that.
    assert used[-1] - used[0] < 2_500_000


def test_pending_tasks_cost_what_was_promised(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, "connected")
    before = redis_client.info("memory")["used_memory_dataset"]

    bus.enqueue_many(test_topic, [{"text": "x" * 178}] * 20_000)
    after = redis_client.info("memory")["used_memory_dataset"]

    assert (after - before) / 20_000 < 450


def test_a_deep_backlog_does_not_slow_down_senders(test_topic: str) -> None:
    """In turns: whatever else the machine does meets both."""
    shallow, deep = Figures(), Figures()
    full = f"{test_topic}-full"
    bus.enqueue_many(full, range(30_000))

    for number in range(300):
        with shallow.measure():
            bus.enqueue_task(test_topic, number)
        with deep.measure():
            bus.enqueue_task(full, number)

    assert deep.percentile_s(0.5) < 3 * shallow.percentile_s(0.5) + 0.002
