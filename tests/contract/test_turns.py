"""Requests on one connection that come before the answers to those before them."""

from __future__ import annotations

import gc
import json
import socket
import time
import weakref
from typing import Any

import pytest
import redis

import bus
from bus.home import heads, taken
from tests.contract.conftest import Enter
from tests.contract.test_framing import statuses
from tests.contract.test_lane import said_to
from tests.contract.test_upgrades import SOCKET, request
from tests.support.doors import Door
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TOPIC = "turns"
SMALL = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"


def waiting(door: Door, wait_s: float) -> bytes:
    """A call that takes so long."""
    return request(door, f"GET tasks/{bus.enqueue_task(TOPIC, 1)}?wait={wait_s}")


def connected(site: LiveSite) -> socket.socket:
    host, port = site.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


async def queued(site: LiveSite) -> int:
    """Requests that wait for their turn on any connection."""
    return sum(len(each.pipeline) for each in [*site.state.connections])


def test_of_what_nobody_has_turned_to_little_is_made(
    enter: Enter, site: LiveSite
) -> None:
    """Else who sends without looking at the answers could fill the memory."""
    slow = waiting(enter("express"), 3)
    seen = [0]
    with connected(site) as line:
        line.sendall(slow + SMALL * 4_000)
        wait_until(lambda: site.call(queued(site)) > 0, 10)
        until = time.monotonic() + 1  # it has all that time to read on
        while time.monotonic() < until:
            seen.append(site.call(queued(site)))

    assert 0 < max(seen) < 400
    wait_until(lambda: not site.call(queued(site)), 20)


def test_all_are_answered_in_their_order(enter: Enter, site: LiveSite) -> None:
    door = enter("express")
    large = json.dumps({"topic": TOPIC, "task": "x" * 200_000}).encode()
    some = request(door, "GET health/live") * 200
    some += request(door, "POST enqueue", body=large) + SMALL
    last = request(door, "HEAD health/live", "Connection: close")

    said = said_to(site, waiting(door, 0.3) + some * 5 + last)

    assert statuses(said) == [200, *([200] * 200 + [201, 404]) * 5, 200]
    _, *sent = [task.payload for task in bus.list_tasks(TOPIC)[0]]
    assert sent == ["x" * 200_000] * 5


def test_a_large_body_in_small_chunks_comes_whole(enter: Enter, site: LiveSite) -> None:
    text = json.dumps({"topic": TOPIC, "task": "y" * 150_000}).encode()
    pieces = (text[at : at + 7] for at in range(0, len(text), 7))
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
    told = ("Transfer-Encoding: chunked", "Connection: close")
    sent = request(enter("views"), "POST enqueue", *told, body=body + b"0\r\n\r\n")

    assert statuses(said_to(site, sent)) == [201]
    assert [task.payload for task in bus.list_tasks(TOPIC)[0]] == ["y" * 150_000]


def test_who_has_not_been_read_is_not_late(
    enter: Enter, site: LiveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(heads, "HEAD_TIMEOUT_S", 0.3)
    door = enter("express")
    last = request(door, "GET health/live", "Connection: close")
    begun = waiting(door, 2) + request(door, "GET health/live") + last[:20]

    said = said_to(site, begun, last[20:], pause_s=0.8)

    assert statuses(said) == [200, 200, 200], said


def test_a_handshake_takes_no_answer_from_who_is_owed_one(
    enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    task = json.dumps({"topic": TOPIC, "task": 1}).encode()
    sends = request(door, "POST enqueue", body=task)

    said = said_to(site, sends + request(door, "GET health/live", *SOCKET) + SMALL)

    assert statuses(said) == [201, 400], said


@pytest.mark.parametrize("hosts", [0, 2])
def test_a_handshake_says_once_for_which_host_it_is(
    hosts: int, enter: Enter, site: LiveSite
) -> None:
    sent = request(enter("express"), "GET health/live", *SOCKET)

    said = said_to(site, sent.replace(b"Host: localhost\r\n", b"Host: a\r\n" * hosts))

    assert statuses(said) == [400], said


def test_who_is_gone_is_worked_for_no_more(enter: Enter, site: LiveSite) -> None:
    """Also where he has asked for more meanwhile, which uvicorn tells instead. Nor is
    he kept until somebody looks for what holds itself."""
    wait_until(lambda: not site.state.tasks and not site.state.connections, 20)
    slow = waiting(enter("express"), 50)

    async def lost() -> weakref.ref[Any]:
        [each] = site.state.connections
        each.transport.abort()
        return weakref.ref(each)

    with connected(site) as line:
        line.sendall(slow + SMALL * 3)
        wait_until(lambda: site.call(queued(site)) == 3, 10)
        gc.disable()
        try:
            left = site.call(lost())
            wait_until(lambda: not site.state.tasks, 20)
            wait_until(lambda: left() is None, 10)
        finally:
            gc.enable()


def large(redis_client: redis.Redis) -> None:
    """Results of which a page is more than the system keeps for a peer."""
    row = json.dumps({"id": "x", "state": "done", "result": "x" * 1_000_000})
    for _ in range(12):
        redis_client.xadd(bus.result_stream(TOPIC), {"json": row})


@pytest.mark.parametrize("more", [(), ("Connection: close",)])
def test_who_takes_nothing_keeps_neither_his_place_nor_his_answer(
    more: tuple[str, ...],
    enter: Enter,
    site: LiveSite,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taken, "TAKE_S", 0.3)
    monkeypatch.setattr(site.uvicorn, "timeout_keep_alive", 1)
    door = enter("express")
    large(redis_client)
    wait_until(lambda: not site.state.connections, 20)

    with connected(site) as line:
        line.sendall(request(door, f"GET results?topic={TOPIC}", *more))
        wait_until(lambda: bool(site.state.connections), 10)
        wait_until(lambda: not site.state.connections, 20)


def test_who_takes_slowly_gets_all(
    enter: Enter,
    site: LiveSite,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taken, "TAKE_S", 1)
    door = enter("express")
    large(redis_client)
    call = request(door, f"GET results?topic={TOPIC}", "Connection: close")
    told = 0

    with connected(site) as line:
        line.sendall(call)
        while some := line.recv(65_536):
            told += len(some)
            time.sleep(0.01)

    assert told > 12_000_000
