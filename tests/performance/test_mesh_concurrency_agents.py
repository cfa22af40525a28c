"""Many agents, waiters and operators at once: each task ends once, nothing hangs."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import Any

import redis

import bus
from tests.performance.test_mesh_concurrency import PATIENCE_S, _together, echo
from tests.support import agents
from tests.support.waiting import wait_until


def _taken(topic: str, group: str, consumer: str, count: int) -> list[str]:
    """Entry ids of one read by hand that does not wait."""
    rows = bus.read_group(topic, group, consumer, count, block_ms=0)
    return [entry_id for entry_id, _ in rows]


def test_15_agents_share_a_topic_and_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    began: Counter[str] = Counter()

    async def counted(payload: Any, task: Any) -> None:
        began[task.id] += 1
        await asyncio.sleep(0.05)

    with contextlib.ExitStack() as stack:
        crowd = [
            stack.enter_context(
                agents.running(test_topic, counted, concurrency=2, agent_id=f"a-{n}")
            )
            for n in range(15)
        ]
        wait_until(lambda: len(bus.list_agents()) == 15, 30, "all are there")
        ids = bus.enqueue_many(test_topic, range(600))
        wait_until(lambda: bus.stats(test_topic)["done"] == 600, 40, "all are done")
        for agent in crowd:
            agent.stop()

    rows = [row for _, row in bus.tail_results(test_topic, 1_000)]
    stats = bus.stats(test_topic)
    assert sorted(row["id"] for row in rows) == sorted(ids)
    assert set(began.values()) == {1}
    assert len({row["agent"] for row in rows}) == 15
    assert (stats["lost"], stats["ledger"]["drift"]) == (0, 0)
    assert bus.list_agents() == []


def test_15_agents_by_hand_end_each_task_in_one_way(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(600))

    def work(number: int) -> Counter[str]:
        ended: Counter[str] = Counter()
        while entries := _taken(test_topic, "default", f"by-hand-{number}", 5):
            for at, entry_id in enumerate(entries):
                if at % 2:
                    bus.move_to_dead(test_topic, entry_id, {"error": "odd"})
                    ended["dead"] += 1
                else:
                    ended["done"] += bus.ack(test_topic, "default", entry_id)
        return ended

    ended = sum(_together(15, work), Counter[str]())

    stats = bus.stats(test_topic)
    assert ended.total() == len(ids)
    assert (stats["done"], stats["dead"]) == (ended["done"], ended["dead"])
    assert (stats["backlog"], stats["ledger"]["drift"]) == (0, 0)


def test_a_task_that_many_cancel_and_acknowledge_ends_once(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(100))
    bus.create_consumer_group(test_topic, "default")

    def work(number: int) -> int:
        if number % 2:
            states = [_cancelled(test_topic, task_id) for task_id in ids]
            return states.count("cancelled")
        ended = 0
        while entries := _taken(test_topic, "default", f"by-hand-{number}", 3):
            ended += sum(bus.ack(test_topic, "default", each) for each in entries)
        return ended

    _together(10, work)

    stats = bus.stats(test_topic)
    assert stats["done"] + stats["cancelled"] == 100
    assert (stats["backlog"], stats["ledger"]["drift"]) == (0, 0)


def _cancelled(topic: str, task_id: str) -> str:
    """What became of a cancellation."""
    try:
        return bus.cancel(task_id, topic)
    except bus.NotCancellable:
        return "ended"


def test_one_key_sent_by_many_at_once_is_one_task(test_topic: str) -> None:
    ids = _together(
        16, lambda _: bus.enqueue_task(test_topic, "x", idempotency_key="order 7")
    )

    assert len(set(ids)) == 1
    assert bus.stats(test_topic)["accepted"] == 1


def test_topics_that_many_use_first_at_once_are_all_known(test_topic: str) -> None:
    names = [f"{test_topic}-{number:02}" for number in range(24)]

    def use(number: int) -> None:
        # Two threads meet in each topic: one sends, one reads.
        name = names[number // 2]
        if number % 2:
            bus.enqueue_task(name, number)
        else:
            bus.create_consumer_group(name, "default")

    _together(48, use)

    assert bus.list_topics() == names
    assert {bus.stats(name)["waiting"] for name in names} == {1}
    assert {bus.stats(name)["group"] for name in names} == {"default"}


def test_a_purge_beside_senders_loses_no_task_that_it_did_not_purge(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, "first")

    def work(number: int) -> int:
        if number % 5 == 0:
            purges = [bus.purge_topic(test_topic, "waiting") for _ in range(10)]
            return len(purges)
        return len([bus.enqueue_task(test_topic, at) for at in range(40)])

    _together(15, work)

    stats = bus.stats(test_topic)
    assert stats["accepted"] == 12 * 40 + 1
    assert stats["cancelled"] + stats["waiting"] == 12 * 40 + 1
    assert stats["cancelled"] > 0
    assert stats["ledger"]["drift"] == 0


def test_pauses_and_limits_set_by_many_at_once_leave_a_state_that_was_set(
    test_topic: str,
) -> None:
    bus.create_consumer_group(test_topic, "default")

    def steer(number: int) -> None:
        for at in range(20):
            (bus.pause if (number + at) % 2 else bus.resume)(test_topic)
            bus.set_limits(test_topic, results_keep=100 + number)

    _together(10, steer)

    assert bus.stats(test_topic)["limits"]["results_keep"] in range(100, 110)
    bus.resume(test_topic)
    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, echo):
        assert bus.wait_result(task_id, test_topic, 20).state == "done"


def test_threads_that_use_two_topics_in_opposite_order_never_lock_each_other(
    test_topic: str,
) -> None:
    first, second = f"{test_topic}-a", f"{test_topic}-b"

    def cross(number: int) -> None:
        one, other = (first, second) if number % 2 else (second, first)
        for at in range(15):
            bus.enqueue_task(one, at)
            bus.enqueue_task(other, at)
            for entry_id in _taken(one, "default", f"r-{number}", 2):
                bus.ack(one, "default", entry_id)
                bus.stats(other)

    _together(25, cross)  # it raises where one does not come back

    for name in (first, second):
        stats = bus.stats(name)
        assert stats["accepted"] == 25 * 15
        assert stats["ledger"]["drift"] == 0


def test_40_threads_that_wait_each_get_their_own_result(test_topic: str) -> None:
    def ask(number: int) -> bool:
        task_id = bus.enqueue_task(test_topic, {"from": number})
        task = bus.wait_result(task_id, test_topic, PATIENCE_S / 2)
        return bool(task.id == task_id and task.result == {"from": number})

    with agents.running(test_topic, echo):
        answered = _together(40, ask)

    assert answered == [True] * 40


def test_300_coroutines_of_one_loop_send_each_its_task(test_topic: str) -> None:
    async def story() -> list[str]:
        sends = (bus.aenqueue_task(test_topic, number) for number in range(300))
        sent = list(await asyncio.gather(*sends))
        await asyncio.gather(*(bus.aget_task(each, test_topic) for each in sent))
        return sent

    sent = asyncio.run(story())

    assert len(set(sent)) == 300
    assert [bus.get_task(each, test_topic).payload for each in sent] == [*range(300)]
