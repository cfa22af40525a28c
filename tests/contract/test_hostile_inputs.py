"""Hostile inputs for the API, rows 1 to 46 of the list in the security reference.

Each row goes over the wire to the whole site, with the express lane and without it. It
is refused with a status that fits, never a 5xx, and no key of Redis changes. Rows that
take more than one request have their tests elsewhere; `ELSEWHERE` names them. (Rows 47
to 53 are the gateway's, 54 to 61 the socket's, 62 to 70 the pages'.)
"""

from __future__ import annotations

import gzip
import importlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from tests.contract.conftest import Enter
from tests.integration.test_api_bodies import (
    BOMB,
    CHARSETS,
    OUTSIDE,
    TYPES,
    UNREADABLE,
    body,
    nested,
)
from tests.support.api import keyspace
from tests.support.desk import Desk
from tests.support.doors import Door, Reply
from tests.unit.test_mesh_api_endpoints import ODD_TOPICS, OUT_OF_RANGE, WRONG_FIELDS

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"
JSON = "application/json"
Headers = list[tuple[str, str | bytes]]


@dataclass
class Row:
    """One input, and the statuses that are an answer to it."""

    number: int
    name: str
    fits: set[int]
    body: bytes = body("1")
    path: str = "enqueue"
    method: str = "POST"
    headers: Headers = field(default_factory=list)
    token: str | None = "admin"
    content_type: str | None = JSON
    settings: dict[str, Any] = field(default_factory=dict)

    def ask(self, door: Door) -> Reply:
        return door.ask(
            self.path,
            self.body,
            self.headers,
            method=self.method,
            token=self.token,
            content_type=self.content_type,
        )


def read(number: int, path: str, fits: set[int], **more: Any) -> Row:
    """A row that asks without a body."""
    more = {"method": "GET", "body": b"", "content_type": None, **more}
    return Row(number, path[:60], fits, path=path, **more)


def task(**more: Any) -> bytes:
    return json.dumps({"topic": "hostile", "task": 1, **more}).encode()


def ended(**more: Any) -> bytes:
    named = {"topic": "hostile", "id": NOBODY, "fence": "1-1.0", "result": 1}
    return json.dumps({"deliveries": [{**named, **more}]}).encode()


# Which of the bodies that tests/integration/test_api_bodies.py names is which row.
BODIES: dict[int, list[str]] = {
    1: ["cut", "empty", "null", "a number", "a list", "nothing in it"],
    10: ["utf-16", "a byte order mark", "a byte that is no utf-8"],
    11: ["100,000 brackets", "5,000 objects"],
    12: ["depth 33", "10,001 nodes", "a long key"],
    13: ["NaN", "Infinity", "-Infinity"],
    14: ["1e400", "-1e400"],
    15: ["5,000 digits", "4,299 digits"],
    16: ["2^53", "2^63", "-2^63-1"],
    17: ["half a pair", "a pair the wrong way", "half a pair as key"],
    18: ["NUL", "NUL as key", "NUL in the topic"],
    19: ["the same key twice", "the task twice"],
}
FRAMES: dict[str, Headers] = {
    "a length and chunks": [("Content-Length", "5"), ("Transfer-Encoding", "chunked")],
    "a made-up coding": [("Transfer-Encoding", "xchunked")],
    "two lengths": [("Content-Length", "5"), ("Content-Length", "6")],
}
TOKENS: dict[str, Headers] = {
    "bytes": [("Authorization", b"Bearer \xff\xfe")],
    "nothing": [("Authorization", "")],
    "no token": [("Authorization", "Bearer")],
    "two": [("Authorization", "Bearer a"), ("Authorization", "Bearer b")],
    "10 KB": [("Authorization", "Bearer " + "x" * 10_000)],
    "another scheme": [("Authorization", "Token x")],
    "two words": [("Authorization", "Bearer a b")],
}
FENCES = ["0-0", ">", "$", "*", "1-1-1", "-", "", "1-1.-1", "1-1.1e9", "٣-1.0"]
PATHS = ["a%7D%7Bb", "%2A", "%00", "a%2fb", "..%2fx", "x" * 65, "%EF%BC%A1"]
PATHS += ["a%0a", "a."]
RESULTS = {
    "a deep result": nested(99).encode(),
    "a result of bytes": b'"\xff"',
    "a large result": b'"%b"' % (b"x" * 2**20),
}
MILLION = b'{"ids": [' + b'"x",' * 10**6 + b'"x"]}'
QUERIES = [
    *("count=1000000000", "count=-1", "count=0", "count=x", "count=1&count=2"),
    *("cursor=garbage", "cursor=%00", "cursor=" + "x" * 500, "page_size=1", "wait=1"),
]

ROWS: list[Row] = [
    *(
        Row(number, name, {400, 422}, (UNREADABLE | OUTSIDE)[name])
        for number, names in BODIES.items()
        for name in names
    ),
    Row(4, "20 bytes of 10", {400}, headers=[("Content-Length", "10")]),
    Row(4, "10 bytes of 20", {408}, b"{" * 10, headers=[("Content-Length", "20")],
        settings={"MESH_BODY_TIMEOUT_S": 0.2}),
    *(Row(5, name, {400}, headers=told) for name, told in FRAMES.items()),
    Row(6, "256 KiB and 1", {413}, body(json.dumps("x" * (256 * 1024 - 1)))),
    Row(7, "a bomb", {415}, BOMB, content_type=f"{JSON}; charset=zlib"),
    *(Row(8, name, {415}, content_type=f"{JSON}; charset={name}") for name in CHARSETS),
    Row(9, "gzip", {415}, gzip.compress(body("1")),
        headers=[("Content-Encoding", "gzip")]),
    *(Row(21, name, {422}, task(**{name: 1}))
      for name in ("state", "attempts", "sid", "owner", "epoch")),
    *(Row(22, str(more)[:40], {422}, task(**more))
      for more in ({"priority": "high"}, *OUT_OF_RANGE, *(m for m, _ in WRONG_FIELDS))),
    *(Row(23, str(kind)[:40], {415}, content_type=kind) for kind in (*TYPES, None)),
    Row(24, "200 headers", {431}, headers=[(f"X-{n}", "y") for n in range(200)]),
    Row(24, "64 KB of one header", {431}, headers=[("X", "y" * 65_536)]),
    read(24, "topics?x=" + "y" * 100_000, {400, 414, 431}),
    *(Row(25, name, {400, 401, 431}, headers=told, token=None)
      for name, told in TOKENS.items()),
    Row(26, "a secret that is wrong", {401}, token="revoked"),
    Row(28, "a token of other topics", {403}, token="bound"),
    Row(28, "who only reads", {403}, token="viewer"),
    Row(28, "an agent that sends", {403}, token="agent"),
    read(28, f"tasks/{NOBODY}?topic=hostile", {403}, token="bound"),
    *(Row(30, fence, {422}, ended(fence=fence), "deliveries/complete")
      for fence in FENCES),
    *(Row(32, name, {400, 413, 422}, ended().replace(b'": 1}', b'": %b}' % result),
          "deliveries/complete") for name, result in RESULTS.items()),
    *(Row(33, repr(key)[:20], {400, 422}, headers=[("Idempotency-Key", key)])
      for key in ("x" * 256, "", "a\tb", b"a\x00b")),
    *(Row(34, topic[:20], {422}, json.dumps({"topic": topic, "task": 1}).encode())
      for topic in ODD_TOPICS),
    *(read(34, f"topics/{name}", {400, 404, 422}) for name in PATHS),
    *(read(34, f"topics/{name}/purge", {400, 404, 422}, method="POST")
      for name in PATHS),
    *(read(35, f"tasks/{name}/cancel", {404}, method="POST")
      for name in ("*", "..", "%2e%2e%2f", "x" * 4_000, NOBODY)),
    read(35, "tasks/" + "x" * 60_000, {414, 431}),
    Row(38, "a method in a header", {200}, b"", "topics", "GET",
        [("X-HTTP-Method-Override", "DELETE")]),
    read(38, "topics?format=api", {422}),
    read(38, "topics/hostile?_method=DELETE", {404, 422}),
    *(Row(39, method, {400, 405}, b"", "enqueue", method)
      for method in ("TRACE", "CONNECT", "PATCH", "FOO", "DELETE")),
    Row(40, "another host", {400}, headers=[("Host", "evil.example")]),
    *(read(41, f"{path}?{query}", {400, 422})
      for path in ("topics", "dead", "agents", "tokens") for query in QUERIES),
    Row(42, "another origin asks first", {204}, b"", method="OPTIONS",
        headers=[("Origin", "https://evil.example"),
                 ("Access-Control-Request-Method", "POST")]),
    *(read(44, path, {401}, token=None) for path in ("tokens", "audit", "topics")),
    Row(46, "a million ids", {413}, MILLION, "replays"),
    Row(46, "a pattern", {404, 422}, b'{"error": "(a+)+$"}', "replays"),
]  # fmt: skip

ACCESS = "integration.test_api_access"
ELSEWHERE: dict[int, list[str]] = {
    2: ["integration.test_api_serving.test_a_chunked_task_arrives_whole"],
    3: ["integration.test_api_serving.test_an_endless_chunked_body_is_cut_off"],
    20: ["integration.test_api_bodies.test_what_is_just_inside_arrives_as_it_was_sent"],
    26: [f"{ACCESS}.test_wrong_tokens_are_counted_whatever_the_headers_say"],
    27: [
        f"{ACCESS}.test_a_token_ends_at_once",
        f"{ACCESS}.test_a_token_of_a_disabled_account_is_401",
        "contract.test_lane.test_a_token_revoked_elsewhere_is_out_within_5_s",
    ],
    28: [
        f"{ACCESS}.test_each_role_may_do_what_it_may",
        "integration.test_api_principals"
        ".test_topics_of_others_are_403_by_name_and_404_by_id",
    ],
    31: ["integration.test_api_leases.test_a_repeat_is_a_duplicate"],
    32: ["integration.test_api_leases.test_a_result_may_have_a_mebibyte_and_no_more"],
    33: [
        "unit.test_mesh_api_endpoints.test_an_idempotency_key_makes_a_repeat_one_task",
        "unit.test_mesh_api_endpoints.test_an_idempotency_key_belongs_to_its_token",
    ],
    36: [f"{ACCESS}.test_wrong_tokens_are_counted_whatever_the_headers_say"],
    37: [f"{ACCESS}.test_exactly_as_many_pass_at_once_as_may"],
    40: ["integration.test_api_failures.test_a_forwarded_host_is_ignored"],
    42: ["integration.test_api_failures.test_other_origins_get_no_leave"],
    43: [
        "contract.test_lane.test_a_head_that_drips_is_given_up",
        "integration.test_api_serving.test_a_body_that_does_not_come_is_given_up",
    ],
    45: ["integration.test_api_serving.test_of_many_replays_at_once_one_succeeds"],
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.number:02} {row.name}")
def test_a_hostile_input_is_refused_and_writes_nothing(
    row: Row, enter: Enter, redis_client: redis.Redis, settings: Settings
) -> None:
    for name, value in row.settings.items():
        setattr(settings, name, value)

    for name in ("express", "views"):
        door = enter(name)
        reply = row.ask(door)

        assert reply.status in row.fits, (name, reply.status, reply.body[:300])
        if row.method != "OPTIONS":
            assert reply.header("access-control-allow-origin") is None
        assert keyspace(redis_client) == {}


def test_every_row_has_a_test() -> None:
    assert {row.number for row in ROWS} | ELSEWHERE.keys() | {29} == {*range(1, 47)}
    for path in (each for paths in ELSEWHERE.values() for each in paths):
        room, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(f"tests.{room}"), name), path


def test_row_29_another_agents_task_is_not_ended_under_a_fence_of_ones_own(
    enter: Enter, redis_client: redis.Redis
) -> None:
    """Who guesses or mixes up a fence ends nothing; who holds it still does."""
    door, desk = enter("express"), Desk("hostile")
    bus.enqueue_many("hostile", [1, 2])
    mine, theirs = desk.claim(2)
    before = keyspace(redis_client)

    for fence in (mine.fence, f"{theirs.sid}.7", "1-1.0"):
        told = {"topic": "hostile", "id": theirs.id, "fence": fence, "result": 1}
        sent = json.dumps({"deliveries": [told]}).encode()
        reply = door.ask("deliveries/complete", sent, token="agent")
        [row] = reply.json()["deliveries"]
        assert (reply.status, row["outcome"]) == (200, "fenced")

    assert keyspace(redis_client) == before
    assert desk.complete(theirs) == ["ok"]


@pytest.mark.timeout(600)  # some 600 requests, on a slow machine
def test_memory_is_flat_however_much_of_it_comes(enter: Enter) -> None:
    """The web server is a thread of this process, so its memory is ours."""
    door = enter("express")
    rows = [row for row in ROWS if not row.settings]
    for row in rows:
        row.ask(door)
    before = _rss_mib()

    for _ in range(2):
        for row in rows:
            row.ask(door)

    assert _rss_mib() - before < 48


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
