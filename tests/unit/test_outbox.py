"""Reports on their way: at once, then in batches bounded by number and by bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis

from bus.runtime.outbox import Outbox

MIB = 1024 * 1024
BUG = 13


def batches(sizes: list[int]) -> list[list[int]]:
    """What is sent when reports of these sizes come while the first is on its way."""
    sent: list[list[int]] = []
    told: list[int] = []

    async def send(items: list[int]) -> list[str]:
        sent.append(items)
        await asyncio.sleep(0)
        return ["ok"] * len(items)

    async def main() -> None:
        loop, work = asyncio.get_running_loop(), []
        box: Outbox[int] = Outbox(
            send,
            lambda run, number, outcome: told.append(number),
            lambda coroutine: work.append(loop.create_task(coroutine)),
            lambda exc: pytest.fail(repr(exc)),
        )
        run: Any = None
        box.put(run, 0, 1)
        await asyncio.sleep(0)
        for number, size in enumerate(sizes, 1):
            box.put(run, number, size)
        assert len(box) == len(sizes)
        await asyncio.gather(*work)
        assert len(box) == 0

    asyncio.run(main())
    assert told == list(range(len(sizes) + 1)), "each is told once, in order"
    return sent


@dataclass
class Box:
    """An outbox that may send one alone, and what came of it."""

    answers: list[asyncio.Future[Any] | None]
    sent: list[list[int]] = field(default_factory=list)
    told: list[tuple[int, str]] = field(default_factory=list)
    bugs: list[BaseException | None] = field(default_factory=list)

    def heard(self, number: int, outcome: str) -> None:
        if number == BUG:
            raise ValueError("a bug")
        self.told.append((number, outcome))

    async def work(self, then: Callable[[], None], *reports: int) -> Outbox[int]:
        loop, work = asyncio.get_running_loop(), []

        async def send(items: list[int]) -> list[str]:
            self.sent.append(items)
            await asyncio.sleep(0)
            return ["gone"] * len(items)

        box: Outbox[int] = Outbox(
            send,
            lambda run, number, outcome: self.heard(number, outcome),
            lambda coroutine: work.append(loop.create_task(coroutine)),
            self.bugs.append,
            lambda number: self.answers.pop(0),
        )
        run: Any = None
        for number in reports:
            box.put(run, number, 1)
        then()
        await asyncio.sleep(0)
        while work:
            await work.pop()
        return box


def alone(answer: Callable[[asyncio.Future[Any]], Any], *reports: int) -> Box:
    """What becomes of these where the first goes alone and has this answer."""

    async def main() -> Box:
        future = asyncio.get_running_loop().create_future()
        box = Box([future, None])
        left = await box.work(lambda: answer(future), *reports)
        assert len(left) == 0
        assert not left._sending
        return box

    return asyncio.run(main())


def test_one_that_is_alone_goes_within_its_step() -> None:
    box = alone(lambda future: future.set_result([1]), 0)

    assert (box.sent, box.told) == ([], [(0, "ok")])


def test_what_comes_behind_one_alone_goes_together() -> None:
    box = alone(lambda future: future.set_result([1]), 0, 1, 2)

    assert box.sent == [[1, 2]]
    assert box.told == [(0, "ok"), (1, "gone"), (2, "gone")]


@pytest.mark.parametrize(
    "answer",
    [
        lambda future: future.set_result(None),
        lambda future: future.set_exception(redis.ConnectionError("lost")),
        lambda future: future.cancel(),
    ],
    ids=["not by this script", "lost", "cancelled"],
)
def test_one_that_was_not_taken_alone_goes_first_with_the_others(answer: Any) -> None:
    box = alone(answer, 0, 1)

    assert box.sent == [[0, 1]]
    assert box.told == [(0, "gone"), (1, "gone")]


def test_a_bug_in_what_is_done_with_its_answer_is_heard_of() -> None:
    box = alone(lambda future: future.set_result([1]), BUG, 1)

    assert box.told == [(1, "gone")]
    assert [str(bug) for bug in box.bugs] == ["a bug"]


def test_a_loop_whose_tasks_start_at_once_leaves_nothing_behind() -> None:
    async def main() -> Box:
        box = Box([])

        async def send(items: list[int]) -> list[str]:
            box.sent.append(items)
            return ["ok"]

        def start(work: Coroutine[Any, Any, None]) -> None:
            with pytest.raises(StopIteration):  # as a task of 3.12 that is eager
                work.send(None)

        left: Outbox[int] = Outbox(
            send,
            lambda run, number, said: box.heard(number, said),
            start,
            box.bugs.append,
        )
        run: Any = None
        left.put(run, 0, 1)
        left.put(run, 1, 1)
        return box

    assert asyncio.run(main()).told == [(0, "ok"), (1, "ok")]


def test_a_closed_outbox_sends_nothing_more_whatever_it_hears() -> None:
    async def main() -> Box:
        future = asyncio.get_running_loop().create_future()
        box = Box([future])
        left = await box.work(lambda: None, 0)
        left.close()
        future.set_exception(redis.ConnectionError("lost"))
        await asyncio.sleep(0)
        return box

    box = asyncio.run(main())
    assert (box.sent, box.told) == ([], [])


def test_the_first_goes_at_once_and_the_others_together() -> None:
    assert [len(batch) for batch in batches([1] * 250)] == [1, 100, 100, 50]


def test_large_reports_go_in_smaller_batches() -> None:
    assert batches([3 * MIB, 3 * MIB, 1, 9 * MIB, 1]) == [[0], [1, 2], [3, 4], [5]]
