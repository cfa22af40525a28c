"""Calls that come at the same time, sent as one: who waits for whom, who hears what."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pytest_django import Settings

from bus import errors
from bus.together import Together


class Sender:
    """Takes down what is sent, and answers when it is let go."""

    def __init__(self, *wrong: Exception | None) -> None:
        self.sent: list[tuple[str, list[int]]] = []
        self.go = asyncio.Event()
        self._wrong = [*wrong]

    async def __call__(self, kind: str, items: list[int]) -> list[str]:
        self.sent.append((kind, items))
        await self.go.wait()
        wrong = self._wrong.pop(0) if self._wrong else None
        if wrong is not None:
            raise wrong
        return [f"{kind}{item}" for item in items]

    @property
    def sizes(self) -> list[int]:
        return [len(items) for _, items in self.sent]


async def turn() -> None:
    """Let all run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.asyncio
async def test_a_lone_one_goes_at_once_the_others_with_the_next() -> None:
    send = Sender()
    together: Together[str, int, str] = Together(send)

    first = together.put("a", 0)
    await turn()
    others = [together.put("a", number) for number in range(1, 251)]
    await turn()
    assert send.sizes == [1], "one call is in flight, the others wait for it"
    send.go.set()

    answers = await asyncio.gather(first, *others)
    assert answers == [f"a{number}" for number in range(251)]
    assert send.sizes == [1, 100, 100, 50]


@pytest.mark.asyncio
async def test_those_of_one_moment_go_together() -> None:
    send = Sender()
    together: Together[str, int, str] = Together(send)
    send.go.set()

    await asyncio.gather(*[together.put("a", number) for number in range(7)])
    await turn()
    await together.put("a", 7)

    assert send.sizes == [7, 1]


@pytest.mark.asyncio
async def test_kinds_do_not_wait_for_each_other() -> None:
    send = Sender()
    together: Together[str, int, str] = Together(send)

    answers = [together.put(kind, 1) for kind in "abc"]
    await turn()
    assert [kind for kind, _ in send.sent] == ["a", "b", "c"]
    send.go.set()

    assert await asyncio.gather(*answers) == ["a1", "b1", "c1"]


@pytest.mark.asyncio
async def test_who_gives_up_harms_nobody() -> None:
    send = Sender()
    together: Together[str, int, str] = Together(send)

    answers = [together.put("a", number) for number in range(3)]
    await turn()
    late = [together.put("a", number) for number in range(3, 6)]
    for each in (answers[0], late[2]):
        each.cancel()
    send.go.set()

    assert await asyncio.gather(*answers[1:], *late[:2]) == ["a1", "a2", "a3", "a4"]
    await turn()
    assert await together.put("a", 6) == "a6"


@pytest.mark.asyncio
async def test_what_a_call_raises_is_heard_by_its_own_only() -> None:
    send = Sender(ValueError("no"), None)
    together: Together[str, int, str] = Together(send)

    first = [together.put("a", number) for number in range(2)]
    await turn()
    later = together.put("a", 2)
    send.go.set()

    for each in first:
        with pytest.raises(ValueError, match="no"):
            await each
    assert await later == "a2"


@pytest.mark.asyncio
@pytest.mark.parametrize("error", [errors.BusUnavailable, errors.OutcomeUnknown])
async def test_while_redis_is_away_nobody_behind_is_sent(
    error: type[errors.BusUnavailable],
) -> None:
    send = Sender(error("away"))
    together: Together[str, int, str] = Together(send)

    first = together.put("a", 0)
    await turn()
    behind = [together.put("a", number) for number in range(1, 300)]
    send.go.set()

    with pytest.raises(error):
        await first
    for each in behind:
        with pytest.raises(errors.BusUnavailable) as caught:
            await each
        assert caught.value.outcome == "not_written"
    assert send.sizes == [1]
    assert await together.put("a", 300) == "a300", "the next one asks again"


@pytest.mark.asyncio
async def test_a_refusal_of_redis_is_not_of_those_behind() -> None:
    full = errors.BusUnavailable("no memory")
    full.code = "memory_full"
    send = Sender(full)
    together: Together[str, int, str] = Together(send)

    first = together.put("a", 0)
    await turn()
    behind = together.put("a", 1)
    send.go.set()

    with pytest.raises(errors.BusUnavailable, match="no memory"):
        await first
    assert await behind == "a1"


@pytest.mark.asyncio
async def test_too_many_are_refused_at_once(settings: Settings) -> None:
    settings.MESH_TOGETHER_MAX = 5
    send = Sender()
    together: Together[str, int, str] = Together(send)

    first = together.put("a", 0)
    await turn()
    waiting = [together.put("a", number) for number in range(1, 6)]
    with pytest.raises(errors.BusUnavailable) as caught:
        together.put("b", 6)
    send.go.set()

    assert (caught.value.code, caught.value.outcome) == ("overloaded", "not_written")
    assert len(await asyncio.gather(first, *waiting)) == 6
    assert await together.put("b", 7) == "b7", "there is room again"


@pytest.mark.asyncio
async def test_large_ones_go_in_smaller_batches() -> None:
    send = Sender()
    together: Together[str, int, str] = Together(send)
    mib = 1024 * 1024

    sizes = [3 * mib, 3 * mib, 1, 9 * mib, 1]
    answers = [together.put("a", n, size) for n, size in enumerate(sizes)]
    send.go.set()
    await asyncio.gather(*answers)

    assert [items for _, items in send.sent] == [[0, 1], [2, 3], [4]]


def test_the_end_of_a_loop_ends_who_waits() -> None:
    ended: list[Any] = []

    async def main() -> None:
        together: Together[str, int, str] = Together(Sender())

        async def wait() -> None:
            try:
                await together.put("a", 0)
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

        ended.append(asyncio.ensure_future(wait()))
        await turn()

    asyncio.run(main())
    assert ended[1:] == ["cancelled"]
