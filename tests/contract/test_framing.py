"""What a connection carries beside whole requests: trailers, garbage, empty lines."""

from __future__ import annotations

import json
import time

import pytest
import redis

import bus
from bus.home import heads
from tests.contract.conftest import Enter
from tests.contract.test_lane import said_to
from tests.contract.test_upgrades import request
from tests.support.api import ROOT, keyspace
from tests.support.doors import Door
from tests.support.site import LiveSite

pytestmark = pytest.mark.slow

TOPIC = "framing"
TASK = json.dumps({"topic": TOPIC, "task": 1}).encode()
GARBAGE = b"this is no request\r\n\r\n"
CHUNKED = "Transfer-Encoding: chunked"
DOORS = pytest.mark.parametrize("way", ["express", "views"])


def chunks(*trailers: str, body: bytes = TASK, end: str = "\r\n") -> bytes:
    """The body in one chunk, with these fields behind it."""
    lines = "".join(f"{each}\r\n" for each in trailers) + end
    return b"%x\r\n%b\r\n0\r\n%b" % (len(body), body, lines.encode())


def head(door: Door, *headers: str, token: str = "operator") -> bytes:
    lines = [f"POST {ROOT}/enqueue HTTP/1.1", "Host: localhost", CHUNKED]
    lines.append("Content-Type: application/json")
    if token:
        lines.append(f"Authorization: Bearer {door.tokens[token]}")
    return "\r\n".join([*lines, "Connection: close", *headers, "", ""]).encode()


def statuses(said: bytes) -> list[int]:
    return [int(each[:3]) for each in said.split(b"HTTP/1.1 ")[1:]]


@DOORS
def test_what_comes_behind_a_body_lets_nobody_in(
    way: str, enter: Enter, site: LiveSite, redis_client: redis.Redis
) -> None:
    door = enter(way)
    mine = f"Authorization: Bearer {door.tokens['operator']}"

    said = said_to(site, head(door, token="") + chunks(mine))

    assert statuses(said) == [401], said
    assert keyspace(redis_client) == {}


@DOORS
def test_what_comes_behind_a_body_changes_nothing_of_its_head(
    way: str, enter: Enter, site: LiveSite
) -> None:
    door = enter(way)
    trailers = ("Authorization: Bearer x", "Idempotency-Key: a", "Host: evil")
    trailers += ("Content-Type: text/plain", "X-Request-ID: trailing")

    said = [said_to(site, head(door) + chunks(*trailers)) for _ in range(2)]

    assert [statuses(each) for each in said] == [[201], [201]], said
    assert b"trailing" not in said[0]


@pytest.mark.parametrize(
    "more", [b"X: " + b"y" * 60_000 + b"\r\n", b"y" * 60_000], ids=["many", "one"]
)
def test_trailers_without_end_are_cut_off(
    more: bytes, enter: Enter, site: LiveSite, redis_client: redis.Redis
) -> None:
    """They are read before anybody knows who sends them, so memory is at stake."""
    door = enter("express")
    begun = head(door) + chunks(end="X: ")

    said = said_to(site, begun, *[more] * 100)

    # Where it hangs up on what is still being sent, its words may be lost.
    assert statuses(said) in ([], [431]), said
    assert keyspace(redis_client) == {}


def test_chunks_that_bring_nothing_are_cut_off(
    enter: Enter, site: LiveSite, redis_client: redis.Redis
) -> None:
    door = enter("express")

    said = said_to(site, head(door), b"1;x=", *[b"y" * 60_000] * 100)

    assert statuses(said) in ([], [431]), said
    assert keyspace(redis_client) == {}


@DOORS
def test_garbage_behind_a_call_is_not_its_answer(
    way: str, enter: Enter, site: LiveSite
) -> None:
    """A 400 says that nothing was written; the call before it has written."""
    door = enter(way)

    said = said_to(site, request(door, "POST enqueue", body=TASK) + GARBAGE)

    assert statuses(said) == [201, 400], said
    assert bus.stats(TOPIC)["waiting"] == 1


def test_all_that_came_whole_is_answered_before_garbage_is(
    enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    calls = [request(door, "POST enqueue", body=TASK)] * 3
    calls += [request(door, "HEAD topics"), request(door, "GET health/live")]

    said = said_to(site, b"".join(calls) + GARBAGE)

    assert statuses(said) == [201, 201, 201, 200, 200, 400], said
    assert bus.stats(TOPIC)["waiting"] == 3


@pytest.mark.parametrize("before", [0, 2])
def test_a_call_whose_body_is_garbage_is_not_made(
    before: int, enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    whole = request(door, "POST enqueue", body=TASK)
    half = request(door, "POST enqueue", CHUNKED, body=b"%x\r\n%b\r\nzzz" % (1, b" "))

    said = said_to(site, whole * before + half)

    assert statuses(said) == [201] * before + [400], said
    assert (bus.stats(TOPIC)["waiting"] if before else 0) == before


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads have a moment only."""
    monkeypatch.setattr(heads, "HEAD_TIMEOUT_S", 0.3)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize(("rest", "status"), [(b"GET / HT", 408), (b"!", 400)])
def test_half_a_head_behind_a_call_that_waits_is_not_its_answer(
    rest: bytes, status: int, enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    waiting = bus.enqueue_task(TOPIC, 1)

    said = said_to(site, request(door, f"GET tasks/{waiting}?wait=2") + rest)

    assert statuses(said) == [200, status], said


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("ends", [b"\r\n", b"\r\n\r\n\r\n"])
def test_empty_lines_keep_no_connection(
    ends: bytes, enter: Enter, site: LiveSite
) -> None:
    """Else ten thousand of them, by anybody, would be all there may be."""
    whole = request(enter("express"), "GET health/live")

    said = said_to(site, whole, ends, pause_s=0.2)

    assert statuses(said) == [200], said


def test_an_empty_line_before_a_request_is_passed_over(
    enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    whole, last = (
        request(door, "GET health/live", *more) for more in ((), ("Connection: close",))
    )

    said = said_to(site, b"\r\n" + whole, b"\r\n", last, pause_s=0.1)

    assert statuses(said) == [200, 200], said


@pytest.mark.usefixtures("hurried")
def test_a_body_that_comes_slowly_has_the_time_of_a_body(
    enter: Enter, site: LiveSite
) -> None:
    """The length of a chunk may come long before the chunk."""
    door = enter("express")
    parts = [b"%x\r\n" % len(TASK), TASK, b"\r\n0\r\n", b"\r\n"]

    said = said_to(site, head(door), *parts, pause_s=0.2)

    assert statuses(said) == [201], said


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_only_who_knows_of_it_is_told_to_go_on(
    version: str, enter: Enter, site: LiveSite
) -> None:
    door = enter("express")
    told = ("Expect: 100-continue", "Connection: close")
    sent = request(door, "POST enqueue", *told, body=TASK)

    said = said_to(site, sent.replace(b"HTTP/1.1\r\n", f"HTTP/{version}\r\n".encode()))

    assert statuses(said) == ([201] if version == "1.0" else [100, 201]), said


def test_who_knows_no_chunks_gets_none(enter: Enter, site: LiveSite) -> None:
    door = enter("views")
    for n in range(3):
        bus.move_to_dead(TOPIC, f"{n}-1", {"n": n})
    sent = request(door, "GET dead?format=jsonl", "Connection: close")

    new = said_to(site, sent)
    old = said_to(site, sent.replace(b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"))

    fields, _, body = old.partition(b"\r\n\r\n")
    assert b"\r\ntransfer-encoding: chunked" in new.lower()
    assert b"transfer-encoding" not in fields.lower()
    assert b"\r\nconnection: close" in fields.lower()
    letters = [json.loads(line) for line in body.splitlines()]
    assert sorted(letter["task"]["n"] for letter in letters) == [0, 1, 2]


def test_what_is_idle_for_long_is_closed_and_what_is_not_stays(
    enter: Enter, site: LiveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One timer for as long as a connection lasts, however many requests it carries."""
    monkeypatch.setattr(site.uvicorn, "timeout_keep_alive", 1)
    door = enter("express")
    alive = head(door).replace(b"Connection: close\r\n", b"") + chunks()

    begun_at = time.monotonic()
    said = said_to(site, *[alive] * 4, pause_s=0.6)
    took_s = time.monotonic() - begun_at

    assert statuses(said) == [201] * 4, said  # the last after 1.8 s
    assert 2.5 <= took_s < 20


@DOORS
@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [("1.1", 0, 400), ("1.1", 2, 400), ("1.1", 1, 201), ("1.0", 0, 201)],
)
def test_a_request_says_once_for_which_host_it_is(
    way: str, version: str, hosts: int, status: int, enter: Enter, site: LiveSite
) -> None:
    door = enter(way)
    begun = head(door).replace(CHUNKED.encode(), b"Content-Length: %d" % len(TASK))
    begun = begun.replace(b"Host: localhost\r\n", b"Host: localhost\r\n" * hosts)
    begun = begun.replace(b"HTTP/1.1", f"HTTP/{version}".encode())

    assert statuses(said_to(site, begun + TASK)) == [status]
