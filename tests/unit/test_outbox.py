"""Reports on their way: at once, then in batches bounded by number and by bytes."""

from __future__ import annotations

import asyncio
from typing import Any

from bus.runtime import outbox

MIB = 1024 * 1024


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
        box: outbox.Outbox[int] = outbox.Outbox(
            send,
            lambda run, number, outcome: told.append(number),
            lambda coroutine: work.append(loop.create_task(coroutine)),
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


def test_the_first_goes_at_once_and_the_others_together() -> None:
    assert [len(batch) for batch in batches([1] * 250)] == [1, 100, 100, 50]


def test_large_reports_go_in_smaller_batches() -> None:
    assert batches([3 * MIB, 3 * MIB, 1, 9 * MIB, 1]) == [[0], [1, 2], [3, 4], [5]]
