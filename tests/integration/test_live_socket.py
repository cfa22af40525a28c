"""The live socket over a real web server: who may, and what is refused."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import websockets.exceptions
from django.conf import settings as django_settings
from django.contrib.auth.models import Group, User
from django.db import OperationalError
from django.test import Client
from pytest_django import Settings
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import (
    WebSocketsSansIOProtocol,
)

import bus
from bus import accounts
from bus.home import web
from dashboard import consumers, viewers
from tests.support.desk import Desk
from tests.support.site import LiveSite
from tests.support.sockets import Door, signed_in, token
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]


# --- who may listen


def test_nobody_is_told_to_sign_in(door: Door) -> None:
    with door() as page:
        assert page.end() == (4401, "not_authenticated")


@pytest.mark.parametrize("text", ["nonsense", "\xe9\xff", "", "a" * 500])
def test_a_wrong_token_is_nobody(door: Door, text: str) -> None:
    with door(Authorization=f"Bearer {text}") as page:
        assert page.end() == (4401, "not_authenticated")


@pytest.mark.parametrize("text", ["nonsense", "x" * 32, "%00", "../../etc/passwd"])
def test_a_made_up_session_is_nobody(door: Door, text: str) -> None:
    with door(Cookie=f"{django_settings.SESSION_COOKIE_NAME}={text}") as page:
        assert page.end() == (4401, "not_authenticated")


def test_agents_do_not_read(door: Door) -> None:
    with door(token("agent")) as page:
        assert page.end() == (4403, "forbidden")


def test_a_user_without_a_role_does_not_read(door: Door) -> None:
    user, client = signed_in("viewer")
    user.groups.clear()

    with door(session=client) as page:
        assert page.end() == (4403, "forbidden")


def test_a_token_listens(door: Door, test_topic: str) -> None:
    with door(token()) as page:
        assert page.resume(regions=["results"]).next()["op"] == "live"


def test_a_session_listens(door: Door, test_topic: str) -> None:
    _, client = signed_in("viewer")

    with door(session=client) as page:
        assert page.resume(regions=["results"]).next()["op"] == "live"


def test_a_page_of_another_site_is_not_even_accepted(
    door: Door, live_site: LiveSite
) -> None:
    _, client = signed_in("admin")

    with (
        pytest.raises(websockets.exceptions.InvalidStatus) as refused,
        door(session=client, Origin="http://evil.example"),
    ):
        pass

    assert refused.value.response.status_code == 403


def is_signed_out(user: User, client: Client) -> None:
    client.logout()


def has_no_role(user: User, client: Client) -> None:
    user.groups.clear()


def reads_less(user: User, client: Client) -> None:
    """Rows have buttons that are no longer for this user."""
    user.groups.set(Group.objects.filter(name="viewer"))


def is_deactivated(user: User, client: Client) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


@pytest.mark.parametrize(
    ("change", "end"),
    [
        (is_signed_out, (4401, "not_authenticated")),
        (is_deactivated, (4401, "not_authenticated")),
        (has_no_role, (4403, "forbidden")),
        (reads_less, (4403, "role_changed")),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_socket_ends_once_its_user_may_no_longer_what_it_shows(
    change: Callable[[User, Client], None],
    end: tuple[int, str],
    door: Door,
    settings: Settings,
    test_topic: str,
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.2
    user, client = signed_in("operator")

    with door(session=client) as page:
        page.resume(regions=["results"]).next("live")
        change(user, client)

        assert page.end() == end


def test_a_socket_ends_when_its_token_is_revoked(
    door: Door, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.2
    text = token()

    with door(text) as page:
        page.resume(regions=["results"]).next("live")
        accounts.revoke_token(text[:15])

        assert page.end() == (4401, "not_authenticated")


def test_a_socket_lives_on_while_the_database_is_away(
    door: Door,
    settings: Settings,
    test_topic: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MESH_FEED_RECHECK_S = 0.1
    looked = []

    async def away(_: Any) -> None:
        looked.append(1)
        raise OperationalError("the database is away")

    with door(token()) as page:
        page.resume(regions=["results"]).next("live")
        monkeypatch.setattr(viewers, "aviewer", away)
        wait_until(lambda: len(looked) > 1, 10)
        bus.enqueue_task(test_topic, 1)
        desk = Desk(test_topic)
        desk.complete(desk.one())
        page.next("results")


def test_who_comes_while_the_database_is_away_is_to_come_back_later(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = token()

    async def away(_: Any) -> None:
        raise OperationalError("at db.example:5432")

    monkeypatch.setattr(viewers, "aviewer", away)

    with door(text) as page:
        said = page.next("error")
        code, _ = page.end()

    assert (code, said["code"]) == (1013, "database_unavailable")
    assert "db.example" not in said["detail"]


def test_sockets_per_user_are_limited_and_closed_ones_do_not_count(
    door: Door, settings: Settings, test_topic: str
) -> None:
    settings.MESH_FEED_SOCKETS_PER_USER = 2
    mine, other = token(), token("operator")

    with door(mine) as first, door(mine) as second:
        first.resume(regions=["results"]).next("live")
        second.resume(regions=["results"]).next("live")
        with door(mine) as third:
            assert third.end() == (4429, "too_many_sockets")
        with door(other) as somebody:
            somebody.resume(regions=["results"]).next("live")
    time.sleep(0.2)
    with door(mine) as again:
        again.resume(regions=["results"]).next("live")


# --- the first frame


RESULTS = bus.result_stream("demo")


@pytest.mark.parametrize(
    "frame",
    [
        "",
        "no json",
        "[]",
        "null",
        '"resume"',
        "[" * 60_000,
        '{"op":"resume","op":"other"}',
        {},
        {"op": "subscribe"},
        {"op": ["resume"]},
        {"op": "resume", "after": []},
        {"op": "resume", "after": {RESULTS: 1}},
        {"op": "resume", "after": {RESULTS: None}},
        {"op": "resume", "after": {RESULTS: "$"}},
        {"op": "resume", "after": {RESULTS: "1-0; FLUSHALL"}},
        {"op": "resume", "after": {RESULTS: "99999999999999999999-0"}},
        {"op": "resume", "after": {"stream:results:demo": "0-0"}},
        {"op": "resume", "after": {"demo": "0-0"}},
        {"op": "resume", "after": {bus.task_stream("demo"): "0-0"}},
        {"op": "resume", "after": {bus.result_stream("demo") + "}": "0-0"}},
        {"op": "resume", "topics": "demo"},
        {"op": "resume", "topics": [1]},
        {"op": "resume", "topics": [None]},
        {"op": "resume", "topics": ["UPPER"]},
        {"op": "resume", "topics": ["agents"]},
        {"op": "resume", "topics": [f"t{n}" for n in range(1_001)]},
        {"op": "resume", "html": 1},
        {"op": "resume", "regions": ["passwords"]},
        {"op": "resume", "regions": [["results"]]},
        {"op": "resume", "regions": ["topic"]},
        {"op": "resume", "regions": ["topic"], "topics": ["a", "b"]},
        {"op": "resume", "most": 0},
        {"op": "resume", "most": True},
        {"op": "resume", "only": []},
        {"op": "resume", "only": {"state": "dead"}},
        {"op": "resume", "only": {"q": 1}},
        {"op": "resume", "only": {"topic": "demo"}},
        {"op": "resume", "more": 1},
    ],
    ids=lambda frame: json.dumps(frame)[:60],
)
def test_what_is_no_resume_frame_is_refused_with_a_sentence(
    door: Door, frame: object
) -> None:
    with door(token()) as page:
        page.send(frame)

        assert page.end() == (4400, "invalid_frame")


def test_bytes_are_refused(door: Door) -> None:
    with door(token()) as page:
        page.socket.send(b"\x00\xff")

        assert page.end() == (4400, "invalid_frame")


@pytest.fixture
def as_served(live_site: LiveSite) -> Iterator[logging.Logger]:
    """Sockets as the web process serves them, and its log."""
    live_site.uvicorn.ws_protocol_class = WebSocketsSansIOProtocol
    loggers = [logging.getLogger(name) for name in ("django.request", "uvicorn.error")]
    before = [(each, each.level, each.filters[:]) for each in loggers]
    web.log_own_faults()
    yield loggers[1]
    for each, level, filters in before:
        each.setLevel(level)
        each.filters = filters


def test_what_is_no_utf_8_is_closed_with_1007_and_is_no_fault_of_ours(
    door: Door, as_served: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    with door(token()) as page:
        page.socket.send(b'{"op": "\xff\xfe"}', text=True)

        assert page.end() == (1007, "")

    as_served.error("Exception in ASGI application")  # what is ours is still told
    assert [each.message for each in caplog.records] == [
        "Exception in ASGI application"
    ]


@pytest.mark.parametrize("when", ["first", "last"])
def test_who_hangs_up_while_a_frame_is_sent_is_no_fault_of_ours(
    door: Door,
    live_site: LiveSite,
    as_served: logging.Logger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    when: str,
) -> None:
    """The last frame is the one that says why a socket is closed."""
    tried = []

    async def hung_up(self: object, text: str) -> None:
        tried.append(text)
        raise ClientDisconnected

    monkeypatch.setattr(consumers.FeedConsumer, "send", hung_up)
    with door(token()) as page:
        page.resume() if when == "first" else page.send("nonsense")
        wait_until(lambda: tried)
        wait_until(lambda: not viewers.open_sockets)
    wait_until(lambda: not live_site.state.tasks)
    gc.collect()  # a task that failed with nobody looking tells it when it goes

    assert [*filter(_is_loud, caplog.records)] == []


def _is_loud(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def test_a_frame_beyond_64_kib_is_refused(door: Door) -> None:
    with door(token()) as page:
        page.send({"op": "resume", "after": {"x" * 70_000: "1-0"}})

        code, _ = page.end()
        assert code == 1009


def test_who_says_nothing_is_not_waited_for(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "_FIRST_FRAME_S", 0.2)

    with door(token()) as page:
        assert page.end() == (4408, "no_resume")


def test_without_a_server_it_is_to_come_back_later(
    door: Door, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    text = token()
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{unused_tcp_port}/0")

    with door(text) as page:
        said = page.resume().next("error")
        code, _ = page.end()

    assert (code, said["code"]) == (1013, "bus_unavailable")
    assert str(unused_tcp_port) not in said["detail"], "where it is, is for the log"


def test_a_mistake_of_ours_is_told_as_that_and_no_more(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def mistaken(*_: Any) -> None:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(consumers.painting, "shared", mistaken)

    with door(token()) as page:
        page.resume()
        frame = page.next("error")
        assert page.end()[0] == 1011

    assert frame["code"] == "internal_error" and "swordfish" not in str(frame)
    assert "swordfish" in caplog.text


def test_there_is_no_second_frame(door: Door, test_topic: str) -> None:
    with door(token()) as page:
        page.resume(regions=["results"]).next("live")
        page.resume()

        assert page.end() == (4400, "invalid_frame")


def test_a_topic_outside_those_of_a_token_is_refused(door: Door) -> None:
    with door(token(topics=("shop-",))) as page:
        page.resume(topics=["bank"])

        assert page.end() == (4403, "forbidden")
