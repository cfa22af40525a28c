"""Results as they come, as server-sent events over a real web server."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from django.test import Client
from pytest_django import Settings

import bus
from bus import accounts, connection, feed
from bus.api import stream
from bus.api.problems import KINDS, MEDIA_TYPE
from tests.integration.test_feed_follows import publish
from tests.support.api import ROOT, Api, problem
from tests.support.desk import Desk
from tests.support.events import Ended, Events
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)

Reader = Callable[..., Events]


@pytest.fixture
def reader(live_site: LiveSite) -> Iterator[Reader]:
    """Makes readers: `reader()` with a viewer's token, or with the one it is given."""
    with ExitStack() as opened:

        def made(token: str | None = None) -> Events:
            text = token if token is not None else new_token()
            events = Events(live_site.url, text)
            opened.callback(lambda: getattr(events, "answer", None) and events.close())
            return events

        yield made


def new_token(role: str = "viewer", topics: tuple[str, ...] = ()) -> str:
    return accounts.create_token(f"a {role}", role, topics)[1]


def numbers(events: Events, count: int) -> list[Any]:
    return [events.next("result").data["result"] for _ in range(count)]


# --- what comes


def test_results_come_as_lists_give_them(reader: Reader, test_topic: str) -> None:
    token = new_token()
    events, desk = reader(token), Desk(test_topic)
    answer = events.open(topic=test_topic)
    live = events.next()

    done = bus.enqueue_task(test_topic, {"n": "ä\n"})
    desk.complete(desk.one(), result='{"sum":2}')
    gone = bus.enqueue_task(test_topic, 1)
    bus.cancel(gone, test_topic)
    rows = [events.next("result").data for _ in range(2)]

    assert answer.status == 200
    assert (live.name, live.id, live.data) == ("live", "0-0/0", {"topic": test_topic})
    assert [(row["id"], row["state"]) for row in rows] == [
        (done, "done"),
        (gone, "cancelled"),
    ]
    listed = Api(token).get("results", topic=test_topic).json()["results"]
    assert rows == listed[::-1]


def test_its_headers_keep_proxies_from_holding_it(
    reader: Reader, test_topic: str
) -> None:
    events = reader()

    answer = events.open(topic=test_topic)

    assert answer.getheader("Content-Type") == "text/event-stream"
    assert answer.getheader("Cache-Control") == "no-cache, no-store, no-transform"
    assert answer.getheader("X-Accel-Buffering") == "no"
    assert answer.getheader("Content-Length") is None
    assert answer.getheader("Content-Encoding") is None
    events.next("live")
    assert 500 <= events.retry_ms[0] <= 2_000


def test_a_head_tells_the_headers_and_ends(reader: Reader, test_topic: str) -> None:
    answer = reader().open("HEAD", topic=test_topic)

    assert answer.status == 200
    assert answer.getheader("Content-Type") == "text/event-stream"
    assert answer.read() == b""


def test_other_methods_are_named(reader: Reader, test_topic: str) -> None:
    answer = reader().open("POST", topic=test_topic)

    assert answer.status == 405
    assert "GET" in str(answer.getheader("Allow"))


def test_it_beats_while_nothing_comes(
    reader: Reader, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_BEAT_S", 0.05)
    events, desk = reader(), Desk(test_topic)
    events.open(topic=test_topic)
    events.next("live")

    def later() -> None:
        bus.enqueue_task(test_topic, 1)
        desk.complete(desk.one(), result="7")

    timer = threading.Timer(0.3, later)
    timer.start()
    assert numbers(events, 1) == [7]
    timer.join()

    assert events.comments and set(events.comments) == {": nothing new"}


def test_a_row_that_is_large_comes_whole(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    events = reader()
    events.open(topic=test_topic, after="0-0")
    text = "ü" * 400_000
    row = {"id": "x", "topic": test_topic, "state": "done", "result": text}
    redis_client.xadd(
        bus.result_stream(test_topic), {"id": "x", "json": json.dumps(row)}
    )

    assert numbers(events, 1) == [text]


def test_what_others_wrote_comes_as_it_is(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    events = reader()
    events.open(topic=test_topic, after="0-0")
    key = bus.result_stream(test_topic)

    redis_client.xadd(key, {"note": "no JSON\nevent: end\n\n"})
    redis_client.xadd(key, {"json": '{"topic": "other", "result": 1.50}'})

    first, second = (events.next("result").data for _ in range(2))
    assert first["note"] == "no JSON\nevent: end\n\n"
    assert (second["topic"], second["result"]) == (test_topic, 1.5)


# --- resuming


def test_whoever_comes_back_sees_each_result_once(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    """It leaves amid past or present, at whatever event it has just read."""
    total, seen, events = 2_000, [], reader()
    key = bus.result_stream(test_topic)

    def write() -> None:
        for start in range(0, total, 20):
            publish(redis_client, test_topic, range(start, start + 20))

    writer = threading.Thread(target=write)
    writer.start()
    while len(seen) < total:
        events.open(topic=test_topic, after="0-0")
        seen += numbers(events, min(137, total - len(seen)))
        events.close()
    writer.join()

    assert seen == list(range(total))
    assert events.last_id.startswith(redis_client.xrevrange(key, count=1)[0][0])


def test_after_is_an_entry_of_a_list_too(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    token = new_token()
    publish(redis_client, test_topic, range(5))
    rows = Api(token).get("results", topic=test_topic).json()["results"]
    events = reader(token)

    events.open(topic=test_topic, after=rows[2]["entry_id"])

    assert numbers(events, 2) == [3, 4]
    assert events.next().name == "live"


def test_without_a_cursor_it_begins_now(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    publish(redis_client, test_topic, range(5))
    events = reader()
    events.open(topic=test_topic)
    assert events.next("live").id.endswith("/5")
    publish(redis_client, test_topic, range(5, 6))

    assert numbers(events, 1) == [5]


def test_what_is_trimmed_meanwhile_is_a_gap_with_its_count(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    publish(redis_client, test_topic, range(10))
    events = reader()
    events.open(topic=test_topic, after="0-0")
    numbers(events, 10)
    events.close()
    publish(redis_client, test_topic, range(10, 110))
    redis_client.xtrim(bus.result_stream(test_topic), maxlen=10, approximate=False)

    events.open(topic=test_topic)
    gap = events.next()

    assert (gap.name, gap.data) == ("gap", {"topic": test_topic, "missed": 90})
    assert numbers(events, 10) == list(range(100, 110))
    events.close()
    events.open(topic=test_topic)
    assert events.next().name == "live", "a gap is told once"


def test_it_goes_on_when_redis_comes_back(
    reader: Reader,
    test_topic: str,
    redis_client: redis.Redis,
    live_site: LiveSite,
) -> None:
    events = reader()
    events.open(topic=test_topic)
    events.next("live")

    redis_client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    publish(redis_client, test_topic, range(3))

    assert numbers(events, 3) == [0, 1, 2]


# --- who may, how many, how it is refused


def test_it_is_for_readers_of_the_topic(reader: Reader, test_topic: str) -> None:
    told = []
    for token in ("", "nonsense", new_token("agent"), new_token(topics=("other",))):
        answer = reader(token).open(topic=test_topic)
        told.append((answer.status, json.loads(answer.read())["code"]))
        assert answer.getheader("Content-Type") == MEDIA_TYPE

    assert told == [
        (401, "not_authenticated"),
        (401, "invalid_token"),
        (403, "permission_denied"),
        (403, "topic_not_allowed"),
    ]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({}, "invalid"),
        ({"topic": "UPPER"}, "invalid_name"),
        ({"topic": "a", "count": 3}, "invalid"),
        ({"topic": "a", "after": ""}, "invalid_name"),
        ({"topic": "a", "after": "$"}, "invalid_name"),
        ({"topic": "a", "after": "1-0/x"}, "invalid_name"),
        ({"topic": "a", "after": "99999999999999999999-0"}, "invalid_name"),
    ],
)
def test_what_makes_no_sense_is_422(
    reader: Reader, redis_client: redis.Redis, query: dict[str, Any], code: str
) -> None:
    answer = reader().open(**query)

    assert (answer.status, json.loads(answer.read())["code"]) == (422, code)


def test_a_last_event_id_that_is_none_is_422(
    reader: Reader, redis_client: redis.Redis
) -> None:
    events = reader()
    events.last_id = "17' OR 1=1"

    answer = events.open(topic="a")

    assert (answer.status, json.loads(answer.read())["code"]) == (422, "invalid_name")


def test_a_session_reads_and_ends_with_its_sign_out(
    live_site: LiveSite, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.1
    client = Client()
    client.force_login(accounts.ensure_user("the-viewer", "viewer", "a-password-1"))
    cookie = client.cookies[settings.SESSION_COOKIE_NAME]
    host, port = live_site.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(
            f"GET {ROOT}/results/stream?topic={test_topic} HTTP/1.0\r\n"
            f"Host: {host}:{port}\r\n".encode()
            + f"Cookie: {cookie.key}={cookie.value}\r\n\r\n".encode()
        )
        said = b""
        while b"event: live" not in said:
            said += line.recv(65_536)
        client.logout()
        while part := line.recv(65_536):
            said += part

    assert said.startswith(b"HTTP/1.1 200")
    assert b'event: end\ndata: {"code":"not_authenticated"' in said


def test_it_ends_when_its_token_is_revoked(
    reader: Reader, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.1
    token = new_token()
    events = reader(token)
    events.open(topic=test_topic)
    events.next("live")

    accounts.revoke_token(token[:15])
    end = events.next("end")

    assert end.data["code"] == "invalid_token"
    with pytest.raises(Ended):
        events.next()
    assert reader(token).open(topic=test_topic).status == 401


def test_it_ends_when_its_token_may_not_read_the_topic_any_more(
    reader: Reader, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.1
    token, text = accounts.create_token("t", "viewer")
    events = reader(text)
    events.open(topic=test_topic)
    events.next("live")

    token.topics = ["other"]
    token.save()

    assert events.next("end").data["code"] == "topic_not_allowed"


def test_it_goes_on_when_a_token_may_more_than_before(
    reader: Reader, settings: Settings, test_topic: str, redis_client: redis.Redis
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.05
    token, text = accounts.create_token("t", "viewer")
    events = reader(text)
    events.open(topic=test_topic)
    events.next("live")

    token.role = "operator"
    token.save()
    threading.Event().wait(0.3)  # some looks at the new role
    publish(redis_client, test_topic, range(1))

    assert events.next().name == "result"


def test_streams_per_token_are_limited_and_closed_ones_do_not_count(
    reader: Reader, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_STREAMS_PER_USER = 2
    mine = new_token()
    first, second = reader(mine), reader(mine)
    for events in (first, second):
        events.open(topic=test_topic)
        events.next("live")

    refused = reader(mine).open(topic=test_topic)
    other = reader(new_token("operator")).open(topic=test_topic)
    first.close()

    assert (refused.status, other.status) == (429, 200)
    document = json.loads(refused.read())
    assert document["code"] == "too_many_streams" and document["retry_after_ms"] == 5000
    assert refused.getheader("Retry-After") == "5"
    wait_until(lambda: reader(mine).open(topic=test_topic).status == 200)


def test_a_stream_too_many_is_refused_with_what_every_answer_has(
    reader: Reader, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_STREAMS_PER_USER = 1
    mine = new_token()
    allowed, refused = (reader(mine).open(topic=test_topic) for _ in range(2))

    assert (allowed.status, refused.status) == (200, 429)
    assert refused.getheader("X-Request-ID")
    for name in ("X-Content-Type-Options", "Content-Security-Policy"):
        assert refused.getheader(name) == allowed.getheader(name) is not None


def test_all_that_a_stream_holds_goes_with_it(
    reader: Reader, test_topic: str, live_site: LiveSite
) -> None:
    async def held() -> tuple[int, int]:
        names = [task.get_name() for task in asyncio.all_tasks()]
        return sum(stream.open_streams.values()), names.count("mesh-stream")

    for _ in range(3):
        events = reader()
        events.open(topic=test_topic)
        events.next("live")
        assert live_site.call(held()) == (1, 1)
        events.close()
        wait_until(lambda: live_site.call(held()) == (0, 0))


def test_readers_hold_neither_threads_nor_connections_each(
    reader: Reader, test_topic: str, redis_client: redis.Redis
) -> None:
    token = new_token()
    for _ in range(3):
        events = reader(token)
        events.open(topic=test_topic)
        events.next("live")
    threads = threading.active_count()
    clients = int(redis_client.info("clients")["connected_clients"])
    many = [reader(token) for _ in range(30)]
    for events in many:
        events.open(topic=test_topic)
        events.next("live")

    publish(redis_client, test_topic, range(1))
    told = [numbers(events, 1) for events in many]

    assert told == [[0]] * 30
    assert threading.active_count() - threads < 10
    assert int(redis_client.info("clients")["connected_clients"]) - clients < 10


def test_a_reader_that_takes_nothing_is_let_go(
    live_site: LiveSite,
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stream, "_SEND_S", 0.2)
    monkeypatch.setattr(stream, "_LAST_S", 0.1)
    host, port = live_site.url.removeprefix("http://").split(":")
    row = {"id": "x", "state": "done", "result": "x" * 900_000}
    for _ in range(20):
        redis_client.xadd(bus.result_stream(test_topic), {"json": json.dumps(row)})

    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(
            f"GET {ROOT}/results/stream?topic={test_topic}&after=0-0 HTTP/1.1\r\n"
            f"Host: {host}:{port}\r\n".encode()
            + f"Authorization: Bearer {new_token()}\r\n\r\n".encode()
        )
        wait_until(lambda: stream.open_streams)
        wait_until(lambda: not stream.open_streams, 10)
        wait_until(lambda: not live_site.state.connections, 10)

    assert "without completing" not in caplog.text


def test_it_is_503_where_redis_does_not_answer(
    reader: Reader, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: Any) -> None:
        raise bus.BusUnavailable("redis://secret-host is away")

    monkeypatch.setattr(feed.Feed, "join", away)

    answer = reader().open(topic=test_topic)
    document = json.loads(answer.read())

    assert (answer.status, document["code"]) == (503, "bus_unavailable")
    assert "secret" not in str(document) and "outcome" not in document
    assert answer.getheader("Retry-After") == "1"


def test_it_ends_with_a_word_when_the_server_stops(
    reader: Reader, test_topic: str, live_site: LiveSite
) -> None:
    async def stop() -> None:
        feed.shared().close()

    events = reader()
    events.open(topic=test_topic)
    live = events.next("live")

    live_site.call(stop())
    end = events.next()

    assert (end.name, end.data["code"]) == ("end", "stopping")
    assert end.id == live.id, "the end moves no cursor"
    assert len(events.retry_ms) == 2
    with pytest.raises(Ended) as ended:
        events.next()
    assert str(ended.value) == "", "it ends whole, not cut off"


def test_it_is_empty_where_nothing_is_in_front_of_the_view(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Under a server without ASGI it is a poll: it says when to come again."""
    client = Api(new_token())

    response = client.get("results/stream", topic=test_topic)

    assert response.status_code == 200
    assert response.content.startswith(b"retry: ")
    problem(client.get("results/stream"), 422, "invalid")
    assert KINDS["too_many_streams"].status == 429
    connection.reset()
