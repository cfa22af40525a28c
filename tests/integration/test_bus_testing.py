"""What tests of other people's code build on, and the twins for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import redis
from django.contrib.auth import get_user_model
from pytest_django import DjangoCaptureOnCommitCallbacks

import bus
from bus import tasks, testing
from tests.support import agents, work


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server: whatever needs one fails."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")


def test_what_is_sent_is_collected_and_needs_no_server(nobody: None) -> None:
    with testing.collect() as sent:
        task_id = bus.enqueue_task("mail", {"to": "a"}, delay_s=5)
        bus.enqueue_many("print", [1, 2])

    assert [(item.topic, item.payload, item.delayed) for item in sent] == [
        ("mail", {"to": "a"}, True),
        ("print", 1, False),
        ("print", 2, False),
    ]
    assert sent[0].id == task_id


def test_a_delay_of_less_than_a_millisecond_is_none(nobody: None) -> None:
    with testing.collect() as sent:
        for delay_s in (0.0, 0.0005, 0.001):
            bus.enqueue_task("mail", 1, delay_s=delay_s)

    assert [item.delayed for item in sent] == [False, False, True]


@pytest.mark.django_db
def test_an_assertion_names_what_waits_for_a_commit(
    nobody: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with testing.collect() as sent:
        with django_capture_on_commit_callbacks() as hooks:
            task_id = bus.enqueue_task("mail", 1, on_commit=True)
            with pytest.raises(AssertionError, match=f"a commit:\n  task {task_id}"):
                testing.assert_enqueued(sent, "mail")
        for hook in hooks:
            hook()

    testing.assert_enqueued(sent, "mail", 1)
    with pytest.raises(AssertionError) as refusal:
        testing.assert_enqueued(sent, "mail", 2)
    assert "commit" not in str(refusal.value)


@pytest.mark.django_db
def test_what_waits_for_a_commit_is_collected_as_the_guide_says(
    nobody: None, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with testing.collect() as sent, django_capture_on_commit_callbacks(execute=True):
        bus.enqueue_task("mail", {"to": "a@b.c"}, on_commit=True)
    testing.assert_enqueued(sent, "mail", {"to": "a@b.c"})


def test_the_twins_are_collected_too(nobody: None) -> None:
    async def send() -> None:
        await bus.aenqueue_task("mail", 1)
        await bus.aenqueue_many("mail", [2, 3])

    with testing.collect() as sent:
        asyncio.run(send())

    assert [item.payload for item in sent] == [1, 2, 3]


def test_collecting_is_as_strict_as_sending(nobody: None) -> None:
    with testing.collect() as sent:
        with pytest.raises(bus.InvalidPayload):
            bus.enqueue_task("mail", {1, 2})
        with pytest.raises(bus.InvalidName):
            bus.enqueue_task("Not Allowed", 1)
        with pytest.raises(bus.InvalidOption):
            bus.enqueue_task("mail", 1, delay_s=-1)

    assert sent == []


def test_the_same_id_is_one_task_while_collecting(nobody: None) -> None:
    task_id = tasks.new_id()

    with testing.collect() as sent:
        bus.enqueue_task("mail", 1, task_id=task_id)
        bus.enqueue_task("mail", 1, task_id=task_id)
        with pytest.raises(bus.TaskConflict):
            bus.enqueue_task("mail", 2, task_id=task_id)

    assert len(sent) == 1


def test_a_collected_payload_is_what_an_agent_would_get(nobody: None) -> None:
    payload = {"pair": (1, 2)}

    with testing.collect() as sent:
        bus.enqueue_task("mail", payload)

    assert sent[0].payload == {"pair": [1, 2]}


def test_after_collecting_tasks_are_sent_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    with pytest.raises(ZeroDivisionError), testing.collect():
        raise ZeroDivisionError
    bus.enqueue_task(test_topic, 1)

    assert redis_client.xlen(bus.task_stream(test_topic)) == 1


def test_an_assertion_about_sent_tasks_holds_or_says_what_was_sent(
    nobody: None,
) -> None:
    with testing.collect() as sent:
        bus.enqueue_many("mail", ["a", "a", "b"])

    testing.assert_enqueued(sent, "mail")
    testing.assert_enqueued(sent, "mail", "a", count=2)
    testing.assert_enqueued(sent, "print", count=0)
    with pytest.raises(AssertionError, match="mail: 'b'"):
        testing.assert_enqueued(sent, "mail", "c")
    with pytest.raises(AssertionError, match="expected 1 task of mail .*found 2"):
        testing.assert_enqueued(sent, "mail", "a", count=1)
    with pytest.raises(AssertionError, match="sent: nothing"):
        testing.assert_enqueued([], "mail")


def test_an_async_handler_runs_inline(nobody: None, own_registry: None) -> None:
    @bus.handler("inline-async")
    async def double(payload: Any, task: Any) -> Any:
        await asyncio.sleep(0)
        return (payload * 2, task.attempt)

    assert testing.run_inline("inline-async", 21, attempt=3) == [42, 3]


@pytest.mark.django_db
def test_an_async_handler_sees_what_its_test_wrote(
    nobody: None, own_registry: None
) -> None:
    users: Any = get_user_model().objects
    users.create(username="ann")

    @bus.handler("inline-orm")
    async def count(payload: Any, task: Any) -> Any:
        return await users.filter(username=payload).acount()

    assert testing.run_inline("inline-orm", "ann") == 1


@pytest.mark.asyncio
async def test_handlers_of_both_kinds_run_inline_in_an_async_test(
    nobody: None, own_registry: None
) -> None:
    @bus.handler("inline-async")
    async def double(payload: Any, task: Any) -> Any:
        return (payload * 2, task.attempt)

    @bus.handler("inline-sync")
    def where(payload: Any, task: Any) -> Any:
        return threading.current_thread() is threading.main_thread()

    assert await testing.arun_inline("inline-async", 21, attempt=3) == [42, 3]
    assert await testing.arun_inline("inline-sync", 1) is False


def test_a_handler_inline_is_told_its_time(nobody: None, own_registry: None) -> None:
    @bus.handler("inline-time", timeout_s=7)
    def told(payload: Any, task: Any) -> Any:
        age = datetime.now(UTC) - datetime.fromisoformat(task.enqueued_at)
        return [task.timeout_s, age.total_seconds() < 60]

    assert testing.run_inline("inline-time", 1) == [7, True]


def test_a_sync_handler_runs_inline_and_raises_what_it_raised(
    nobody: None, own_registry: None
) -> None:
    @bus.handler("inline-sync")
    def hopeless(payload: Any, task: Any) -> Any:
        raise bus.GiveUp(f"no {payload}")

    with pytest.raises(bus.GiveUp, match="no hope"):
        testing.run_inline("inline-sync", "hope")


def test_a_result_that_is_no_json_shows_inline(
    nobody: None, own_registry: None
) -> None:
    @bus.handler("inline-set")
    def wrong(payload: Any, task: Any) -> Any:
        return {payload}

    with pytest.raises(bus.InvalidPayload):
        testing.run_inline("inline-set", 1)


def test_a_topic_without_handler_is_named_inline(nobody: None) -> None:
    with pytest.raises(bus.HandlerError, match="'nobody-serves-this'"):
        testing.run_inline("nobody-serves-this", 1)


@pytest.mark.asyncio
async def test_the_twins_carry_a_task_to_its_result(test_topic: str) -> None:
    async def double(payload: Any, task: Any) -> Any:
        return payload * 2

    with agents.running(test_topic, double):
        task_id = await bus.aenqueue_task(test_topic, 21)
        ended = await bus.await_result(task_id, test_topic, timeout_s=10)
        looked_up = await bus.aget_task(task_id, test_topic)
        rows = await bus.atail_results(test_topic)

    assert (ended.state, ended.result) == ("done", 42)
    assert looked_up == ended
    assert [row["id"] for _, row in rows] == [task_id]


@pytest.mark.asyncio
async def test_waiting_for_results_does_not_hold_the_loop(test_topic: str) -> None:
    ids = [await bus.aenqueue_task(test_topic, number) for number in range(5)]
    waits = [
        asyncio.create_task(bus.await_result(task_id, test_topic, timeout_s=3))
        for task_id in ids
    ]
    for _ in range(20):
        await asyncio.sleep(0.01)
    ended_meanwhile = [wait for wait in waits if wait.done()]
    waited = await asyncio.gather(*waits)

    assert ended_meanwhile == []
    assert {task.state for task in waited} == {"waiting"}


@pytest.mark.asyncio
async def test_a_thousand_waits_hold_no_thread_and_no_connection_each(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = await bus.aenqueue_many(test_topic, range(1_000))
    threads, clients = threading.active_count(), len(redis_client.client_list())
    waits = [
        asyncio.create_task(bus.await_result(task_id, test_topic, 30))
        for task_id in ids
    ]
    await asyncio.sleep(0.5)

    began = time.monotonic()
    await bus.astats(test_topic)  # a twin that has nothing to wait for
    assert time.monotonic() - began < 5
    # Those of astats, of the feed, and of the pool that looks.
    assert threading.active_count() - threads <= 3
    assert len(redis_client.client_list()) - clients <= 60

    with agents.running(test_topic, work.echo):
        ended = await asyncio.gather(*waits)

    assert [task.result for task in ended] == list(range(1_000))


@pytest.mark.asyncio
async def test_readers_by_hand_that_wait_hold_up_no_other_twin(test_topic: str) -> None:
    await bus.acreate_consumer_group(test_topic, "workers")
    reads = [
        asyncio.create_task(
            bus.aread_group(test_topic, "workers", f"one-{n}", 1, 9_000)
        )
        for n in range(20)
    ]
    await asyncio.sleep(0.1)

    began = time.monotonic()
    for _ in range(5):
        await bus.astats(test_topic)
    assert time.monotonic() - began < 5

    ids = await bus.aenqueue_many(test_topic, range(20))
    read = await asyncio.gather(*reads)
    assert sorted(fields["id"] for rows in read for _, fields in rows) == sorted(ids)


@pytest.mark.asyncio
@pytest.mark.parametrize("sent_after_s", [0, 0.01, 0.05])
async def test_a_reader_that_is_cancelled_takes_no_task_along(
    test_topic: str, sent_after_s: float
) -> None:
    await bus.acreate_consumer_group(test_topic, "workers")
    read = asyncio.create_task(bus.aread_group(test_topic, "workers", "one", 1, 30_000))
    await asyncio.sleep(0.1)

    # In three orders: what it takes is given back by whoever is the last to know.
    sending = asyncio.create_task(bus.aenqueue_task(test_topic, "precious"))
    await asyncio.sleep(sent_after_s)
    read.cancel()
    task_id = await sending

    rows: list[Any] = []
    with contextlib.suppress(asyncio.CancelledError):
        rows = await read
    if not rows:
        rows = await bus.aread_group(test_topic, "workers", "two", 1, 3_000)
    assert [(fields["id"], fields["attempt"]) for _, fields in rows] == [(task_id, 1)]


@pytest.mark.asyncio
async def test_a_twin_repeats_the_same_task_and_tells_a_conflict(
    test_topic: str,
) -> None:
    task_id = await bus.aenqueue_task(test_topic, {"a": 1})

    again = await bus.aenqueue_task(test_topic, {"a": 1}, task_id=task_id)
    with pytest.raises(bus.TaskConflict):
        await bus.aenqueue_task(test_topic, {"a": 2}, task_id=task_id)

    assert again == task_id
    assert bus.stats(test_topic)["backlog"] == 1
