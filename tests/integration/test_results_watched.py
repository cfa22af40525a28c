"""Results with a filter: the page, its next pages, and what comes to it live."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client

import bus
from bus import errors
from dashboard import watched
from dashboard.watched import Looked, Watched
from tests.support.desk import Desk
from tests.support.pages import looked_at

pytestmark = pytest.mark.django_db

ROW: dict[str, Any] = {
    "id": "0198c0de-0000-7000-8000-000000000001",
    "state": "done",
    "agent": "a-1",
    "task": {"customer": {"id": 17}},
    "result": {"sum": 2, "note": "Ünï"},
}


def end(topic: str, payload: Any, result: str = '"ok"') -> str:
    """One task that the agent `desk` brings to an end; its id."""
    task_id = bus.enqueue_task(topic, payload)
    desk = Desk(topic)
    desk.complete(desk.one(), result=result)
    return task_id


def listed(client: Client, **asked: str) -> list[str]:
    """The tasks of the results that the page lists."""
    html = client.get("/results/", asked).content.decode()
    return re.findall(r'<tr data-entry="[^"]+" data-task="([^"]+)"', html)


@pytest.mark.parametrize(
    ("only", "fits"),
    [
        ({}, True),
        ({"state": "done"}, True),
        ({"state": "cancelled"}, False),
        ({"agent": "a-1"}, True),
        ({"agent": "a"}, False),
        ({"q": "ünÏ"}, True),
        ({"q": "customer.id=17"}, True),
        ({"q": "sum=2"}, True),
        ({"q": "sum=3"}, False),
        ({"q": "0198c0de"}, True),
        ({"q": "done"}, False),  # of what it carries, not of its members
        ({"q": "sum", "agent": "a-2"}, False),
    ],
)
def test_a_row_fits_in_all_that_is_asked(only: dict[str, str], fits: bool) -> None:
    assert watched.of(only).fits(Looked(ROW)) is fits


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"state": ["done"], "agent": {}, "task": None, "result": object()},
        {"state": "done", "error": "text", "id": 7},
        {"error": {"message": "no ink"}},
    ],
)
def test_rows_by_hand_may_hold_anything(row: dict[str, Any]) -> None:
    assert not watched.of({"q": "nowhere"}).fits(Looked(row))
    assert not Watched(agent="a-1").fits(Looked(row))


def test_what_an_error_says_is_found() -> None:
    row = {"error": {"message": "no ink"}}
    assert watched.of({"q": "no INK"}).fits(Looked(row))


@pytest.mark.parametrize(
    "form",
    [
        {"state": "dead"},
        {"state": "Done"},
        {"state": 1},
        {"agent": ["a"]},
        {"q": None},
        {"q": "x" * 201},
    ],
)
def test_what_is_no_filter_is_refused(form: dict[str, Any]) -> None:
    with pytest.raises(errors.InvalidOption):
        watched.of(form)


def test_the_page_shows_what_fits_and_says_among_how_many(
    test_topic: str, viewer: Client
) -> None:
    one = end(test_topic, {"n": 1})
    two = end(test_topic, {"n": 2}, '{"found":"ink"}')
    gone = bus.enqueue_task(test_topic, {"n": 3})
    bus.cancel(gone, test_topic)

    assert listed(viewer) == [gone, two, one]
    assert listed(viewer, state="done") == [two, one]
    assert listed(viewer, state="cancelled") == [gone]
    assert listed(viewer, agent="desk") == [two, one]
    assert listed(viewer, agent="des") == []
    assert listed(viewer, q="INK") == [two]
    assert listed(viewer, q="n=1", topic=test_topic) == [one]
    page = looked_at(viewer.get("/results/?q=n%3D1"))
    assert "1 among 3 results; what comes and fits is added" in page.text
    assert "Nothing matches" in looked_at(viewer.get("/results/?q=nowhere")).text


def test_the_page_tells_its_socket_what_it_shows(
    test_topic: str, viewer: Client
) -> None:
    end(test_topic, 1)
    newest = bus.enqueue_task(test_topic, 2)
    bus.cancel(newest, test_topic)

    live = viewer.get("/results/?agent=desk&q=1").context["live"]

    assert live["only"] == {"agent": "desk", "q": "1"}
    # From behind the newest that was looked at, whether or not it fitted.
    [row, _] = viewer.get("/results/").context["page"].items
    assert (row["id"], list(live["after"].values())) == (newest, [row["entry_id"]])
    assert "only" not in viewer.get("/results/").context["live"]


def test_a_filtered_list_is_read_page_by_page(test_topic: str, viewer: Client) -> None:
    wanted = []
    for topic in (test_topic, f"{test_topic}-b"):
        ids = bus.enqueue_many(topic, [{"even": n % 2 == 0} for n in range(140)])
        desk = Desk(topic)
        for _ in range(2):
            desk.complete(*desk.claim(100))
        wanted += ids[::2]

    seen: list[str] = []
    path = "/results/?q=even%3Dtrue"
    for size in (50, 50, 40):
        html = viewer.get(path).content.decode()
        found = re.findall(r'<tr data-entry="[^"]+" data-task="([^"]+)"', html)
        assert len(found) == size
        seen += found
        older = re.search(r'href="(\?[^"]+)" rel="next"', html)
        path = "/results/" + (older[1].replace("&amp;", "&") if older else "")

    assert sorted(seen) == sorted(wanted)
    assert path == "/results/"


@pytest.mark.parametrize(
    "asked", ["state=dead", "q=" + "x" * 201, "q=a&before=x", "agent=" + "a" * 201]
)
def test_a_filter_that_is_none_is_not_found(
    test_topic: str, viewer: Client, asked: str
) -> None:
    assert viewer.get(f"/results/?{asked}").status_code == 404


@pytest.mark.parametrize("asked", [{}, {"q": "lot"}])
def test_a_list_keeps_no_more_of_a_result_than_it_shows(
    test_topic: str, viewer: Client, asked: dict[str, str]
) -> None:
    end(test_topic, {"lot": 1}, '{"lines":[' + "1," * 10_000 + "1]}")

    [row] = viewer.get("/results/", asked).context["page"].items

    assert "task" not in row
    assert row["result"].startswith('{"lines": [1, 1') and len(row["result"]) == 100


def test_an_agent_that_left_long_ago_leads_to_its_results(
    test_topic: str, viewer: Client
) -> None:
    told = viewer.get("/agents/press-7/")
    page = looked_at(told)

    assert told.status_code == 404
    assert "No agent 'press-7'" in page.text
    assert 'href="/results/?agent=press-7"' in told.content.decode()
