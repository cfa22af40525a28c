"""A generation that others follow: whatever happens to it, they miss no line."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
import redis

from bus import connection, errors, scripts
from bus.gateway import relay
from bus.gateway.flights import Flights
from bus.gateway.keys import flight_keys
from bus.gateway.seats import JOIN, Flight, Seat
from tests.support.waiting import PATIENCE, wait_until, wait_until_async
from tests.unit.test_flights import Source

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.usefixtures("cleanup_test_data"),
]

PATIENCE_S = 30
FLIGHT = flight_keys("d", "")[0]


async def leads() -> relay.Lead:
    boarded, _ = await relay.board("d", "kept")
    assert isinstance(boarded, relay.Lead)
    return boarded


async def follows() -> relay.Follow:
    """Somebody who has looked once, so the leader knows of him."""
    boarded, _ = await relay.board("d", "kept")
    assert isinstance(boarded, relay.Follow)
    first_look = [boarded._leader, 0, 1]
    wire = connection.awire()
    await scripts.arun("follow", "", first_look, boarded._keys, client=wire)
    return boarded


async def read(followed: relay.Follow) -> list[bytes]:
    async with asyncio.timeout(PATIENCE_S):
        return [line async for line in followed.lines()]


@asynccontextmanager
async def accompanied(
    lead: relay.Lead, lines: list[bytes], news: asyncio.Event
) -> AsyncIterator[None]:
    """The lead gives its signs of life meanwhile."""
    signs = asyncio.create_task(lead.accompany(lines, lambda: news))
    try:
        yield
    finally:
        signs.cancel()
        await asyncio.gather(signs, return_exceptions=True)


# --- what is told


async def test_lines_come_while_it_goes_on_and_all_of_them_in_their_order() -> None:
    """More than one call takes, by number and by bytes."""
    lead, reader = await leads(), await follows()
    lines, news = [b'{"n":0}'], asyncio.Event()
    reading = reader.lines()
    async with accompanied(lead, lines, news):
        first = await asyncio.wait_for(anext(reading), PATIENCE_S)
        lines += [b'{"n":%d}' % n for n in range(1, 1_200)]
        lines += [b'"' + b"x" * 100_000 + b'"'] * 10
        news.set()
        rest = [await asyncio.wait_for(anext(reading), PATIENCE_S) for _ in lines[1:]]
    lines.append(b'{"done":true}')
    await lead.land(lines, None)

    assert [first, *rest, *[line async for line in reading]] == lines


async def test_who_comes_late_gets_the_lines_from_the_first_on() -> None:
    lead = await leads()
    lines = [b"1", b"2"]
    early = await follows()
    async with accompanied(lead, lines, asyncio.Event()):
        reading = early.lines()
        assert await asyncio.wait_for(anext(reading), PATIENCE_S) == b"1"
        late = await follows()
        whole = asyncio.create_task(read(late))
    await lead.land([*lines, b"3"], None)

    assert await whole == [b"1", b"2", b"3"]
    assert [line async for line in reading] == [b"2", b"3"]


async def test_the_end_is_heard_even_where_no_sign_was_given_before() -> None:
    lead, reader = await leads(), await follows()

    await lead.land([b"1"], None)

    assert await read(reader) == [b"1"]


@pytest.mark.parametrize(
    "error",
    [
        errors.UpstreamError("an operator ended the generation"),
        errors.UpstreamTimeout("the generation took too long"),
        errors.UpstreamRefused("it is too long"),
        errors.ModelNotFound("no such model"),
        errors.UpstreamBusy("full", retry_after_s=7.5, position=3, estimate_ms=900),
    ],
    ids=lambda error: error.code,
)
async def test_followers_hear_the_same_error(error: errors.UpstreamError) -> None:
    lead, reader = await leads(), await follows()
    await lead.land([b"1"], error)
    heard: list[bytes] = []

    with pytest.raises(errors.UpstreamError) as caught:
        async for line in reader.lines():
            heard.append(line)

    assert heard == [b"1"]
    assert type(caught.value) is type(error)
    assert (str(caught.value), caught.value.facts) == (str(error), error.facts)
    assert vars(caught.value) == vars(error)


async def test_of_a_bug_followers_hear_that_it_broke_off_and_nothing_of_it() -> None:
    lead, reader = await leads(), await follows()
    await lead.land([], KeyError("/secret/path"))

    with pytest.raises(errors.UpstreamError, match="^the generation broke off$"):
        await read(reader)


# --- who leads


async def test_who_boards_behind_an_end_looks_for_the_answer_again() -> None:
    first = await leads()
    await first.land([b"1"], None)

    second = await leads()

    assert (first.is_next, second.is_next) == (False, True)
    assert first.is_alone and not second.is_alone


@pytest.mark.parametrize("is_kept", [False, True])
async def test_boarding_says_whether_an_answer_may_be_kept(
    is_kept: bool, redis_client: redis.Redis
) -> None:
    # Told of the script before: a server that does not know it yet is not relied on.
    await (await leads()).land([], None)
    if is_kept:
        redis_client.set("kept", 1, ex=60)

    assert (await relay.board("d", "kept"))[1] is is_kept
    assert (await relay.board("d", "kept"))[1] is is_kept


async def test_a_server_that_forgot_the_scripts_costs_no_flight(
    redis_client: redis.Redis,
) -> None:
    await leads()
    redis_client.script_flush()

    assert isinstance((await relay.board("d", "kept"))[0], relay.Follow)


async def test_a_leader_that_falls_silent_is_lost_and_the_next_leads() -> None:
    lead, reader = await leads(), await follows()

    with pytest.raises(relay.LeaderLost):
        await read(reader)

    assert not (await leads()).is_alone
    assert not lead.is_alone  # it does not know yet


async def test_who_stood_still_leaves_the_flight_to_the_next(
    redis_client: redis.Redis,
) -> None:
    late = await leads()
    redis_client.delete(FLIGHT)
    new, reader = await leads(), await follows()

    async with accompanied(late, [b"old"], asyncio.Event()):
        await wait_until_async(lambda: late.is_alone)
    await late.land([b"old"], None)
    await new.land([b"new"], None)

    assert await read(reader) == [b"new"]


async def test_who_gives_up_ends_it_unless_somebody_follows(
    redis_client: redis.Redis,
) -> None:
    lead, reader = await leads(), await follows()
    reading = asyncio.create_task(read(reader))
    async with accompanied(lead, [], asyncio.Event()):
        assert not await lead.abandon()
        reading.cancel()
        await wait_until_async(lead.abandon)

    assert lead.is_alone
    assert not redis_client.exists(FLIGHT)
    assert not (await leads()).is_next  # there is no answer to look for


async def test_who_is_known_to_nobody_ends_at_once() -> None:
    lead, may_be_kept = await relay.alone("d")

    assert may_be_kept
    assert isinstance(lead, relay.Lead) and lead.is_alone
    assert await lead.abandon()
    await lead.accompany([], asyncio.Event)
    await lead.land([b"1"], None)


# --- who has paid


def elsewhere(source: Source) -> Seat:
    """A seat in another process, of whom it is not known yet whether he may."""
    route = replace(source.route(), board=lambda digest: relay.board(digest, "kept"))
    return Flights().board(route, paid=False)


async def in_two_processes(source: Source) -> tuple[Seat, Seat]:
    """One of two equal requests leads, the other is about to follow."""
    leading = elsewhere(source)
    await wait_until_async(lambda: flight_of(leading).lead)
    following = elsewhere(source)
    await wait_until_async(lambda: flight_of(following).how == JOIN)
    return leading, following


def flight_of(seat: Seat) -> Flight:
    assert seat._flight is not None
    return seat._flight


async def test_who_is_refused_keeps_no_generation_going_elsewhere() -> None:
    source = Source()
    leading, following = await in_two_processes(source)
    led = flight_of(leading).task
    assert led is not None

    leading.refuse()
    await asyncio.wait([led], timeout=5 * PATIENCE)
    ended_before = led.done()
    following.refuse()

    assert (ended_before, source.begun) == (True, 0)


async def test_who_follows_and_may_is_not_left_alone_by_who_may_not() -> None:
    source = Source()
    source.go.set()
    leading, following = await in_two_processes(source)

    leading.refuse()
    following.pay()

    async with asyncio.timeout(PATIENCE_S):
        assert await following.whole() == [b"1", b"2"]
    assert source.begun == 1


async def test_who_follows_and_has_paid_is_led_to_the_end(
    redis_client: redis.Redis,
) -> None:
    source = Source()
    source.go.set()
    leading, following = await in_two_processes(source)
    following.pay()
    await wait_until_async(lambda: redis_client.hexists(FLIGHT, "followed"))

    leading.refuse()

    async with asyncio.timeout(PATIENCE_S):
        assert await following.whole() == [b"1", b"2"]
    assert (await following.ready(), source.begun) == (JOIN, 1)


# --- without Redis


def _loses_its_server(own_server: Any) -> None:
    os.kill(own_server.pid, signal.SIGKILL)
    wait_until(lambda: not own_server.alive())


def _says(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == relay.__name__]


async def test_without_a_server_everybody_leads_alone(
    own_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    _loses_its_server(own_server)

    boarded, may_be_kept = await relay.board("d", "kept")

    assert isinstance(boarded, relay.Lead) and boarded.is_alone
    assert may_be_kept
    [said] = _says(caplog)
    assert said.startswith("equal requests elsewhere are not known: ")


async def test_a_leader_without_its_server_lands_all_the_same(
    own_server: Any, caplog: pytest.LogCaptureFixture
) -> None:
    lead = await leads()
    _loses_its_server(own_server)

    async with asyncio.timeout(PATIENCE_S):
        async with accompanied(lead, [b"1"], asyncio.Event()):
            await wait_until_async(lambda: lead.is_alone, PATIENCE_S)
        await lead.land([b"1"], None)

    [said] = _says(caplog)
    assert said.startswith("equal requests elsewhere are not told: ")


async def test_a_follower_without_its_server_boards_again(own_server: Any) -> None:
    await leads()
    reader = await follows()
    _loses_its_server(own_server)

    with pytest.raises(relay.LeaderLost):
        await read(reader)


async def test_a_key_written_by_hand_costs_nobody_the_answer(
    redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis_client.set(FLIGHT, "by hand", ex=60)

    boarded, _ = await relay.board("d", "kept")

    assert isinstance(boarded, relay.Lead) and boarded.is_alone
    assert "somebody wrote it by hand" in _says(caplog)[0]
