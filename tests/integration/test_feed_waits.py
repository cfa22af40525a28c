"""Waiting for the end of a task on the feed: woken at once, never missed."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, feed, messages, results, tasks
from bus.live import tailer
from tests.support.desk import Desk
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE, wait_until_async

ABSENT = "0198c0de-0000-7000-8000-00000000abcd"


def on_a_loop(story: Callable[[], Awaitable[Any]]) -> Any:
    """Run a story on a loop of its own, as a server process would."""

    async def main() -> Any:
        return await story()

    return asyncio.run(main())


async def until_ended(topic: str, task_id: str, timeout_s: float) -> bool:
    """Wait for the end of a task that comes after this call."""
    async with feed.shared().watching(topic, task_id) as ended:
        return await ended(timeout_s)


async def an_end(topic: str, task_id: str, act: Callable[[], Any]) -> bool:
    """Whether the feed tells of an end that `act` brings about."""
    live = feed.shared()
    async with live.watching(topic, task_id) as ended:
        await asyncio.to_thread(act)
        return await ended(5 * PATIENCE)


def test_a_result_wakes_who_waits_for_its_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    woken = on_a_loop(
        lambda: an_end(test_topic, task_id, lambda: desk.complete(desk.one()))
    )

    assert woken


def test_a_dead_letter_wakes_who_waits_for_its_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    woken = on_a_loop(
        lambda: an_end(test_topic, task_id, lambda: desk.fail(desk.one(), final=True))
    )

    assert woken


def test_a_cancellation_wakes_who_waits_for_its_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    woken = on_a_loop(
        lambda: an_end(test_topic, task_id, lambda: tasks.cancel(task_id, test_topic))
    )

    assert woken


def test_an_ack_by_hand_wakes_who_waits_for_its_task(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.create_consumer_group(test_topic, "hand")
    [(entry_id, _)] = bus.read_group(test_topic, "hand", "me")

    woken = on_a_loop(
        lambda: an_end(
            test_topic, task_id, lambda: bus.ack(test_topic, "hand", entry_id)
        )
    )

    assert woken


def test_a_result_that_was_trimmed_unread_wakes_who_waits_for_its_task(
    test_topic: str,
) -> None:
    """Nothing names it any more: the feed knows of it as a gap."""
    bus.set_limits(test_topic, results_keep=1)
    first, _ = bus.enqueue_many(test_topic, range(2))
    desk = Desk(test_topic)

    woken = on_a_loop(
        lambda: an_end(test_topic, first, lambda: desk.complete(*desk.claim(2)))
    )

    assert woken


def test_an_end_of_which_nothing_is_ever_told_ends_a_wait(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no result is kept, none is ever read, and so none is missed."""
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    bus.set_limits(test_topic, results_keep=0)
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> str:
        waits = asyncio.create_task(bus.await_result(task_id, test_topic, 120))
        await wait_until_async(lambda: feed.shared().tailer.streams)
        await asyncio.to_thread(lambda: desk.complete(desk.one()))
        return (await asyncio.wait_for(waits, 20 * PATIENCE)).state

    assert on_a_loop(story) == messages.DONE


def test_a_retry_is_no_end(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> bool:
        async with feed.shared().watching(test_topic, task_id) as ended:
            await asyncio.to_thread(lambda: desk.fail(desk.one()))
            return await ended(0.3)

    assert on_a_loop(story) is False


def test_an_end_between_look_and_wait_is_not_missed(test_topic: str) -> None:
    """The race: the task ends after the caller looked and before it waits."""
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> tuple[str, bool, str]:
        async with feed.shared().watching(test_topic, task_id) as ended:
            looked = await bus.aget_task(task_id, test_topic)
            await asyncio.to_thread(lambda: desk.complete(desk.one()))
            await asyncio.sleep(0.2)
            woken = await ended(5)
            return looked.state, woken, (await bus.aget_task(task_id, test_topic)).state

    assert on_a_loop(story) == (messages.WAITING, True, messages.DONE)


def test_the_end_of_another_task_wakes_nobody(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> bool:
        async with feed.shared().watching(test_topic, ABSENT) as ended:
            await asyncio.to_thread(lambda: desk.complete(desk.one()))
            return await ended(0.3)

    assert on_a_loop(story) is False


def test_many_waits_take_one_blocked_connection(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(200))
    desk = Desk(test_topic)

    async def blocked_clients() -> int:
        info = await asyncio.to_thread(redis_client.info, "clients")
        return int(info["blocked_clients"])

    async def story() -> tuple[int, int, list[bool]]:
        live = feed.shared()
        waits = [asyncio.create_task(until_ended(test_topic, each, 60)) for each in ids]
        await wait_until_async(lambda: live.tailer.streams)
        before = len(asyncio.all_tasks())
        blocked = await wait_until_async(blocked_clients)
        await asyncio.to_thread(lambda: desk.complete(*desk.claim(100)))
        await asyncio.to_thread(lambda: desk.complete(*desk.claim(100)))
        return blocked, before, list(await asyncio.gather(*waits))

    blocked, _, woken = on_a_loop(story)

    assert blocked == 1
    assert woken == [True] * 200


def test_a_topic_that_comes_later_is_watched_within_a_fraction_of_the_block(
    test_topic: str,
) -> None:
    """A blocking read knows its streams beforehand; a new one must end the block."""
    other = f"{test_topic}-b"
    bus.enqueue_task(other, 1)

    async def story() -> float:
        live = feed.shared()
        async with live.watching(test_topic, ABSENT):
            await asyncio.sleep(0.05)
            began = time.perf_counter()
            with Stalls() as stalls:
                async with live.watching(other, ABSENT):
                    took_s = time.perf_counter() - began
            return took_s - stalls.total_s

    assert on_a_loop(story) < 0.5


def test_a_wait_ends_when_the_process_stops(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    async def story() -> str:
        live = feed.shared()
        waits = asyncio.create_task(bus.await_result(task_id, test_topic, 120))
        await wait_until_async(lambda: live.tailer.streams)
        live.close()
        return (await asyncio.wait_for(waits, 20 * PATIENCE)).state

    assert on_a_loop(story) == messages.WAITING


def test_a_wait_ends_when_the_process_stops_without_redis_as_well(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(tailer, "_OPEN_S", 0.1)

    async def story() -> None:
        feed.shared().close()
        waits = bus.await_result(ABSENT, test_topic, 120)
        await asyncio.wait_for(waits, 20 * PATIENCE)

    with pytest.raises(errors.BusUnavailable):
        on_a_loop(story)


def test_it_says_so_when_redis_is_away(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setattr(tailer, "_OPEN_S", 0.3)

    async def story() -> bool:
        return await until_ended(test_topic, ABSENT, 5)

    with pytest.raises(errors.BusUnavailable, match="cannot reach Redis"):
        on_a_loop(story)


def test_an_end_during_a_restart_of_the_server_wakes_as_well(
    own_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = "restarted"
    task_id = bus.enqueue_task(topic, 1)
    desk = Desk(topic)
    item = desk.one()

    async def story() -> bool:
        async with feed.shared().watching(topic, task_id) as ended:
            await asyncio.to_thread(own_server.stop)
            await asyncio.to_thread(own_server.start)
            connection.reset()
            await asyncio.to_thread(lambda: desk.complete(item))
            return await ended(10)

    assert on_a_loop(story)


def test_the_reader_ends_when_nobody_waits_any_more(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tailer, "_LINGER_S", 0.1)

    async def story() -> list[str]:
        await until_ended(test_topic, ABSENT, 0.01)
        await wait_until_async(lambda: len(asyncio.all_tasks()) == 1)
        return [task.get_name() for task in asyncio.all_tasks()]

    assert "mesh feed" not in on_a_loop(story)


def test_a_loop_may_end_while_somebody_waits(test_topic: str) -> None:
    """No task destroyed while pending, no connection left open: warnings are errors."""

    async def story() -> weakref.ref[Any]:
        live = feed.shared()
        waits = asyncio.create_task(until_ended(test_topic, ABSENT, 60))
        await wait_until_async(lambda: live.tailer.streams)
        assert not waits.done()
        return weakref.ref(live)

    known = on_a_loop(story)
    while gc.collect():  # since 3.13 what a coroutine held goes one round later
        pass

    assert known() is None, "the feed of a loop that ended is still known"


def test_each_end_wakes_once_so_that_a_caller_may_look_and_wait_again(
    test_topic: str,
) -> None:
    """A dead letter that is replayed ends twice; between the two the wait is quiet."""
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)

    async def story() -> list[bool]:
        async with feed.shared().watching(test_topic, task_id) as ended:
            await asyncio.to_thread(lambda: desk.fail(desk.one(), final=True))
            woken = [await ended(5)]
            await asyncio.sleep(0.2)  # the letter's event follows the letter itself
            await ended(0)
            woken.append(await ended(0.3))
            await asyncio.to_thread(bus.replay, task_id, test_topic)
            await asyncio.to_thread(lambda: desk.complete(desk.one()))
            woken.append(await ended(5))
            return woken

    assert on_a_loop(story) == [True, False, True]


def test_who_has_little_time_does_not_wait_for_the_feed_to_open(
    test_topic: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No longer than one command does, on a server that takes calls and hangs."""
    settings.MESH_SOCKET_TIMEOUT_S = 0.3
    monkeypatch.setattr(tailer, "_OPEN_S", 60.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{port}/0")
        began = time.monotonic()

        with pytest.raises(errors.BusUnavailable):
            asyncio.run(bus.await_result(ABSENT, test_topic, 0.2))

    assert time.monotonic() - began < 30
