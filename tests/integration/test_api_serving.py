"""The API behind a real web server: bodies as they come over the wire, long waits."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest
import redis
from asgiref.sync import SyncToAsync
from rest_framework.response import Response

import bus
from bus import accounts, results
from tests.support.api import ROOT, keyspace
from tests.support.desk import Desk
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]

TASK = {"topic": "served", "task": {"n": 1}}


@pytest.fixture
def url(live_site: LiveSite) -> str:
    """Where a live site is."""
    return live_site.url


@pytest.fixture
def token() -> str:
    """An operator's."""
    return accounts.create_token("live", "operator")[1]


@pytest.fixture
def http(url: str, token: str) -> Iterator[httpx2.Client]:
    """A client with that token."""
    with httpx2.Client(
        base_url=f"{url}{ROOT}/",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    ) as client:
        yield client


def exchange(url: str, token: str, head: list[str], *parts: bytes) -> bytes:
    """What the server says to exactly these bytes, until it hangs up."""
    host, port = url.removeprefix("http://").split(":")
    lines = [
        *(f"POST {ROOT}/enqueue HTTP/1.1", f"Host: {host}:{port}"),
        *(f"Authorization: Bearer {token}", "Content-Type: application/json", *head),
    ]
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode())
        said = b""
        try:
            for part in parts:
                line.sendall(part)
            while part := line.recv(65536):
                said += part
        except (ConnectionError, BrokenPipeError):
            # It hung up while we still sent; what it said before is in the buffer.
            with_rest = line.recv(65536) if not said else b""
            said += with_rest
        return said


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


CLOSE = "Connection: close"
CHUNKED = ["Transfer-Encoding: chunked", CLOSE]


def test_a_chunked_task_arrives_whole(url: str, http: httpx2.Client) -> None:
    sent = json.dumps(TASK).encode()

    def pieces() -> Iterator[bytes]:
        for byte in sent:
            yield bytes([byte])

    response = http.post(
        "enqueue", content=pieces(), headers={"Content-Type": "application/json"}
    )

    assert response.request.headers["Transfer-Encoding"] == "chunked"
    assert response.status_code == 201
    assert bus.get_task(response.json()["id"]).payload == TASK["task"]


def test_an_empty_chunked_body_is_no_task(
    url: str, token: str, redis_client: redis.Redis
) -> None:
    said = exchange(url, token, CHUNKED, b"0\r\n\r\n")

    assert b" 400 " in said.split(b"\r\n")[0]
    assert keyspace(redis_client) == {}


def test_an_endless_chunked_body_is_cut_off(
    url: str, token: str, redis_client: redis.Redis
) -> None:
    some = chunk(b" " * 65_536)

    said = exchange(url, token, CHUNKED, *[some] * 100)

    assert b" 413 " in said.split(b"\r\n")[0]
    assert b"connection: close" in said.lower()
    assert b"body_too_large" in said
    assert keyspace(redis_client) == {}


def test_a_length_beyond_the_limit_is_refused_unread(url: str, token: str) -> None:
    began = time.monotonic()

    said = exchange(url, token, ["Content-Length: 999999999"])

    assert b" 413 " in said.split(b"\r\n")[0]
    assert time.monotonic() - began < 5


def test_a_body_compressed_on_its_way_is_refused(url: str, token: str) -> None:
    head = ["Transfer-Encoding: gzip, chunked", CLOSE]

    said = exchange(url, token, head, chunk(b"{}"), chunk(b""))

    assert b" 415 " in said.split(b"\r\n")[0]
    assert b"a compressed body is not read" in said


HEADS = {
    "length and chunks": ["Content-Length: 5", *CHUNKED],
    "a made-up coding": ["Transfer-Encoding: xchunked", CLOSE],
    "two lengths": ["Content-Length: 5", "Content-Length: 6", CLOSE],
    "a negative length": ["Content-Length: -5", CLOSE],
    "a length that is none": ["Content-Length: many", CLOSE],
}


@pytest.mark.parametrize("name", HEADS)
def test_a_body_framed_oddly_is_refused(
    url: str, token: str, redis_client: redis.Redis, name: str
) -> None:
    body = json.dumps(TASK).encode()

    said = exchange(url, token, HEADS[name], chunk(body) + b"0\r\n\r\n")

    assert b" 400 " in said.split(b"\r\n")[0], said[:300]
    assert keyspace(redis_client) == {}


def test_a_body_cut_short_is_no_task(
    url: str, token: str, redis_client: redis.Redis
) -> None:
    body = json.dumps(TASK).encode()
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(
            f"POST {ROOT}/enqueue HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body) + 10}\r\n\r\n".encode()
            + body
        )
        line.shutdown(socket.SHUT_WR)
        head = b""
        with contextlib.suppress(ConnectionError):
            while part := line.recv(65536):
                head += part

    assert head == b"" or head.split(b" ")[1] in (b"400", b"408"), head[:300]
    said = exchange(url, token, [f"Content-Length: {len(body)}", CLOSE], body)

    assert b" 201 " in said.split(b"\r\n")[0]
    assert bus.stats("served")["accepted"] == 1


def test_a_body_that_does_not_come_is_given_up(
    url: str, token: str, settings: Any
) -> None:
    settings.MESH_BODY_TIMEOUT_S = 0.3

    said = exchange(url, token, ["Content-Length: 100"], b"{")

    assert b" 408 " in said.split(b"\r\n")[0]
    assert b"request_timeout" in said


def test_a_body_that_is_still_to_come_at_the_stop_is_late(
    live_site: LiveSite, token: str, caplog: pytest.LogCaptureFixture
) -> None:
    threading.Timer(0.3, live_site.stop).start()

    said = exchange(live_site.url, token, ["Content-Length: 100"], b"{")

    assert b" 408 " in said.split(b"\r\n")[0], said
    assert b"before the server stopped" in said
    assert "Exception in ASGI" not in caplog.text


def test_a_large_head_is_refused(http: httpx2.Client) -> None:
    long = http.get("topics", params={"x": "y" * 10_000})
    assert (long.status_code, long.json()["code"]) == (414, "uri_too_long")
    assert http.get("topics", headers={"X": "y" * 40_000}).status_code == 431
    many = {f"X-{n}": "y" for n in range(200)}
    response = http.get("topics", headers=many)
    assert response.status_code == 431
    assert response.json()["code"] == "headers_too_large"


def test_a_batch_of_8_mib_goes_through(http: httpx2.Client) -> None:
    tasks = [{"topic": "served", "task": "x" * 250_000} for _ in range(32)]

    response = http.post("enqueue/batch", json={"tasks": tasks})
    more = http.post("enqueue/batch", json={"tasks": tasks * 2})

    assert {row["status"] for row in response.json()["results"]} == {201}
    assert more.status_code == 413


def test_bytes_in_a_header_are_no_token(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(
            f"GET {ROOT}/topics HTTP/1.1\r\nHost: {host}:{port}\r\n".encode()
            + b"Authorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
        )
        said = line.recv(65536)

    assert said.split(b"\r\n")[0].split()[1] in (b"401", b"400")


def test_a_wait_ends_with_the_task(http: httpx2.Client) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    desk = Desk("served")
    item = desk.one()
    answers: list[tuple[float, httpx2.Response]] = []

    def wait() -> None:
        response = http.get(f"tasks/{task_id}", params={"wait": 10})
        answers.append((time.monotonic(), response))

    waiting = threading.Thread(target=wait)
    waiting.start()
    time.sleep(0.3)  # not for correctness: so that it is likely to be waiting
    ended = time.monotonic()
    desk.complete(item)
    waiting.join(15)

    at, response = answers[0]
    assert response.status_code == 200
    assert (response.json()["state"], response.json()["result"]) == ("done", "ok")
    assert at - ended < 5


def test_a_wait_ends_with_the_task_that_it_was_for(
    http: httpx2.Client, redis_client: redis.Redis
) -> None:
    """A topic that comes first by name has had a task of the same id."""
    desk, other = Desk("served"), Desk("served-too")
    task_id = bus.enqueue_task("served", "first")
    desk.complete(desk.one())
    bus.enqueue_task("served-too", "second", task_id=task_id)
    item = other.one()
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(http.get, f"tasks/{task_id}", params={"wait": 60})
        wait_until(lambda: redis_client.info("clients")["blocked_clients"], 15)

        other.complete(item)

        row = answer.result().json()
    assert (row["topic"], row["task"]) == ("served-too", "second")
    assert row["state"] == "done"


def test_a_wait_for_a_dead_task_ends_with_its_death(http: httpx2.Client) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    desk = Desk("served")
    item = desk.one()
    timer = threading.Timer(0.2, lambda: desk.fail(item, final=True))
    timer.start()

    response = http.get(f"tasks/{task_id}", params={"wait": 10})

    timer.join()
    assert response.json()["state"] == "dead"


def test_a_wait_ends_also_where_no_result_is_kept(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    task_id = http.post("enqueue", json=TASK).json()["id"]
    bus.set_limits("served", results_keep=0)
    desk = Desk("served")
    item = desk.one()
    timer = threading.Timer(0.3, lambda: desk.complete(item))
    timer.start()
    began = time.monotonic()

    response = http.get(f"tasks/{task_id}", params={"wait": 55})

    timer.join()
    assert (response.status_code, response.json()["state"]) == (200, "done")
    assert time.monotonic() - began < 50


def test_a_wait_is_over_in_time_and_200(http: httpx2.Client) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    began = time.monotonic()

    response = http.get(f"tasks/{task_id}", params={"wait": 0.5, "topic": "served"})

    assert response.status_code == 200
    assert response.json()["state"] == "waiting"
    assert 0.5 <= time.monotonic() - began < 5


def test_a_wait_for_the_head_alone_ends_too(http: httpx2.Client) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    desk = Desk("served")
    item = desk.one()
    timer = threading.Timer(0.2, lambda: desk.complete(item))
    timer.start()

    response = http.head(f"tasks/{task_id}", params={"wait": 10})

    timer.join()
    assert (response.status_code, response.content) == (200, b"")
    assert bus.get_task(task_id).state == "done"


def at_once(count: int, call: Callable[[], httpx2.Response]) -> list[httpx2.Response]:
    """The same call from many threads, let go together."""
    gate = threading.Barrier(count)

    def one(_: int) -> httpx2.Response:
        gate.wait()
        return call()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_of_many_replays_at_once_one_succeeds(http: httpx2.Client) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    desk = Desk("served")
    desk.fail(desk.one(), final=True)

    answers = at_once(20, lambda: http.post(f"dead/{task_id}/replay"))

    assert sorted(each.status_code for each in answers) == [200] + [409] * 19
    assert bus.get_task(task_id).epoch == 1


def test_of_many_sends_with_one_key_one_is_new(http: httpx2.Client) -> None:
    key = {"Idempotency-Key": "once"}

    answers = at_once(20, lambda: http.post("enqueue", json=TASK, headers=key))

    assert sorted(each.status_code for each in answers) == [200] * 19 + [201]
    assert len({each.json()["id"] for each in answers}) == 1
    assert bus.stats("served")["backlog"] == 1


def test_a_wait_nobody_is_there_for_ends(
    http: httpx2.Client, redis_client: redis.Redis
) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]

    with pytest.raises(httpx2.ReadTimeout):
        http.get(f"tasks/{task_id}", params={"wait": 60}, timeout=0.5)

    def readers() -> int:
        return int(redis_client.info("clients")["blocked_clients"])

    wait_until(lambda: readers() == 0, 15, "the feed has nobody to read for")


def test_whoever_waits_holds_neither_thread_nor_connection(
    http: httpx2.Client, url: str, token: str, redis_client: redis.Redis
) -> None:
    task_id = http.post("enqueue", json=TASK).json()["id"]
    where = f"{url}{ROOT}/tasks/{task_id}"
    # Half of them are more than the 50 connections of looks that a stall opens at once.
    count = 120
    # Tests before this one may have left some, on the server that all share.
    others = int(redis_client.info("clients")["connected_clients"])

    async def one(client: httpx2.AsyncClient) -> str:
        response = await client.get(where, params={"wait": 60, "topic": "served"})
        return str(response.json()["state"])

    async def many() -> tuple[list[str], int, int]:
        headers = {"Authorization": f"Bearer {token}"}
        limits = httpx2.Limits(max_connections=count)
        async with httpx2.AsyncClient(
            headers=headers, limits=limits, timeout=60, trust_env=False
        ) as client:
            waiting = []
            for _ in range(count):
                waiting.append(asyncio.create_task(one(client)))
                await asyncio.sleep(0.03)  # one after the other: their looks are short
            for _ in range(200):  # a busy machine needs longer for their looks
                await asyncio.sleep(0.1)
                threads = threading.active_count()
                clients = int(redis_client.info("clients")["connected_clients"])
                if max(threads, clients - others) < count / 2:
                    break
            desk = Desk("served")
            await asyncio.to_thread(lambda: desk.complete(desk.one()))
            return await asyncio.gather(*waiting), threads, clients

    states, threads, clients = asyncio.run(many())

    assert states == ["done"] * count
    assert threads < count / 2
    assert clients - others < count / 2


def test_an_answer_is_freed_once_it_is_sent(http: httpx2.Client) -> None:
    """A page has 16 MiB, and who looks for what holds itself looks rarely."""

    def kept() -> int:
        return sum(type(each) is Response for each in gc.get_objects())

    http.get("topics")
    gc.collect()
    before = kept()
    gc.disable()
    try:
        for _ in range(5):
            assert http.get("topics").status_code == 200
        wait_until(lambda: kept() <= before + 1, 10)
    finally:
        gc.enable()


def test_a_request_is_handed_to_a_thread_once(
    http: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed: list[str] = []
    call = SyncToAsync.__call__

    async def noting(self: Any, *args: Any, **kwargs: Any) -> Any:
        handed.append(self.func.__name__)
        return await call(self, *args, **kwargs)

    monkeypatch.setattr(SyncToAsync, "__call__", noting)

    assert http.get("topics").status_code == 200
    assert http.get("no-such-call").status_code == 404

    # Receivers of Django's signals come before and behind it, together.
    assert len([name for name in handed if name == "get_response"]) == 2
    assert len(handed) <= 2 * 4, handed
