"""Completions that are kept until they are durable, and told to whoever takes over."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from pytest_django import Settings

from bus import settled
from bus.deliveries import Completion, Delivery
from bus.records import Record
from bus.refusals import DamagedKey
from bus.runtime import receipts as receipts_module
from bus.runtime.receipts import Receipts


def completion(number: int) -> Completion:
    """One that a server has just taken."""
    record = Record(f"{number}-1", 0, 0, 0, 0, "", "")
    held = Delivery("t", f"{number}-1", f"id-{number}", "1", "", record, 0)
    return Completion(held, b"{}", 0, 0)


def test_what_comes_while_another_server_is_found_is_told_to_it_as_well(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first was taken before the wait, the second during it by the old server."""
    settings.MESH_DURABILITY = "replicated:1"
    told: list[str] = []
    running: list[asyncio.Task[None]] = []

    async def send(items: list[Completion]) -> list[str]:
        told.extend(item.delivery.id for item in items)
        return ["ok"] * len(items)

    def spawn(work: Coroutine[Any, Any, None]) -> None:
        running.append(asyncio.get_running_loop().create_task(work))

    async def main() -> None:
        receipts = Receipts("t", send, spawn)
        asked = 0

        async def marked(*_: Any) -> tuple[list[Any], None]:
            nonlocal asked
            asked += 1
            if asked == 1:
                receipts.keep(completion(2))
            return ["the new server"], None

        monkeypatch.setattr(settled, "arun_all", marked)
        receipts.keep(completion(1))
        await asyncio.wait_for(asyncio.gather(*running), 30)
        assert len(receipts) == 0

    asyncio.run(main())
    assert told == ["id-1", "id-2"]


def test_a_key_that_somebody_damaged_is_waited_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_DURABILITY = "replicated:1"
    monkeypatch.setattr(receipts_module, "_AGAIN_S", 0.01)
    replies: list[Any] = [DamagedKey("mesh:{t}:counters", "is torn"), "it", "it"]
    running: list[asyncio.Task[None]] = []

    async def send(items: list[Completion]) -> list[str]:
        return ["ok"] * len(items)

    async def marked(*_: Any) -> tuple[list[Any], None]:
        return [replies.pop(0)], None

    async def main() -> None:
        receipts = Receipts(
            "t", send, lambda work: running.append(asyncio.ensure_future(work))
        )
        receipts.keep(completion(1))
        await asyncio.wait_for(asyncio.gather(*running), 30)
        assert len(receipts) == 0

    monkeypatch.setattr(settled, "arun_all", marked)
    asyncio.run(main())
    assert replies == []
