"""The express lane under way: many at once, who hangs up, outages, the end."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import OperationalError
from pytest_django import Settings

import bus
from bus import errors, models, scripts
from bus.api import head
from bus.home import heads
from bus.live import arrivals
from bus.server import EmbeddedServer
from tests.contract.conftest import Enter
from tests.support.api import ROOT
from tests.support.doors import Door, Reply
from tests.support.site import LiveSite
from tests.support.waiting import PATIENCE, wait_until

TOPIC = "lane"


def task(number: int = 0, **more: Any) -> bytes:
    return json.dumps({"topic": TOPIC, "task": number, **more}).encode()


def calls_of(client: redis.Redis) -> int:
    """How many scripts the server has run."""
    rows: dict[str, Any] = client.info("commandstats")
    return sum(
        row["calls"]
        for name, row in rows.items()
        if name in ("cmdstat_evalsha", "cmdstat_eval")
    )


def at_once(door: Door, count: int) -> list[Reply]:
    gate = threading.Barrier(count)

    def one(number: int) -> Reply:
        gate.wait()
        return door.ask("enqueue", task(number))

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_many_at_once_share_their_script_calls(
    enter: Enter, redis_client: redis.Redis
) -> None:
    door = enter("express")
    door.ask("enqueue", task())
    redis_client.config_resetstat()
    redis_client.client_pause(500, all=True)  # all come while the first is in flight

    replies = at_once(door, 40)

    assert Counter(each.status for each in replies) == {201: 40}
    assert len({each.json()["id"] for each in replies}) == 40
    assert bus.stats(TOPIC)["accepted"] == 41
    assert calls_of(redis_client) < 40, "two scripts for each would be 80"
    assert door.in_the_lane == 41


def test_one_that_hangs_up_harms_no_other(
    enter: Enter, redis_client: redis.Redis, site: LiveSite
) -> None:
    door = enter("express")
    door.ask("enqueue", task())
    redis_client.client_pause(500, all=True)
    host, port = site.url.removeprefix("http://").split(":")
    head = (
        f"POST {ROOT}/enqueue HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer "
        f"{door.tokens['operator']}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(task())}\r\n\r\n"
    )
    for _ in range(20):
        with socket.create_connection((host, int(port))) as line:
            line.sendall(head.encode() + task())

    replies = at_once(door, 20)

    assert Counter(each.status for each in replies) == {201: 20}
    # Sent and never asked after: each is a task or was never read, nothing between.
    wait_until(lambda: bus.stats(TOPIC)["waiting"] == bus.stats(TOPIC)["accepted"])
    assert bus.stats(TOPIC)["accepted"] >= 21


def test_of_the_same_id_at_once_one_is_new(enter: Enter) -> None:
    door, own = enter("express"), bus.tasks.new_id()
    gate = threading.Barrier(16)

    def one(number: int) -> Reply:
        gate.wait()
        return door.ask("enqueue", task(number % 2, id=own))

    with ThreadPoolExecutor(16) as pool:
        found = Counter(each.status for each in pool.map(one, range(16)))

    assert found == {201: 1, 200: 7, 409: 8}
    assert bus.stats(TOPIC)["accepted"] == 1


def test_the_first_look_at_a_token_is_the_views(enter: Enter) -> None:
    from bus import accounts

    door = enter("express")
    door.tokens["new"] = accounts.create_token("contract new", "operator")[1]
    found = []
    for _ in range(3):
        assert door.ask("enqueue", task(), token="new").status == 201
        found.append(door.in_the_lane)

    assert found == [0, 1, 2]


def test_without_the_database_the_views_say_so(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bus import accounts

    def away(text: Any, **_: Any) -> Any:
        raise OperationalError("no such file")

    door = enter("express")
    monkeypatch.setattr(accounts, "believed", lambda text: (None, 0.0))
    monkeypatch.setattr(accounts, "principal_of", away)

    reply = door.ask("enqueue", task())

    assert (reply.status, reply.json()["code"]) == (503, "database_unavailable")
    assert door.in_the_lane == 0


def test_a_token_revoked_elsewhere_is_out_within_5_s(enter: Enter) -> None:
    from bus import accounts

    door = enter("express")
    token, text = accounts.create_token("contract short", "operator")
    door.tokens["short"] = text
    assert door.ask("enqueue", task(), token="short").status == 201
    assert door.ask("enqueue", task(), token="short").status == 201

    rows: Any = models.Token.objects.filter(pk=token.pk)
    rows._raw_delete("default")  # as another process would: nobody here is told

    began = time.monotonic()
    wait_until(lambda: door.ask("enqueue", task(), token="short").status == 401, 5)
    assert time.monotonic() - began < 5


def test_it_says_503_while_redis_is_away_and_goes_on_after(
    enter: Enter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    door = enter("express")
    settings.MESH_SEND_RETRY_S = 0.3
    folder = tmp_path / "redis"
    with EmbeddedServer(folder, port=0) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        port = int(server.url.rpartition(":")[2].split("/")[0])
        assert door.ask("enqueue", task()).status == 201
    door.in_the_lane = 0

    away = at_once(door, 8)

    for each in away:
        assert each.status == 503, each.body
        assert each.json()["code"] in ("bus_unavailable", "outcome_unknown")
        assert each.header("retry-after") == "1"
    assert door.in_the_lane == 8
    with EmbeddedServer(folder, port=port) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        wait_until(lambda: door.ask("enqueue", task()).status == 201, 15)


def test_each_is_told_its_own_id_where_nobody_knows_the_outcome(
    enter: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = enter("express")
    own = [bus.tasks.new_id() for _ in range(8)]
    real = scripts.arun

    async def lost(name: str, *args: Any, **more: Any) -> Any:
        reply = await real(name, *args, **more)
        if name == "enqueue":
            raise errors.OutcomeUnknown("the reply was lost")
        return reply

    with monkeypatch.context() as patch, ThreadPoolExecutor(8) as pool:
        patch.setattr(scripts, "arun", lost)
        sent = [pool.submit(door.ask, "enqueue", task(id=each)) for each in own]
        told = [each.result() for each in sent]

    again = {"unknown": 200, "not_written": 201}  # of those behind none was sent
    found = Counter(reply.json()["outcome"] for reply in told)
    assert found["unknown"] >= 1
    assert set(found) <= set(again)
    for task_id, reply in zip(own, told, strict=True):
        said = reply.json()
        assert reply.status == 503
        assert said.get("id", task_id) == task_id
        assert ("id" in said) == (said["outcome"] == "unknown")
        sent_again = door.ask("enqueue", task(id=task_id))
        assert sent_again.status == again[said["outcome"]]


def test_calls_in_flight_are_answered_when_the_server_stops(
    enter: Enter, redis_client: redis.Redis
) -> None:
    door = enter("express")
    with LiveSite() as own:
        here = Door(own.url, door.tokens)
        assert here.ask("enqueue", task()).status == 201
        redis_client.client_pause(800, all=True)
        with ThreadPoolExecutor(8) as pool:
            sent = [pool.submit(here.ask, "enqueue", task(n)) for n in range(8)]
            time.sleep(0.3)  # not for correctness: so that they are likely in flight
            own.stop()
            replies = [each.result() for each in sent]

    assert Counter(each.status for each in replies) == {201: 8}
    assert bus.stats(TOPIC)["accepted"] == 9


CLAIM = f"topics/{TOPIC}/claim"


def claim_of(door: Door, token: str = "agent", **more: Any) -> Reply:
    body = json.dumps({"agent_id": "a", **more}).encode()
    return door.ask(CLAIM, body, token=token)


def test_a_task_goes_its_whole_way_through_the_lane(enter: Enter) -> None:
    door = enter("express")
    bus.register_agent("a", "http")
    task_id = door.ask("enqueue", task(7)).json()["id"]

    [taken] = claim_of(door).json()["deliveries"]
    fence = {name: taken[name] for name in ("topic", "id", "fence")}
    body = json.dumps({"deliveries": [{**fence, "result": "ok"}]}).encode()
    told = [door.ask("deliveries/complete", body, token="agent") for _ in range(2)]

    assert (taken["id"], taken["task"]) == (task_id, 7)
    outcomes = [each.json()["deliveries"][0]["outcome"] for each in told]
    assert outcomes == ["ok", "duplicate"]
    assert bus.get_task(task_id).result == "ok"
    assert door.in_the_lane == 4


def test_a_claim_that_waits_gets_what_comes(enter: Enter) -> None:
    door = enter("express")
    bus.register_agent("a", "http")
    with ThreadPoolExecutor(1) as pool:
        began = time.monotonic()
        reply = pool.submit(claim_of, door, wait_s=20)
        time.sleep(0.3)  # not for correctness: so that it is likely to be waiting
        task_id = door.ask("enqueue", task()).json()["id"]

        deliveries = reply.result().json()["deliveries"]

    assert [each["id"] for each in deliveries] == [task_id]
    assert time.monotonic() - began < 15


def test_who_calls_all_the_time_does_not_wait_for_a_look_at_his_token(
    enter: Enter, site: LiveSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bus import accounts
    from bus.api import express

    text = enter("express").tokens["operator"].encode()
    who, mark, go = accounts.principal_of(text), accounts._mark(text), threading.Event()
    assert who is not None
    until = time.monotonic() + 500
    accounts._known[mark] = (who, until)
    monkeypatch.setattr(express, "_AHEAD_S", 1000)  # so that it is time to look again
    monkeypatch.setattr(accounts, "_used", lambda *_: go.wait(60))  # a slow database

    seen = [site.call(express.known(text), 60) for _ in range(3)]

    assert seen == [who] * 3
    assert (accounts._known[mark], len(express._looking)) == ((who, until), 1)
    go.set()
    wait_until(lambda: not express._looking, 30)
    assert accounts._known[mark][1] < until


def test_a_claim_that_waits_takes_nothing_once_its_token_is_revoked(
    enter: Enter,
) -> None:
    from bus import accounts

    door = enter("express")
    bus.register_agent("a", "http")
    token, door.tokens["brief"] = accounts.create_token("contract brief", "agent")
    assert claim_of(door, "brief").status == 200
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(claim_of, door, "brief", wait_s=20)
        wait_until(lambda: accounts.remembered(door.tokens["brief"]))
        rows: Any = models.Token.objects.filter(pk=token.pk)
        rows._raw_delete("default")
        wait_until(lambda: not accounts.remembered(door.tokens["brief"]), 10)
        task_id = door.ask("enqueue", task()).json()["id"]

        refused = reply.result()

    assert (refused.status, refused.json()["code"]) == (401, "invalid_token")
    assert refused.header("www-authenticate") == "Bearer"
    assert bus.get_task(task_id).state == "waiting"


@pytest.mark.parametrize("name", ["express", "views"])
def test_a_claim_that_waits_took_nothing_where_the_database_goes_away(
    enter: Enter, site: LiveSite, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from bus import accounts

    def away(text: Any, **_: Any) -> Any:
        raise OperationalError("no such file")

    door = enter(name)
    bus.register_agent("a", "http")
    with ThreadPoolExecutor(1) as pool:
        reply = pool.submit(claim_of, door, wait_s=30)
        wait_until(lambda: waits(site), 10)
        monkeypatch.setattr(accounts, "believed", lambda text: (None, 0.0))
        monkeypatch.setattr(accounts, "principal_of", away)
        task_id = bus.enqueue_task(TOPIC, 1)

        told = reply.result()

    assert (told.status, told.json()["code"]) == (503, "database_unavailable")
    assert told.json()["outcome"] == "not_written"
    assert bus.get_task(task_id).state == "waiting"


def waits(site: LiveSite) -> int:
    """How many claims wait in the web server."""

    async def count() -> int:
        found = arrivals.shared()._topics.get(TOPIC)
        return 0 if found is None else len(found.asleep)

    return site.call(count())


@pytest.fixture
def over_https(settings: Settings) -> Iterator[Settings]:
    """A site that sends whoever comes over http to https."""
    settings.SECURE_SSL_REDIRECT = True
    settings.SECURE_HSTS_SECONDS = 60
    head._written_over.cache_clear()
    yield settings
    head._written_over.cache_clear()


def test_a_site_over_https_answers_no_call_over_http(
    enter: Enter, over_https: Settings
) -> None:
    """What Django says then it was told before this test, so only the lane is asked."""
    door = enter("express")

    door.ask("enqueue", task())

    assert door.in_the_lane == 0


def test_it_believes_the_header_of_its_proxy(
    enter: Enter, over_https: Settings
) -> None:
    over_https.SECURE_PROXY_SSL_HEADER = ("HTTP_X_OVER", "tls")
    door = enter("express")

    secure = door.ask("enqueue", task(), [("X-Over", "tls, plain")])
    door.ask("enqueue", task(), [("X-Over", "plain")])

    assert (secure.status, door.in_the_lane) == (201, 1)
    assert secure.header("strict-transport-security") == "max-age=60"


def test_what_is_refused_in_front_of_such_a_site_is_refused(
    enter: Enter, over_https: Settings
) -> None:
    reply = enter("express").ask("enqueue", b" " * 2_000_000)

    assert (reply.status, reply.json()["code"]) == (413, "body_too_large")
    assert reply.header("x-content-type-options") == "nosniff"


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heads have a moment only."""
    monkeypatch.setattr(heads, "HEAD_TIMEOUT_S", 0.3)


def said_to(site: LiveSite, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What the server says until it hangs up."""
    host, port = site.url.removeprefix("http://").split(":")
    said = b""
    with socket.create_connection((host, int(port)), timeout=60) as line:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                line.sendall(part)
                time.sleep(pause_s)
        with contextlib.suppress(ConnectionError):
            while part := line.recv(65_536):
                said += part
    return said


@pytest.mark.usefixtures("hurried")
def test_a_head_that_does_not_end_is_given_up(site: LiveSite) -> None:
    assert said_to(site, b"POST /api HTTP/1.1\r\nHost: a\r\nX: ").startswith(
        b"HTTP/1.1 408 "
    )


def dripped(site: LiveSite, head: bytes) -> tuple[bytes, bool]:
    """What the server says to a head that never ends; whether it hangs up."""
    host, port = site.url.removeprefix("http://").split(":")
    said, until = b"", time.monotonic() + 5 * PATIENCE
    with socket.create_connection((host, int(port)), timeout=0.1) as line:
        line.sendall(head)
        while time.monotonic() < until:
            with contextlib.suppress(ConnectionError):
                line.sendall(b"a")  # what was said before is still to be read
            try:
                part = line.recv(65_536)
            except TimeoutError:
                continue  # nothing said for as long as a drop takes
            except ConnectionError:
                return said, True
            if not part:
                return said, True
            said += part
    return said, False


@pytest.mark.usefixtures("hurried")
def test_a_head_that_drips_is_given_up(site: LiveSite) -> None:
    """Its time is that of the whole, not that of a drop."""
    said, ended = dripped(site, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ")

    assert said.startswith(b"HTTP/1.1 408 ")
    assert ended


@pytest.mark.usefixtures("hurried")
def test_who_says_nothing_is_hung_up_on(site: LiveSite) -> None:
    assert said_to(site) == b""


@pytest.mark.usefixtures("hurried")
def test_the_second_head_has_its_deadline_too(site: LiveSite) -> None:
    whole = f"GET {ROOT}/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()

    said = said_to(site, whole, b"GET / HT", pause_s=0.2)

    assert said.startswith(b"HTTP/1.1 200 ")
    assert b"HTTP/1.1 408 " in said


@pytest.mark.usefixtures("hurried")
def test_between_two_calls_a_connection_may_rest(site: LiveSite) -> None:
    whole = f"GET {ROOT}/health/live HTTP/1.1\r\nHost: localhost\r\n".encode()

    said = said_to(
        site, whole + b"\r\n", whole + b"Connection: close\r\n\r\n", pause_s=0.8
    )

    assert said.count(b"HTTP/1.1 200 ") == 2


def test_half_a_head_behind_many_whole_calls_is_no_large_head(site: LiveSite) -> None:
    whole = f"GET {ROOT}/health/live HTTP/1.1\r\nHost: localhost\r\n".encode()
    calls = [whole + b"\r\n"] * 3 + [whole + b"X: %b\r\n\r\n" % (b"y" * 30_000)] * 4

    said = said_to(
        site, b"".join(calls) + whole, b"Connection: close\r\n\r\n", pause_s=0.2
    )

    assert said.count(b"HTTP/1.1 200 ") == 8, said[-300:]


def test_a_head_without_end_is_refused(site: LiveSite) -> None:
    endless = b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 1_000_000

    assert said_to(site, endless).startswith(b"HTTP/1.1 431 ")
