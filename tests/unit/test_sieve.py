"""Results and many filters: each is read once, and others have their turn."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from bus.live.window import Item
from dashboard.watched import Sieve, Watched

LINES = [{"n": n} for n in range(3_000)]


class Noted(Item):
    """An entry that notes when it was read."""

    __slots__ = ("read",)

    def __init__(self, nth: int, result: Any) -> None:
        row = json.dumps({"id": f"id-{nth}", "result": result})
        super().__init__("results", "s", "t", f"{nth}-0", fields={"json": row})
        self.read: list[int] = []

    def row(self) -> dict[str, Any]:
        self.read.append(turns)
        return super().row()


turns = 0


async def count_turns() -> None:
    global turns
    while True:
        turns += 1
        await asyncio.sleep(0)


async def sift(filters: list[Watched], items: list[Noted]) -> list[list[str]]:
    """What so many sockets are told at the same time; each begins with another item."""
    sieve = Sieve()

    async def told(nth: int, only: Watched) -> list[str]:
        at = nth % len(items)
        with sieve.watching(only):
            await asyncio.sleep(0)
            found = items[at:] + items[:at]
            return [each.entry_id for each in found if await sieve.passes(each, only)]

    counting = asyncio.create_task(count_turns())
    try:
        return await asyncio.gather(*map(told, range(len(filters)), filters))
    finally:
        counting.cancel()


@pytest.mark.parametrize("lines", [LINES, LINES[:1]])
def test_a_result_is_read_once_for_all_filters(lines: list[dict[str, int]]) -> None:
    items = [Noted(nth, [{"lot": nth}, *lines]) for nth in range(6)]
    filters = [Watched(q=f'"lot": {nth}') for nth in range(5)] + [Watched(q="nowhere")]

    found = asyncio.run(sift(filters, items))

    assert found == [["0-0"], ["1-0"], ["2-0"], ["3-0"], ["4-0"], []]
    assert [len(each.read) for each in items] == [1] * 6


def test_others_have_a_turn_between_two_large_results() -> None:
    items = [Noted(nth, LINES) for nth in range(6)]

    asyncio.run(sift([Watched(q="nowhere")] * 6, items))

    read_at = [turn for each in items for turn in each.read]
    # The rest is of time: a machine that stalls for longer than one takes has had it.
    assert len(set(read_at)) > 3


def test_a_filter_that_comes_later_is_asked_as_well() -> None:
    item = Noted(1, LINES)

    async def one_after_the_other() -> list[bool]:
        sieve = Sieve()
        return [await sieve.passes(item, Watched(q=q)) for q in ("nowhere", "id-1")]

    assert asyncio.run(one_after_the_other()) == [False, True]


def test_verdicts_are_kept_for_a_bounded_number_of_results() -> None:
    items = [Noted(nth, "x" * 20_000) for nth in range(600)]

    async def twice() -> None:
        sieve = Sieve()
        for each in (*items, items[0], items[-1]):
            await sieve.passes(each, Watched(q="nowhere"))

    asyncio.run(twice())

    assert (len(items[0].read), len(items[-1].read)) == (2, 1)
