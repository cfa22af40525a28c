"""`enqueue_many`: what ends it early tells exactly what is in the mesh."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from pytest_django import Settings

import bus
from bus import accepting, errors, many, wanted
from tests.support.waiting import wait_until_async

Send = Callable[..., list[str]]


def twin(topic: str, payloads: Any, **options: Any) -> list[str]:
    return asyncio.run(bus.aenqueue_many(topic, payloads, **options))


def streamed(topic: str, payloads: Any, **options: Any) -> list[str]:
    """The twin, given its payloads one by one."""

    async def source() -> AsyncIterator[Any]:
        for payload in payloads:
            yield payload

    return asyncio.run(bus.aenqueue_many(topic, source(), **options))


every_way = pytest.mark.parametrize("send", [bus.enqueue_many, twin, streamed])


def ids(count: int) -> list[str]:
    return [wanted.new_id() for _ in range(count)]


def written(topic: str, among: list[str]) -> list[str]:
    """Which of these tasks exist."""
    live = {task.id for task in bus.list_tasks(topic, count=1_000)[0]}
    return [task_id for task_id in among if task_id in live]


def accepted(error: pytest.ExceptionInfo[BaseException]) -> list[str]:
    found: list[str] = vars(error.value)["accepted"]
    return found


@every_way
@pytest.mark.parametrize(("count", "taken"), [(3, 1), (150, 120)])
def test_a_conflict_leaves_the_ids_of_all_others_that_were_written(
    test_topic: str, send: Send, count: int, taken: int
) -> None:
    mine = ids(count)
    bus.enqueue_task(test_topic, "somebody's", task_id=mine[taken])

    with pytest.raises(errors.TaskConflict) as refusal:
        send(test_topic, range(count), task_ids=mine)

    others = [task_id for task_id in mine if task_id != mine[taken]]
    assert accepted(refusal) == others == written(test_topic, others)
    assert refusal.value.facts["accepted"] == others


@every_way
def test_the_same_id_twice_with_two_payloads_is_accepted_once(
    test_topic: str, send: Send
) -> None:
    [mine] = ids(1)

    with pytest.raises(errors.TaskConflict) as refusal:
        send(test_topic, [1, 2], task_ids=[mine, mine])

    assert accepted(refusal) == [mine] == written(test_topic, [mine])


def test_who_interrupts_it_learns_what_was_accepted(test_topic: str) -> None:
    def rows() -> Iterator[int]:
        yield from range(150)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as stop:
        bus.enqueue_many(test_topic, rows())

    assert len(accepted(stop)) == bus.stats(test_topic)["backlog"] == 100


# --- ids


@pytest.mark.parametrize("send", [bus.enqueue_many, twin])
@pytest.mark.parametrize("given", [0, 119, 121])
def test_ids_that_are_not_one_for_each_are_refused_before_anything_is_sent(
    test_topic: str, send: Send, given: int
) -> None:
    with pytest.raises(errors.InvalidOption, match="task_ids for 120 payloads"):
        send(test_topic, range(120), task_ids=ids(given))

    assert bus.stats(test_topic)["backlog"] == 0


@every_way
def test_ids_that_end_before_the_payloads_leave_what_was_accepted(
    test_topic: str, send: Send
) -> None:
    mine = ids(120)

    with pytest.raises(errors.InvalidOption, match=r"before payloads\[120\]") as gap:
        send(test_topic, iter(range(150)), task_ids=iter(mine))

    assert accepted(gap) == mine[:100] == written(test_topic, mine)


@every_way
def test_ids_of_a_list_that_are_left_over_are_an_error(
    test_topic: str, send: Send
) -> None:
    mine = ids(4)

    with pytest.raises(errors.InvalidOption, match="4 task_ids for 3 pay") as surplus:
        send(test_topic, iter(range(3)), task_ids=mine)

    assert accepted(surplus) == mine[:3] == written(test_topic, mine)


@every_way
def test_ids_of_an_endless_source_may_be_left_over(test_topic: str, send: Send) -> None:
    sent = send(test_topic, range(3), task_ids=iter(wanted.new_id, ""))

    assert written(test_topic, sent) == sent


# --- sources


@pytest.mark.parametrize("send", [bus.enqueue_many, twin])
@pytest.mark.parametrize("payloads", [None, 5, "text", b"text", {"a": 1}])
def test_what_is_no_list_of_payloads_is_refused_in_a_sentence(
    test_topic: str, send: Send, payloads: Any
) -> None:
    with pytest.raises(errors.InvalidOption, match="payloads is one .* give a list"):
        send(test_topic, payloads)


def test_ids_that_are_no_list_are_refused_in_a_sentence(test_topic: str) -> None:
    with pytest.raises(errors.InvalidOption, match="task_ids is one int"):
        bus.enqueue_many(test_topic, [1], task_ids=5)  # type: ignore[arg-type]


def test_an_asynchronous_source_is_for_the_twin(test_topic: str) -> None:
    async def rows() -> AsyncIterator[int]:
        yield 1

    with pytest.raises(errors.InvalidOption, match="aenqueue_many"):
        bus.enqueue_many(test_topic, rows())  # type: ignore[arg-type]


def test_payloads_that_come_one_by_one_keep_their_order(test_topic: str) -> None:
    sent = streamed(test_topic, range(250))

    tasks = bus.list_tasks(test_topic, count=1_000)[0]
    payload_of = {task.id: task.payload for task in tasks}
    assert [payload_of[task_id] for task_id in sent] == list(range(250))


def test_both_doors_say_the_same() -> None:
    assert bus.enqueue_many is many.enqueue_many
    assert bus.aenqueue_many is many.aenqueue_many


# --- what is made ready while the server works


class Watched(list[Any]):
    """A list that notes how many tasks were in the mesh when it gave one out."""

    def __init__(self, topic: str, payloads: Any) -> None:
        super().__init__(payloads)
        self._topic = topic
        self.ahead: list[int] = []  # payloads taken beyond those in the mesh

    def __iter__(self) -> Iterator[Any]:
        for at, payload in enumerate(super().__iter__()):
            if at % 100 == 99:
                self.ahead.append(at + 1 - bus.stats(self._topic)["backlog"])
            yield payload


def test_one_hundred_is_made_ready_while_one_is_on_its_way(test_topic: str) -> None:
    """And no more, so that what the mesh has at any end is known."""
    payloads = Watched(test_topic, range(450))

    bus.enqueue_many(test_topic, payloads)

    assert bus.stats(test_topic)["backlog"] == 450
    assert max(payloads.ahead) <= 200


def test_a_source_that_calls_us_is_never_asked_while_a_line_is_in_use(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_POOL_SIZE = 1

    def source() -> Iterator[int]:
        for number in range(250):
            if number % 90 == 0:
                bus.enqueue_task(f"{test_topic}:log", number)
            yield number

    assert len(bus.enqueue_many(test_topic, source())) == 250


def test_what_is_wrong_with_the_next_hundred_waits_for_the_one_on_its_way(
    test_topic: str,
) -> None:
    payloads: list[Any] = [*range(150), object(), *range(100)]

    with pytest.raises(errors.InvalidPayload, match=r"payloads\[150\]") as wrong:
        bus.enqueue_many(test_topic, payloads)

    assert len(accepted(wrong)) == bus.stats(test_topic)["backlog"] == 100
    assert written(test_topic, accepted(wrong)) == accepted(wrong)


def test_a_full_topic_is_told_even_if_the_next_hundred_is_wrong(
    test_topic: str,
) -> None:
    payloads: list[Any] = [*range(150), object()]

    with pytest.raises(errors.TopicFull) as full:
        bus.enqueue_many(test_topic, payloads, maxlen=50)

    assert len(accepted(full)) == bus.stats(test_topic)["backlog"] == 50


# --- cancelled


async def cancelled(topic: str, payloads: Any, when: Callable[[], bool]) -> list[str]:
    """What the mesh has of a call that is cancelled then, as its exception says."""

    async def call() -> list[str]:
        try:
            return await bus.aenqueue_many(topic, payloads)
        except asyncio.CancelledError as exc:
            return list(vars(exc)["accepted"])

    calling = asyncio.create_task(call())
    await wait_until_async(when, 10)
    calling.cancel()
    return await calling


def as_list(payloads: range) -> Any:
    return [*payloads]


async def one_by_one(payloads: range) -> AsyncIterator[int]:
    for payload in payloads:
        yield payload


@pytest.mark.asyncio
@pytest.mark.parametrize("given", [as_list, one_by_one])
async def test_who_cancels_it_learns_what_was_on_its_way(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, given: Callable[[range], Any]
) -> None:
    real, sending = accepting.send, threading.Event()

    def slowly(*args: Any) -> Any:
        sending.set()
        time.sleep(0.2)
        return real(*args)

    monkeypatch.setattr(accepting, "send", slowly)
    told = await cancelled(test_topic, given(range(350)), sending.is_set)
    await asyncio.sleep(0.3)  # for what would be sent behind it

    assert len(told) == bus.stats(test_topic)["backlog"] == 100
    assert written(test_topic, told) == told


@pytest.mark.asyncio
async def test_who_cancels_it_does_not_wait_for_its_source(test_topic: str) -> None:
    go_on, waits, through = threading.Event(), threading.Event(), threading.Event()

    def source() -> Iterator[int]:
        yield from range(100)
        waits.set()
        assert go_on.wait(30)
        yield from range(100)
        through.set()

    told = await cancelled(test_topic, source(), waits.is_set)
    assert not go_on.is_set()
    go_on.set()
    await asyncio.sleep(0.1)

    assert len(told) == bus.stats(test_topic)["backlog"] == 100
    assert not through.is_set()
