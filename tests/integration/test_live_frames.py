"""The live socket over a real web server: what comes."""

from __future__ import annotations

import json
import time

import pytest
import redis

import bus
from bus import agents
from dashboard import consumers, topic_page, viewers
from tests.support.desk import Desk
from tests.support.sockets import Door, signed_in, token
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
]

SEEN = {"agents", "topics", "results", "dead"}


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
