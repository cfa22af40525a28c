"""The live socket over a real web server: who may, what is refused, what comes."""

from __future__ import annotations

import gc
import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
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
from websockets.sync.client import ClientConnection, connect

import bus
from bus import accounts, agents
from bus.home import web
from dashboard import consumers, topic_page, viewers
from tests.support.desk import Desk
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]


SEEN = {"agents", "topics", "results", "dead"}


class Page:
    """One socket, as a page or another client holds it."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    def send(self, frame: object) -> None:
        self.socket.send(frame if isinstance(frame, str) else json.dumps(frame))

    def resume(self, **fields: Any) -> Page:
        self.send({"op": "resume", "after": {}, "topics": None, **fields})
        return self

    def next(self, *ops: str, timeout_s: float = 10) -> dict[str, Any]:
        """The next frame, of one of these kinds if given."""
        until = time.monotonic() + timeout_s
        while True:
            frame = json.loads(self.socket.recv(max(0.0, until - time.monotonic())))
            if not ops or frame["op"] in ops:
                return dict(frame)

    def end(self, timeout_s: float = 10) -> tuple[int, str]:
        """The close code, and the code of the error frame before it."""
        code = ""
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            while True:
                frame = json.loads(self.socket.recv(timeout_s))
                code = frame["code"] if frame["op"] == "error" else code
        assert closed.value.rcvd is not None
        return closed.value.rcvd.code, code


Door = Callable[..., Any]


@pytest.fixture
def door(live_site: LiveSite) -> Door:
    """Opens sockets: `door(token=…)`, `door(session=client)`."""

    @contextmanager
    def opened(
        token: str = "", session: Client | None = None, queue: int = 16, **headers: str
    ) -> Iterator[Page]:
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if session is not None:
            cookie = session.cookies[django_settings.SESSION_COOKIE_NAME]
            headers["Cookie"] = f"{cookie.key}={cookie.value}"
        url = live_site.url.replace("http", "ws", 1) + "/ws/feed"
        with connect(
            url, additional_headers=headers, compression=None, max_queue=queue
        ) as socket:
            yield Page(socket)

    return opened


def token(role: str = "viewer", topics: tuple[str, ...] = ()) -> str:
    return accounts.create_token(f"a {role}", role, topics)[1]


def signed_in(role: str) -> tuple[User, Client]:
    user = accounts.ensure_user(f"the-{role}", role or "viewer", "a-password-1")
    client = Client()
    client.force_login(user)
    return user, client


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


# --- what comes


def test_rows_and_letters_come_as_they_happen(door: Door, test_topic: str) -> None:
    desk = Desk(test_topic)
    with door(token()) as page:
        page.resume(topics=[test_topic], regions=["results", "dead"]).next("live")
        done = bus.enqueue_task(test_topic, {"n": 1})
        desk.complete(desk.one(), result='{"sum":2}')
        row = page.next("results")["rows"][0]
        dead = bus.enqueue_task(test_topic, {"n": 2})
        desk.fail(desk.one(), message="no ink", final=True)
        letter = page.next("dead")["rows"][0]
        bus.replay(dead, test_topic)
        gone = page.next("gone")

    assert (row["id"], row["result"]) == (done, {"sum": 2})
    assert (letter["id"], letter["error"]["message"]) == (dead, "no ink")
    assert letter["attempts"][0]["agent"] == "desk"
    assert gone["ids"] == [dead]


@pytest.mark.parametrize("html", [True, False])
def test_only_results_that_fit_come_and_the_cursor_goes_on_over_the_others(
    door: Door, test_topic: str, html: bool
) -> None:
    _, client = signed_in("operator")
    only = {"q": "n=2", "state": "done"}
    desk = Desk(test_topic)
    with door(session=client) as page:
        page.resume(topics=[test_topic], html=html, only=only, regions=["results"])
        page.next("live")
        ids = bus.enqueue_many(test_topic, [{"n": 1}, {"n": 2}])
        desk.complete(desk.one())
        first = page.next("results")
        desk.complete(desk.one())
        second = page.next("results")

    assert first["rows"] == [] and first["after"].keys() == second["after"].keys()
    assert [row["id"] for row in second["rows"]] == ids[1:]


def test_pages_get_the_very_rows_that_pages_show(door: Door, test_topic: str) -> None:
    _, client = signed_in("operator")
    desk = Desk(test_topic)
    with door(session=client) as page:
        page.resume(topics=[test_topic], html=True, regions=["results", "dead"])
        page.next("live")
        bus.enqueue_task(test_topic, {"n": 1})
        desk.complete(desk.one(), result='"<script>alert(1)</script>"')
        row = page.next("results")["rows"][0]
        bus.enqueue_task(test_topic, {"n": 2})
        desk.fail(desk.one(), final=True)
        letter = page.next("dead")["rows"][0]

    assert row["html"].strip() in client.get("/results/").content.decode()
    assert letter["html"].strip() in client.get("/dead/").content.decode()
    assert "<script>" not in row["html"]
    assert f'data-entry="{letter["entry_id"]}"' in letter["html"]


def test_a_viewers_letters_have_no_replay(door: Door, test_topic: str) -> None:
    _, viewer = signed_in("viewer")
    _, operator = signed_in("operator")
    desk = Desk(test_topic)
    with door(session=viewer) as theirs, door(session=operator) as ours:
        for page in (theirs, ours):
            page.resume(html=True, regions=["dead"]).next("live")
        bus.enqueue_task(test_topic, 1)
        desk.fail(desk.one(), final=True)
        shown = [page.next("dead")["rows"][0]["html"] for page in (theirs, ours)]

    assert ["/replay" in html for html in shown] == [False, True]


def test_regions_come_when_they_change(door: Door, test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    with door(token()) as page:
        page.resume(regions=["agents", "topics", "tiles"])
        first = {
            frame["op"]: frame for frame in (page.next("topics"), page.next("tiles"))
        }
        bus.enqueue_task(test_topic, 2)
        second = page.next("topics")
        bus.register_agent("by-hand", "test", 60)
        while not (agents := page.next("agents")["agents"]):
            continue

    assert first["topics"]["topics"][0]["waiting"] == 1
    assert first["tiles"]["totals"]["waiting"] == 1
    assert second["topics"][0]["waiting"] == 2
    assert agents[0]["agent_id"] == "by-hand"


def test_one_topic_is_told_whole_and_then_what_changed(
    door: Door, test_topic: str
) -> None:
    _, client = signed_in("operator")
    desk, first = Desk(test_topic), bus.enqueue_task(test_topic, {"n": 1})
    with door(session=client) as page, door(token()) as other:
        other.resume(topics=[test_topic], regions=["topic"])
        facts = other.next("topic")
        page.resume(topics=[test_topic], html=True, regions=["topic"])
        parts = page.next("topic")["parts"]
        desk.complete(desk.one())
        bus.pause(test_topic)
        while "note" not in (changed := page.next("topic")["parts"]):
            continue

    assert set(parts) == set(topic_page.PARTS)
    assert first in parts["waiting"]
    assert "Pause topic" in parts["switch"]
    assert "paused" in changed["note"] and "Resume topic" in changed["switch"]
    assert "agents" not in changed, "what stayed as it was is not told again"
    assert (facts["row"]["topic"], facts["row"]["waiting"]) == (test_topic, 1)
    assert [task["id"] for task in facts["waiting"]] == [first]


def test_the_parts_of_a_topic_are_those_of_its_page(
    door: Door, test_topic: str
) -> None:
    _, client = signed_in("operator")
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(3))
    desk.fail(desk.one(), final=True)
    with door(session=client) as page:
        page.resume(topics=[test_topic], html=True, regions=["topic"])
        parts = page.next("topic")["parts"]
    shown = client.get(f"/topics/{test_topic}/").content.decode()

    for name in ("note", "switch", "groups", "waiting", "facts"):
        assert parts[name].strip() in shown, name


def test_a_topic_that_is_not_there_is_told_as_gone(door: Door, test_topic: str) -> None:
    with door(token()) as page:
        page.resume(topics=["never-sent-to"], regions=["topic"])

        assert page.next("topic")["row"] is None


def test_a_bound_token_sees_nothing_of_other_topics(
    door: Door, test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task("shop-a", 1)
    bus.enqueue_task("bank", 1)
    shop, bank = Desk("shop-a"), Desk("bank")
    with door(token(topics=("shop-",))) as page:
        page.resume().next("live")
        topics = page.next("topics")["topics"]
        bank.complete(bank.one())
        shop.complete(shop.one())
        frame = page.next("results", "tiles")

    assert [row["topic"] for row in topics] == ["shop-a"]
    assert [row["topic"] for row in frame["rows"]] == ["shop-a"]


def test_no_frame_for_a_bound_token_names_a_topic_of_others(
    door: Door, test_topic: str, redis_client: redis.Redis
) -> None:
    theirs = "bank-of-another-tenant"
    shares = {name: {"slots": 1, "in_flight": 0} for name in ("shop-a", theirs)}
    record = {**agents.new_record("both-1", "test", None), "per_topic": shares}
    agents.register("both-1", "both-1", 600, {**record, "topics": [*shares]})
    desks = [Desk("shop-a"), Desk(theirs)]
    texts = []
    with door(token(topics=("shop-",))) as all_, door(token(topics=("shop-",))) as one:
        all_.resume().next("live")
        one.resume(topics=["shop-a"])
        for desk in reversed(desks):  # theirs first: ours tells that it is through
            bus.enqueue_many(desk.topic, [1, 2])
            desk.complete(desk.one())
            desk.fail(desk.one(), final=True)
        for page, ops in ((all_, SEEN), (one, {*SEEN, "topic"})):
            seen: set[str] = set()
            until = time.monotonic() + 30
            while not seen >= ops:
                text = str(page.socket.recv(max(0.0, until - time.monotonic())))
                seen.add(json.loads(text)["op"])
                texts.append(text)

    assert not [text for text in texts if theirs in text]
    assert [text for text in texts if '"both-1"' in text]


def test_a_socket_resumes_by_its_cursor(door: Door, test_topic: str) -> None:
    desk, ids = Desk(test_topic), bus.enqueue_many(test_topic, range(20))
    told: list[str] = []
    text = token()
    with door(text) as page:
        page.resume(topics=[test_topic], regions=["results"]).next("live")
        desk.complete(*desk.claim(8))
        frame = page.next("results")
        told += [row["id"] for row in frame["rows"]]
    desk.complete(*desk.claim(8))
    with door(text) as page:
        page.resume(topics=[test_topic], regions=["results"], after=frame["after"])
        while len(told) < 16:
            told += [row["id"] for row in page.next("results")["rows"]]
        page.next("live")
        desk.complete(*desk.claim(8))
        while len(told) < 20:
            told += [row["id"] for row in page.next("results")["rows"]]

    assert told == ids


def test_a_page_that_takes_nothing_is_let_go_and_takes_nobody_with_it(
    door: Door, test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(consumers, "_SEND_S", 0.5)
    big = json.dumps("x" * 190_000)
    desk, text = Desk(test_topic), token()

    def listening() -> int:
        return sum(viewers.open_sockets.values())

    with door(text, queue=1) as stuck, door(text) as other:
        for page in (stuck, other):
            page.resume(topics=[test_topic], regions=["results"]).next("live")
        before, got = listening(), 0
        for _ in range(5):  # 19 MB: more than all buffers on the way take
            bus.enqueue_many(test_topic, range(20))
            desk.complete(*desk.claim(20), result=big)
            goal = got + 20
            while got < goal:
                got += len(other.next("results")["rows"])
        wait_until(lambda: listening() == 1)

    assert (before, got) == (2, 100)
