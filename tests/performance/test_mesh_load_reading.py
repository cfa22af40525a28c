"""What lies there in thousands is read, listed and worked off at a steady pace."""

from __future__ import annotations

import asyncio
import concurrent.futures
from typing import Any

import pytest

import bus
from bus import janitor
from bus.agent import Agent
from bus.handlers import Handler
from tests.support import agents
from tests.support.desk import Desk
from tests.support.figures import Figures
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

MEAN_S = 0.1  # the founding report's bound of a mean; bench/ has the true figures


async def echo(payload: Any, task: Any) -> Any:
    return payload


def _finished(topic: str, count: int) -> list[str]:
    """Tasks that are done, the oldest first."""
    ids = bus.enqueue_many(topic, range(count))
    desk = Desk(topic)
    while held := desk.claim(100):
        desk.complete(*held)
    return ids


@pytest.mark.parametrize("count", [1, 100, 500, 1_000])
def test_of_a_thousand_results_the_newest_are_read_in_order(
    test_topic: str, performance_metrics: Figures, count: int
) -> None:
    ids = _finished(test_topic, 1_000)

    for _ in range(20):
        with performance_metrics.measure():
            rows = bus.tail_results(test_topic, count)

    assert performance_metrics.error_rate == 0
    assert [row["id"] for _, row in rows] == ids[::-1][:count]
    assert performance_metrics.mean_s < 5 * MEAN_S


@pytest.mark.parametrize("count", [50, 500])
def test_2000_waiting_tasks_are_listed_page_by_page_each_once(
    test_topic: str, performance_metrics: Figures, count: int
) -> None:
    ids = bus.enqueue_many(test_topic, range(2_000))
    listed: list[str] = []
    cursor: str | None = None

    while len(listed) < 2_000:
        with performance_metrics.measure():
            page, cursor = bus.list_tasks(test_topic, "waiting", count, cursor)
        listed += [task.id for task in page]
        if cursor is None:
            break

    assert performance_metrics.error_rate == 0
    assert listed == ids
    assert performance_metrics.mean_s < 5 * MEAN_S


def test_500_tasks_are_looked_up_one_by_one(
    test_topic: str, performance_metrics: Figures
) -> None:
    ids = bus.enqueue_many(test_topic, range(500))

    found = []
    for task_id in ids:
        with performance_metrics.measure():
            found.append(bus.get_task(task_id, test_topic).payload)

    assert performance_metrics.error_rate == 0
    assert found == list(range(500))
    assert performance_metrics.mean_s < MEAN_S


def test_500_letters_are_listed_and_replayed(
    test_topic: str, performance_metrics: Figures
) -> None:
    ids = bus.enqueue_many(test_topic, range(500))
    desk = Desk(test_topic)
    while held := desk.claim(100):
        for item in held:
            desk.fail(item, final=True)

    letters = bus.list_dead(test_topic, 500)
    for letter in letters:
        with performance_metrics.measure():
            bus.replay(letter.id, test_topic)

    stats = bus.stats(test_topic)
    assert sorted(letter.id for letter in letters) == sorted(ids)
    assert performance_metrics.error_rate == 0
    assert performance_metrics.mean_s < MEAN_S
    assert (stats["dead"], stats["waiting"], stats["replayed"]) == (0, 500, 500)


@pytest.mark.parametrize("count", [1, 10, 100])
def test_agents_by_hand_drain_a_thousand_tasks(
    test_topic: str, performance_metrics: Figures, count: int
) -> None:
    ids = bus.enqueue_many(test_topic, range(1_000))
    seen: list[str] = []

    while rows := bus.read_group(test_topic, "default", "by-hand", count, block_ms=0):
        for entry_id, fields in rows:
            with performance_metrics.measure():
                assert bus.ack(test_topic, "default", entry_id) == 1
            seen.append(fields["id"])

    assert performance_metrics.error_rate == 0
    assert seen == ids
    assert performance_metrics.mean_s < MEAN_S
    assert bus.stats(test_topic)["done"] == 1_000


@pytest.mark.parametrize("size", [1, 100, 1_000])
def test_3000_tasks_in_calls_of_any_size_are_taken_whole(
    test_topic: str, performance_metrics: Figures, size: int
) -> None:
    sent: list[str] = []

    with Stalls() as stalls:
        for at in range(0, 3_000, size):
            with performance_metrics.measure():
                sent += bus.enqueue_many(test_topic, range(at, at + size))

    assert performance_metrics.error_rate == 0
    assert len(set(sent)) == 3_000
    assert bus.stats(test_topic)["waiting"] == 3_000
    assert sum(performance_metrics.durations) < 15 + stalls.total_s  # 200 a second


@pytest.mark.parametrize("size", [1_000, 10_000, 100_000])
def test_10_senders_together_send_payloads_of_every_size(
    test_topic: str, performance_metrics: Figures, size: int
) -> None:
    text = "x" * size

    def send(number: int) -> None:
        for at in range(20):
            with performance_metrics.measure():
                bus.enqueue_task(test_topic, {"from": number, "at": at, "text": text})

    with concurrent.futures.ThreadPoolExecutor(10) as pool:
        list(pool.map(send, range(10)))

    rows = bus.read_group(test_topic, "default", "by-hand", 200, block_ms=0)
    assert performance_metrics.error_rate == 0
    assert {(f["payload"]["from"], f["payload"]["at"]) for _, f in rows} == {
        (number, at) for number in range(10) for at in range(20)
    }
    assert {len(fields["payload"]["text"]) for _, fields in rows} == {size}


def test_a_thousand_delayed_tasks_come_when_they_are_due(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(1_000), delay_s=0.5)

    with agents.running(test_topic, echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 1_000, 30, "all are done")

    stats = bus.stats(test_topic)
    assert {row["id"] for _, row in bus.tail_results(test_topic, 1_000)} == set(ids)
    assert (stats["delayed"], stats["ledger"]["drift"]) == (0, 0)


def test_a_thousand_tasks_of_which_many_fail_first_are_all_done(
    test_topic: str,
) -> None:
    async def second_time(payload: Any, task: Any) -> Any:
        if payload % 4 == 0 and task.attempt == 1:
            raise ValueError("not yet")
        return payload

    bus.enqueue_many(test_topic, range(1_000))
    with agents.running(test_topic, second_time, backoff_s=0.01):
        wait_until(lambda: bus.stats(test_topic)["done"] == 1_000, 40, "all are done")

    stats = bus.stats(test_topic)
    assert (stats["retried"], stats["dead"], stats["ledger"]["drift"]) == (250, 0, 0)


def test_one_agent_works_off_20_topics(test_topic: str) -> None:
    topics = [f"{test_topic}-{number:02}" for number in range(20)]
    for topic in topics:
        bus.enqueue_many(topic, range(100))

    with agents.serving(Agent([Handler(topic, echo) for topic in topics])):
        wait_until(
            lambda: all(bus.stats(topic)["done"] == 100 for topic in topics),
            40,
            "all are done",
        )

    assert sum(bus.stats(topic)["backlog"] for topic in topics) == 0


def test_what_a_deep_backlog_holds_does_not_slow_down_its_figures(
    test_topic: str,
) -> None:
    shallow, deep = Figures(), Figures()
    bus.enqueue_task(test_topic, 0)
    for _ in range(100):
        with shallow.measure():
            bus.stats(test_topic)
    bus.enqueue_many(test_topic, range(30_000))

    for _ in range(100):
        with deep.measure():
            bus.stats(test_topic)

    assert deep.percentile_s(0.5) < 3 * shallow.percentile_s(0.5) + 0.002


def test_500_coroutines_send_and_await_their_results(
    test_topic: str, performance_metrics: Figures
) -> None:
    async def ask(number: int) -> Any:
        with performance_metrics.measure():
            task_id = await bus.aenqueue_task(test_topic, number)
        return (await bus.await_result(task_id, test_topic, 40)).result

    async def story() -> list[Any]:
        return list(await asyncio.gather(*(ask(number) for number in range(500))))

    with agents.running(test_topic, echo):
        answers = asyncio.run(story())

    assert performance_metrics.error_rate == 0
    assert answers == list(range(500))


def test_results_beyond_those_kept_go_while_thousands_come(test_topic: str) -> None:
    bus.set_limits(test_topic, results_keep=50)

    ids = _finished(test_topic, 2_000)
    janitor.trim(test_topic)

    rows = bus.tail_results(test_topic, 1_000)
    assert [row["id"] for _, row in rows] == ids[::-1][:50]
    assert bus.stats(test_topic)["done"] == 2_000
