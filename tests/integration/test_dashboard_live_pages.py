"""What pages have so that they stay current, and how they hold many topics."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from django.db import OperationalError
from django.test import Client

import bus
from bus import abreast, agents, keys
from dashboard import painting, queries, views
from tests.support.bulk import dead
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(test_topic: str) -> Client:
    queries.forget_checks()
    return signed_in("viewer")


def topics(count: int) -> list[str]:
    names = [f"many-{n:03}" for n in range(count)]
    for name in names:
        bus.set_limits(name)
    return names


# --- the badge


def test_every_page_tells_how_many_letters_there_are(
    test_topic: str, viewer: Client
) -> None:
    dead(test_topic, 2)
    dead(f"{test_topic}-other", 1)

    for path in ("/", "/results/", "/settings/", "/dead/", f"/topics/{test_topic}/"):
        page = viewer.get(path)
        looked_at(page)
        assert 'title="3 dead letters">3<' in page.content.decode(), path


def test_without_letters_there_is_no_badge(viewer: Client) -> None:
    assert 'class="badge"' not in viewer.get("/").content.decode()


def test_pages_that_need_no_redis_come_without_it(
    viewer: Client, failure_simulator: Any
) -> None:
    failure_simulator.unreachable()

    page = viewer.get("/settings/")

    assert page.status_code == 200
    assert 'class="badge"' not in page.content.decode()


# --- a letter, an agent


def test_a_letters_page_hears_of_its_own_letter(
    test_topic: str, viewer: Client
) -> None:
    [task_id] = dead(test_topic, 1)
    entry = bus.get_dead(task_id, test_topic).entry_id

    text = viewer.get(f"/dead/{task_id}/").content.decode()

    assert f'data-live="dead" data-task="{task_id}" data-entry="{entry}"' in text
    assert f'"topics": ["{test_topic}"]' in text


def test_an_agents_page_is_asked_for_its_present_part(viewer: Client) -> None:
    bus.register_agent("a", "t")
    whole = viewer.get("/agents/a/").content.decode()

    part = viewer.get("/agents/a/", headers={"HX-Request": "true"}).content.decode()

    assert 'hx-get="/agents/a/"' in whole and "<html" in whole
    assert part.startswith('<div id="now"') and "<html" not in part
    bus.deregister_agent("a")
    gone = viewer.get("/agents/a/", headers={"HX-Request": "true"}).content.decode()
    assert "Gone." in gone
    # It may come back, but most do not.
    assert 'hx-trigger="every 2s"' in part and 'hx-trigger="every 30s"' in gone


def serving(agent_id: str, names: list[str]) -> None:
    record = {"agent_id": agent_id, "agent_type": "mesh", "meta": {}, "topics": names}
    agents.register(agent_id, f"{agent_id}#00000001", 600, record)


def test_an_agents_page_reads_few_results_of_its_topics_at_once(
    test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{test_topic}-{at}" for at in range(10)]
    for name in names:
        bus.enqueue_many(name, range(10))
        desk = Desk(name)
        desk.complete(*desk.claim(10))
    serving("desk", names)
    read, asked = abreast.results, []

    def results(asks: Any) -> Any:
        asked.append(sum(ask.count for ask in asks))
        return read(asks)

    monkeypatch.setattr(abreast, "results", results)
    page = viewer.get("/agents/desk/")

    assert len(page.context["done"].items) == 20
    assert asked[0] <= 25


def test_an_agent_without_results_says_among_how_many_it_looked(
    test_topic: str, viewer: Client
) -> None:
    serving("idle", [test_topic])
    bus.set_limits(test_topic)
    before = looked_at(viewer.get("/agents/idle/")).text
    bus.enqueue_many(test_topic, range(3))
    desk = Desk(test_topic)
    desk.complete(*desk.claim(3))

    after = looked_at(viewer.get("/agents/idle/")).text

    assert "None." in before
    assert "None among the 3 results of its topics." in after


# --- many topics


def test_more_than_two_hundred_topics_come_page_by_page(viewer: Client) -> None:
    names = topics(201)

    first = viewer.get("/topics/")
    seen = [row["topic"] for row in first.context["topics"]]
    second = viewer.get(f"/topics/?after={seen[-1]}")
    seen += [row["topic"] for row in second.context["topics"]]
    last = viewer.get(f"/topics/?after={seen[-1]}")
    seen += [row["topic"] for row in last.context["topics"]]

    assert seen == names
    assert "First page" not in looked_at(first).text
    assert 'data-live="topics"' not in first.content.decode()
    assert "First page" in looked_at(last).text and last.context["next"] is None


def test_up_to_two_hundred_are_on_one_live_page(viewer: Client) -> None:
    topics(200)

    page = viewer.get("/topics/")

    assert len(page.context["topics"]) == 200
    assert 'data-live="topics"' in page.content.decode()


def test_topics_are_found_by_a_part_of_their_name(viewer: Client) -> None:
    topics(12)

    page = viewer.get("/topics/?q=-01")
    none = viewer.get("/topics/?q=<b>")

    assert [row["topic"] for row in page.context["topics"]] == ["many-010", "many-011"]
    assert "No topic with “<b>”" in looked_at(none).text


def test_a_list_over_very_many_topics_says_what_it_leaves_out(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dashboard import lists

    monkeypatch.setattr(lists, "TOPICS_MOST", 2)
    for n in range(3):
        dead(f"many-{n}", n + 1)

    page = viewer.get("/dead/")

    assert "choose one of the other 1" in looked_at(page).text
    assert {letter.topic for letter in page.context["page"].items} == {
        "many-1",
        "many-2",
    }
    assert keys.dead_stream("many-0") not in page.context["live"]["after"]


# --- many agents


def test_many_agents_come_page_by_page_what_needs_attention_first(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_AGENTS", 3)
    for n in range(7):
        bus.register_agent(f"agent-{n}", "t", 600)
    bus.deregister_agent("agent-1")
    agents.drain_agent("agent-5")

    first = viewer.get("/agents/")
    seen = [row["agent_id"] for row in first.context["agents"]]
    second = viewer.get(f"/agents/?after={first.context['next']}")
    seen += [row["agent_id"] for row in second.context["agents"]]
    last = viewer.get(f"/agents/?after={second.context['next']}")
    seen += [row["agent_id"] for row in last.context["agents"]]

    assert seen == [f"agent-{n}" for n in (5, 0, 2, 3, 4, 6, 1)]
    assert 'data-live="agents" data-most="3"' in first.content.decode()
    assert 'data-live="agents"' not in second.content.decode()
    assert "First page" in looked_at(last).text and last.context["next"] is None
    assert "6 agents" in looked_at(last).title


def test_agents_are_found_by_a_part_of_their_id(viewer: Client) -> None:
    for n in range(12):
        bus.register_agent(f"agent-{n:02}", "t", 600)

    page = viewer.get("/agents/?q=t-1")
    none = viewer.get("/agents/?q=<b>")

    found = [row["agent_id"] for row in page.context["agents"]]
    assert found == ["agent-10", "agent-11"]
    assert "No agent with “<b>”" in looked_at(none).text


@pytest.mark.parametrize("place", ["x", "x.agent", "-1.agent", "¹.agent"])
def test_a_place_among_agents_that_is_none_is_not_found(
    viewer: Client, place: str
) -> None:
    bus.register_agent("agent", "t", 600)

    assert viewer.get("/agents/", {"after": place}).status_code == 404


def test_a_live_table_of_agents_is_as_long_as_its_page(
    redis_client: redis.Redis,
) -> None:
    for n in range(4):
        bus.register_agent(f"agent-{n}", "t", 600)
    painter, now = painting.Painter(), queries.standing()

    short, whole = (asyncio.run(painter.region(now, "agents", n)) for n in (3, None))

    assert (short.count("<tr"), whole.count("<tr")) == (3, 4)
    assert "agent-3" not in short


# --- the database away


def test_without_the_database_the_page_says_so(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("could not connect")

    viewer.raise_request_exception = False
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", away)

    response = viewer.get("/topics/")

    assert response.status_code == 503
    text = looked_at(response).text
    assert "The database does not answer" in text
    assert "could not connect" not in text


# --- a part that is refreshed, and what went wrong meanwhile


PART = {"HX-Request": "true"}


def test_who_signed_out_is_led_to_the_sign_in_page_by_the_whole_page(
    test_topic: str,
) -> None:
    answer = Client().get("/agents/a/", headers=PART)

    assert (answer.status_code, answer["HX-Refresh"]) == (200, "true")
    assert not answer.content


def test_what_is_not_there_any_more_refreshes_the_whole_page(viewer: Client) -> None:
    gone = viewer.get("/agents/nobody/", headers=PART)
    whole = viewer.get("/agents/nobody/")

    assert (gone.status_code, gone["HX-Refresh"]) == (404, "true")
    assert "HX-Refresh" not in whole


def test_while_redis_is_away_the_page_stays(
    viewer: Client, failure_simulator: Any
) -> None:
    failure_simulator.unreachable()

    answer = viewer.get("/agents/a/", headers=PART)

    assert answer.status_code == 503 and "HX-Refresh" not in answer


@pytest.mark.parametrize("place", ["x.a", "1" * 5_000 + ".a", "²."])
def test_a_place_that_is_none_is_not_found(viewer: Client, place: str) -> None:
    assert viewer.get("/agents/", {"after": place}).status_code == 404
