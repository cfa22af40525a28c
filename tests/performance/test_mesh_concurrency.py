"""Many threads at once: nothing is doubled, nothing is lost, nothing hangs."""

from __future__ import annotations

import concurrent.futures
import contextlib
import faulthandler
import random
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, refusals, tasks
from tests.support import agents
from tests.support.figures import Figures
from tests.support.waiting import wait_until

PATIENCE_S = 60.0  # beyond which something hangs


async def echo(payload: Any, task: Any) -> Any:
    return payload


def _together(
    count: int, work: Callable[[int], Any], within_s: float = PATIENCE_S
) -> list[Any]:
    """Run the same work on many threads that start in one moment.

    Nobody can end a thread that hangs: it is named and left behind. Whoever joined it
    would hang as well, and with him all tests to come.
    """
    start = threading.Barrier(count)
    ends: list[Future[Any]] = [Future() for _ in range(count)]

    def one(number: int) -> None:
        try:
            start.wait(within_s)
            ends[number].set_result(work(number))
        except BaseException as exc:
            ends[number].set_exception(exc)

    for number in range(count):
        threading.Thread(target=one, args=(number,), daemon=True).start()
    done, _ = concurrent.futures.wait(ends, within_s)
    if stuck := [number for number, end in enumerate(ends) if end not in done]:
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        raise AssertionError(f"after {within_s:g} s threads {stuck} have not ended")
    return [end.result() for end in ends]


def test_threads_that_wait_for_each_other_are_told_of_and_left_behind(
    capfd: pytest.CaptureFixture[str],
) -> None:
    locks, both = (threading.Lock(), threading.Lock()), threading.Barrier(2)

    def cross(number: int) -> None:
        with locks[number]:
            both.wait(PATIENCE_S)
            with locks[1 - number]:
                pass

    with pytest.raises(AssertionError, match=r"threads \[0, 1\] have not ended"):
        _together(2, cross, within_s=0.5)

    assert "most recent call first" in capfd.readouterr().err
    locks[0].release()  # now they can


@pytest.mark.parametrize("producers", [10, 20])
def test_many_producers_lose_and_double_nothing(
    test_topic: str,
    redis_client: redis.Redis,
    concurrency_metrics: Figures,
    producers: int,
) -> None:
    def send(number: int) -> list[str]:
        ids = []
        for at in range(50):
            with concurrency_metrics.measure():
                ids.append(bus.enqueue_task(test_topic, [number, at]))
        return ids

    sent = [task_id for ids in _together(producers, send) for task_id in ids]

    rows: Any = redis_client.xrange(bus.task_stream(test_topic))
    assert concurrency_metrics.errors == []
    assert sorted(fields["id"] for _, fields in rows) == sorted(sent)
    assert len(set(sent)) == producers * 50


def test_readers_side_by_side_get_every_entry_once(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(800))

    def read(number: int) -> list[str]:
        found = []
        while rows := bus.read_group(
            test_topic, "default", f"reader-{number}", 7, block_ms=50
        ):
            for entry_id, fields in rows:
                found.append(fields["id"])
                assert bus.ack(test_topic, "default", entry_id) == 1
        return found

    delivered = [task_id for found in _together(10, read) for task_id in found]

    assert sorted(delivered) == sorted(ids)
    assert bus.stats(test_topic)["done"] == 800


def test_an_entry_acked_by_many_at_once_is_done_once(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(20))
    entries = [sid for sid, _ in bus.read_group(test_topic, "default", "hand", 20)]

    acks = _together(
        10, lambda _: [bus.ack(test_topic, "default", sid) for sid in entries]
    )

    assert [sum(column) for column in zip(*acks, strict=True)] == [1] * 20
    assert bus.stats(test_topic)["done"] == 20


def test_one_id_sent_by_many_at_once_is_one_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = tasks.new_id()

    ids = _together(20, lambda _: bus.enqueue_task(test_topic, "x", task_id=task_id))

    assert set(ids) == {task_id}
    assert redis_client.xlen(bus.task_stream(test_topic)) == 1
    assert bus.stats(test_topic)["accepted"] == 1


def test_a_letter_replayed_by_many_at_once_is_replayed_once(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    [(entry_id, _)] = bus.read_group(test_topic, "default", "hand")
    bus.move_to_dead(test_topic, entry_id, {"error": "broken"})

    def replay(_: int) -> bool:
        try:
            bus.replay(task_id, test_topic)
        except bus.NotDead:
            return False
        return True

    assert Counter(_together(12, replay)) == {True: 1, False: 11}
    assert bus.stats(test_topic)["waiting"] == 1


def test_agents_register_beat_and_leave_side_by_side(test_topic: str) -> None:
    def live(number: int) -> bool:
        name = f"agent-{number:02}"
        bus.register_agent(name, "tester", 30, {"number": number})
        beats = [bus.heartbeat_agent(name, 30) for _ in range(10)]
        if number % 2:
            bus.deregister_agent(name)
        return all(beats)

    assert all(_together(20, live))
    assert [row["agent_id"] for row in bus.list_agents()] == [
        f"agent-{number:02}" for number in range(0, 20, 2)
    ]


def test_one_agent_registered_by_many_at_once_is_one_agent(test_topic: str) -> None:
    _together(
        15, lambda number: bus.register_agent("same", "tester", 30, {"n": number})
    )

    [record] = bus.list_agents()
    assert record["agent_id"] == "same"
    assert record["meta"]["n"] in range(15)


def test_a_group_created_by_many_at_once_is_created_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, "early")

    made = _together(16, lambda _: bus.create_consumer_group(test_topic, "mine"))

    groups: Any = redis_client.xinfo_groups(bus.task_stream(test_topic))
    assert Counter(made) == {True: 1, False: 15}
    assert [group["name"] for group in groups] == ["mine"]
    assert len(bus.read_group(test_topic, "mine", "hand", 5)) == 1


def test_groups_that_race_to_be_the_working_one_agree_on_one(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(10))

    _together(
        12, lambda number: bus.create_consumer_group(test_topic, f"group-{number}")
    )
    working = bus.stats(test_topic)["group"]
    with agents.running(test_topic, echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 10, 10, "all are done")

    assert working in {f"group-{number}" for number in range(12)}
    assert bus.stats(test_topic)["group"] == working


def test_a_stream_written_and_read_by_many_from_the_first_moment(
    test_topic: str,
) -> None:
    delivered: list[str] = []

    def both(number: int) -> str | None:
        if number % 2:
            return bus.enqueue_task(test_topic, number)
        rows = bus.read_group(test_topic, "default", f"reader-{number}", 3, 2_000)
        delivered.extend(fields["id"] for _, fields in rows)
        return None

    sent = [task_id for task_id in _together(16, both) if task_id]
    while rows := bus.read_group(test_topic, "default", "last", 10, 0):
        delivered.extend(fields["id"] for _, fields in rows)

    assert sorted(delivered) == sorted(sent)


def test_50000_ids_from_many_threads_differ() -> None:
    made = _together(10, lambda _: [tasks.new_id() for _ in range(5_000)])

    ids = [task_id for part in made for task_id in part]
    assert len(set(ids)) == 50_000
    assert {task_id[14] for task_id in ids} == {"7"}


def test_25_threads_of_mixed_operations_end(
    test_topic: str, concurrency_metrics: Figures
) -> None:
    expected = (bus.TaskNotFound, bus.NotDead, bus.NotCancellable)

    def mixed(number: int) -> None:
        chance = random.Random(number)
        mine = [bus.enqueue_task(test_topic, number)]
        operations: list[Callable[[], Any]] = [
            lambda: mine.append(bus.enqueue_task(test_topic, number)),
            lambda: mine.extend(bus.enqueue_many(test_topic, range(5))),
            lambda: bus.enqueue_task(test_topic, "later", delay_s=0.05),
            lambda: bus.get_task(chance.choice(mine), test_topic),
            lambda: bus.get_task(chance.choice(mine)),
            lambda: bus.cancel(chance.choice(mine), test_topic),
            lambda: bus.tail_results(test_topic, 20),
            lambda: bus.register_agent(f"mixed-{number}", "tester", 5),
            lambda: bus.list_agents(),
            lambda: bus.stats(test_topic),
            lambda: bus.list_dead(test_topic),
        ]
        for _ in range(30):
            with concurrency_metrics.measure(), contextlib.suppress(*expected):
                chance.choice(operations)()

    with agents.running(test_topic, echo, concurrency=10):
        _together(25, mixed)
        wait_until(lambda: bus.stats(test_topic)["backlog"] == 0, 20, "all have ended")

    stats = bus.stats(test_topic)
    assert concurrency_metrics.errors == []
    assert concurrency_metrics.count == 25 * 30
    assert stats["done"] + stats["cancelled"] == stats["accepted"]
    assert stats["ledger"]["drift"] == 0


@pytest.mark.parametrize("size", [1, 4, 16, None])
def test_a_process_opens_at_most_50_connections_per_profile_or_as_many_as_set(
    test_topic: str, redis_client: redis.Redis, settings: Settings, size: int | None
) -> None:
    if size is not None:
        settings.MESH_POOL_SIZE = size
    most_allowed = 50 if size is None else size
    before = redis_client.info("clients")["connected_clients"]
    most: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            most.append(redis_client.info("clients")["connected_clients"])

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        sent = _together(
            80, lambda n: [bus.enqueue_task(test_topic, n) for _ in range(10)]
        )
    finally:
        over.set()
        watcher.join(10)

    assert connection.writer().size == most_allowed
    assert max(most) - before <= most_allowed
    assert len({task_id for ids in sent for task_id in ids}) == 800


@pytest.mark.parametrize("profile", ["writer", "settler", "waiter"])
def test_who_comes_when_50_lines_are_taken_waits_for_one(
    test_topic: str, settings: Settings, profile: str
) -> None:
    settings.MESH_SOCKET_TIMEOUT_S = 2 * PATIENCE_S  # after which he would look anyhow
    pool = getattr(connection, profile)()

    def ping() -> Any:
        with pool.line() as line:
            return line.call(("PING",))

    with ThreadPoolExecutor(1) as late, contextlib.ExitStack() as held:
        lines = [held.enter_context(pool.line()) for _ in range(49)]
        with pool.line() as last:
            assert last.call(("PING",)) == "PONG"
            answer = late.submit(ping)
            wait_until(lambda: pool._waiting == 1)
            assert not answer.done()
        assert answer.result(PATIENCE_S) == "PONG"

    assert len({*lines, last}) == 50


@pytest.mark.parametrize("profile", ["writer", "settler", "waiter"])
def test_who_waits_for_one_of_50_lines_in_vain_is_told_so(
    test_topic: str, settings: Settings, profile: str
) -> None:
    settings.MESH_SOCKET_TIMEOUT_S = 0.3
    pool = getattr(connection, profile)()

    with contextlib.ExitStack() as held:
        for _ in range(50):
            held.enter_context(pool.line())
        with (
            pytest.raises(bus.BusUnavailable, match="all connections .* are in use"),
            refusals.guard(),
        ):
            held.enter_context(pool.line())


def test_the_shared_client_lends_50_connections_at_once(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_SOCKET_TIMEOUT_S = 0.3
    client = bus.get_redis()
    pool: Any = client.connection_pool

    held = [pool.get_connection() for _ in range(50)]
    with pytest.raises(redis.ConnectionError, match="No connection available"):
        client.ping()
    pool.release(held.pop())

    assert client.ping()
    for taken in held:
        pool.release(taken)


def test_a_pool_of_one_connection_still_serves_everybody(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_POOL_SIZE = 1

    sent = _together(30, lambda n: bus.enqueue_many(test_topic, range(20)))

    assert len({task_id for ids in sent for task_id in ids}) == 600
    assert bus.stats(test_topic)["waiting"] == 600
