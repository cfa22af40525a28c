"""A flight ends with its last reader, whatever way that one goes."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from pytest_django import Settings

from bus import errors
from bus.gateway import relay
from bus.gateway.answers import Answer
from bus.gateway.flights import Flights, Route
from tests.support.waiting import PATIENCE, wait_until_async


class Source:
    """A generation of a few lines, which waits before the last until it may go on."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.kept: list[Sequence[bytes]] = []
        self.go = asyncio.Event()

    def route(self, digest: str = "d") -> Route:
        return Route(self.generate, self.recall, self.keep, digest)

    async def generate(self) -> AsyncGenerator[bytes]:
        self.begun += 1
        try:
            yield b"1"
            await self.go.wait()
            yield b"2"
        finally:
            self.ended += 1

    async def recall(self, digest: str) -> Answer | None:
        return None

    async def keep(self, digest: str, lines: Sequence[bytes]) -> None:
        self.kept.append(list(lines))


@pytest.mark.asyncio
async def test_any_number_of_callers_in_one_moment_start_one_call() -> None:
    source, flights = Source(), Flights()
    source.go.set()

    seats = [flights.board(source.route()) for _ in range(50)]
    answers = [[line async for line in seat] for seat in seats]

    assert answers == [[b"1", b"2"]] * 50
    assert (source.begun, source.kept) == (1, [[b"1", b"2"]])


@pytest.mark.asyncio
@pytest.mark.parametrize("way", ["close", "twice", "thread", "dropped"])
async def test_the_last_to_leave_ends_the_call(way: str) -> None:
    source, flights = Source(), Flights()
    first, last = (flights.board(source.route()) for _ in range(2))
    await last.ready()

    first.close()
    first.close()
    await asyncio.sleep(0.01)
    assert source.ended == 0
    match way:
        case "close":
            last.close()
        case "twice":
            last.close()
            last.close()
        case "thread":
            leaving = threading.Thread(target=last.close)
            leaving.start()
            leaving.join()
        case "dropped":
            del last
            gc.collect()

    await wait_until_async(lambda: source.ended == 1)
    assert source.kept == []


@pytest.mark.asyncio
async def test_a_flight_that_was_given_up_takes_nobody_on_board() -> None:
    source, flights = Source(), Flights()
    seat = flights.board(source.route())
    await seat.ready()
    seat.close()
    await wait_until_async(lambda: source.ended == 1)
    source.go.set()

    again = flights.board(source.route())

    assert await again.ready() == "MISS"
    assert [line async for line in again] == [b"1", b"2"]


@pytest.mark.asyncio
async def test_who_leaves_the_queue_leaves_no_trace(settings: Settings) -> None:
    settings.MESH_OLLAMA_CONCURRENCY = 1
    settings.MESH_OLLAMA_QUEUE = 1
    source, flights = Source(), Flights()
    flying = flights.board(source.route("a"))
    await flying.ready()
    for n in range(3):
        queued = flights.board(source.route(f"b{n}"))
        await asyncio.sleep(0.01)
        with pytest.raises(errors.UpstreamBusy):
            await flights.board(source.route("c")).ready()
        queued.close()
        await asyncio.sleep(0.01)

    source.go.set()
    assert [line async for line in flying] == [b"1", b"2"]
    assert await flights.board(source.route("e")).ready() == "MISS"
    assert source.begun == 2


@pytest.mark.asyncio
async def test_waiting_too_long_for_a_place_is_busy_not_late(
    settings: Settings,
) -> None:
    settings.MESH_OLLAMA_CONCURRENCY = 1
    source, flights = Source(), Flights()
    flying = flights.board(source.route("a"))
    await flying.ready()
    settings.MESH_OLLAMA_TOTAL_S = 0.05

    with pytest.raises(errors.UpstreamBusy):
        await flights.board(source.route("b")).ready()
    flying.close()


@pytest.mark.asyncio
async def test_who_finds_the_queue_full_is_told_the_place_and_the_wait(
    settings: Settings,
) -> None:
    settings.MESH_OLLAMA_CONCURRENCY = 1
    settings.MESH_OLLAMA_QUEUE = 1
    source, flights = Source(), Flights()
    flying, queued = (flights.board(source.route(name)) for name in "ab")
    await flying.ready()

    with pytest.raises(errors.UpstreamBusy) as nobody_knows:
        await flights.board(source.route("c")).ready()
    source.go.set()
    await queued.whole()
    source.go.clear()
    flying, queued = (flights.board(source.route(name)) for name in "de")
    await flying.ready()
    with pytest.raises(errors.UpstreamBusy) as known:
        await flights.board(source.route("f")).ready()

    assert nobody_knows.value.facts == {"position": 2}
    assert known.value.facts == {"position": 2, "estimate_ms": 1000}
    assert known.value.retry_after_s == 1.0
    for seat in (flying, queued):
        seat.close()


@pytest.mark.asyncio
async def test_the_model_is_asked_once_somebody_has_paid() -> None:
    source, flights = Source(), Flights()
    source.go.set()
    first = flights.board(source.route(), paid=False)
    second = flights.board(source.route(), paid=False)
    await asyncio.sleep(0.05)
    assert source.begun == 0

    first.refuse()
    second.pay()

    assert [line async for line in second] == [b"1", b"2"]
    assert source.begun == 1


@pytest.mark.asyncio
@pytest.mark.parametrize("digest", ["d", ""], ids=["shared", "of one's own"])
async def test_who_is_refused_has_asked_nothing(digest: str) -> None:
    source, flights = Source(), Flights()
    seat = flights.board(source.route(digest), paid=False)
    await asyncio.sleep(0.01)
    flight = seat._flight
    assert flight is not None and flight.task is not None

    seat.refuse()
    await asyncio.wait([flight.task], timeout=5)

    assert flight.task.done()
    assert (source.begun, flight.boarded) == (0, 0)


class Dying:
    """Another process that generates: it tells a line, and is gone once it may."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self._is_gone = False

    async def board(self, digest: str) -> Any:
        lead, _ = await relay.alone(digest)
        return lead if self._is_gone else self, False

    async def lines(self) -> AsyncGenerator[bytes]:
        yield b"old 1"
        await self.go.wait()
        self._is_gone = True
        raise relay.LeaderLost


@pytest.mark.asyncio
async def test_a_stream_whose_leader_died_ends_at_once_and_asks_nothing() -> None:
    source, leader, flights = Source(), Dying(), Flights()
    seat = flights.board(replace(source.route(), board=leader.board))
    assert await anext(seat) == b"old 1"

    leader.go.set()
    with pytest.raises(errors.UpstreamError, match="broke off"):
        await asyncio.wait_for(anext(seat), 5 * PATIENCE)
    seat.close()
    source.go.set()

    assert source.begun == 0
    again = flights.board(source.route())
    assert [line async for line in again] == [b"1", b"2"]


@pytest.mark.asyncio
async def test_who_waits_for_the_whole_gets_another_answer_when_a_stream_breaks() -> (
    None
):
    source, leader, flights = Source(), Dying(), Flights()
    route = replace(source.route(), board=leader.board)
    stream, whole = flights.board(route), flights.board(route)
    assert await anext(stream) == b"old 1"

    leader.go.set()
    with pytest.raises(errors.UpstreamError, match="broke off"):
        await asyncio.wait_for(anext(stream), 5 * PATIENCE)
    source.go.set()

    assert await whole.whole() == [b"1", b"2"]
    assert source.begun == 1


@pytest.mark.asyncio
async def test_a_stream_that_broke_keeps_no_other_answer_going() -> None:
    """Its client may be slow to read why it ended, and to leave."""
    source, leader, flights = Source(), Dying(), Flights()
    route = replace(source.route(), board=leader.board)
    stream, other = flights.board(route), flights.board(route)
    assert await anext(stream) == b"old 1"
    leader.go.set()
    await wait_until_async(lambda: source.begun == 1)

    other.close()

    await wait_until_async(lambda: source.ended == 1)
    stream.close()
