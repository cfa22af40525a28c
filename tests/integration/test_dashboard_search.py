"""The search on the tasks' page: by id, by text in payload or error, by a field."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
from django.test import Client

import bus
from bus import messages
from bus.messages import Task
from dashboard import search
from tests.support.desk import Desk
from tests.support.pages import looked_at
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db


def found(client: Client, **asked: str) -> tuple[list[str], str]:
    """The tasks on the page, and its text with single spaces."""
    page = client.get("/tasks/", asked)
    text = " ".join(looked_at(page).text.split())
    return [task.id for task in page.context["page"].tasks], text


@pytest.mark.parametrize(
    ("wanted", "payload", "fits"),
    [
        ("ACME", {"customer": {"name": "Acme Inc"}}, True),
        ("ünï", {"a": "ÜNÏ"}, True),
        ("acme", {"customer": "Akme"}, False),
        ("customer.id=17", {"customer": {"id": 17}}, True),
        ("customer.id=17", {"customer": {"id": 170}}, False),
        ("customer.id=17", {"customer": "17"}, False),
        ("lines.1.sku=a-1", {"lines": [{"sku": "x"}, {"sku": "A-1"}]}, True),
        ("lines.2.sku=a-1", {"lines": [{"sku": "a-1"}]}, False),
        ("paid=true", {"paid": True}, True),
        ("note=", {"note": ""}, True),
        ("none=null", {"none": None}, True),
        ("a=b", "x a=b y", True),
        ("0=7", [7], True),
        ("x=1", 1, False),
    ],
)
def test_a_payload_fits_by_text_or_by_a_field(
    wanted: str, payload: Any, fits: bool
) -> None:
    assert search.fits(wanted)(Task("id", "t", payload)) is fits


def test_an_error_is_searched_as_well() -> None:
    task = Task("id", "t", {}, error={"type": "Timeout", "message": "smtp:587 is slow"})

    assert search.fits("SMTP:587")(task)
    assert search.fits("timeout: smtp")(task)
    assert not search.fits("imap")(task)


def test_text_is_found_in_every_state_and_the_page_says_how_far_it_looked(
    test_topic: str, viewer: Client
) -> None:
    done, dead, waiting, _ = bus.enqueue_many(
        test_topic, [{"order": 47, "n": n} for n in range(3)] + [{"order": 48}]
    )
    desk = Desk(test_topic)
    desk.complete(desk.one())
    desk.fail(desk.one(), final=True, message="card refused")

    everywhere, text = found(viewer, q="order=47")
    by_error, _ = found(viewer, q="Card Refused")
    in_state, _ = found(viewer, q="order=47", state="done", topic=test_topic)
    nothing, empty = found(viewer, q="order=49")

    assert everywhere == [waiting, dead, done]
    assert "3 with “order=47” among 4 tasks." in text
    assert by_error == [dead]
    assert in_state == [done]
    assert nothing == [] and "with “order=49” in payload or error" in empty


def test_a_search_goes_on_page_by_page_and_misses_nothing(
    test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.lists.PAGE", 2)
    monkeypatch.setattr("dashboard.lists._SEARCH_LOOK", 3)
    sent = bus.enqueue_many(test_topic, [{"even": n % 2 == 0} for n in range(20)])

    page = viewer.get("/tasks/", {"q": "even=true"})
    ids = [task.id for task in page.context["page"].tasks]
    while cursor := page.context["page"].next:
        assert "looked at so far" in looked_at(page).text
        link = re.search(r'href="([^"]+)" rel="next"', page.content.decode())
        assert link and "q=even%3Dtrue" in link[1]
        page = viewer.get("/tasks/", {"q": "even=true", "cursor": cursor})
        ids += [task.id for task in page.context["page"].tasks]

    assert ids == sent[::2]


def test_a_search_that_takes_long_stops_and_may_go_on(
    test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.seeking._LOOK_S", -1)
    monkeypatch.setattr("dashboard.seeking._SLOW_S", 60)  # wherever the machine stalls
    bus.enqueue_many(test_topic, range(5))

    ids, text = found(viewer, q="3")

    assert ids == []
    assert "None so far" in text and "among 0 tasks looked at so far" in text


def test_the_filter_by_topic_keeps_what_is_searched(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, "x")

    html = viewer.get("/tasks/", {"q": '"><b>x', "state": "waiting"}).content.decode()

    kept = '<input type="hidden" name="q" value="&quot;&gt;&lt;b&gt;x">'
    assert kept in html and 'name="state" value="waiting"' in html
    assert "<b>x" not in html


def test_a_state_and_a_topic_in_the_list_filter_it(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, "x")

    html = viewer.get("/tasks/", {"q": "x"}).content.decode()

    assert f'href="?q=x&amp;topic={test_topic}"' in html
    assert 'href="?q=x&amp;state=waiting"' in html


def test_fields_and_values_of_the_listed_tasks_are_suggested(
    test_topic: str, viewer: Client
) -> None:
    payloads: list[Any] = [{"order": {"id": 7, "note": "x" * 41}}, {"order": {"id": 8}}]
    bus.enqueue_many(test_topic, [*payloads, {"a b": 1, "c.d": 2, "e": '"<'}, 5, ["f"]])

    page = viewer.get("/tasks/")

    assert page.context["suggestions"] == [
        *("order.id=", "order.note=", "e="),
        *("order.id=7", "order.id=8", 'e="<'),
    ]
    looked_at(page)
    assert '<option value="e=&quot;&lt;"></option>' in page.content.decode()
    for each in page.context["suggestions"][3:]:  # each finds what it was made of
        assert len(found(viewer, q=each)[0]) == 1


def test_a_payload_with_many_fields_suggests_some() -> None:
    wide = {f"field{n}": n for n in range(1_000)}
    deep: Any = 1
    for _ in range(30):
        deep = {"in": deep}

    assert len(search.suggestions([Task("id", "t", wide)])) == 40
    assert search.suggestions([Task("id", "t", deep)]) == []


def test_values_of_a_payload_lead_to_the_tasks_that_share_them(
    test_topic: str, viewer: Client
) -> None:
    payload = {"customer": {"id": 17, "name": "a & b"}, "text": "x" * 99, "l": [1]}
    task, same, _ = bus.enqueue_many(
        test_topic, [payload, {"customer": {"id": 17}}, {"customer": {"id": 1}}]
    )
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)

    for path in (f"/tasks/{task}/", f"/dead/{task}/"):
        page = viewer.get(path).content.decode()
        links = re.findall(r'small mono" href="([^"]*)">([^<]*)<', page)
        assert [text for _, text in links] == [
            *("customer.id=17", "customer.name=a &amp; b"),
        ]
        for (url, _), ids in zip(links, ([same, task], [task]), strict=True):
            listed = viewer.get(url.replace("&amp;", "&")).context["page"]
            assert [each.id for each in listed.tasks] == ids


def test_a_payload_of_any_kind_has_what_it_has() -> None:
    assert search.values([1]) == search.values(None) == search.values({"": 1}) == []
    assert search.values({"a": None, "b": False}) == ["a=null", "b=false"]
    assert len(search.values({f"f{n}": n for n in range(99)})) == 8


def test_an_error_leads_to_those_that_failed_alike_and_a_state_to_its_tasks(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_many(test_topic, [1, 2])
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)
    desk.complete(desk.one())
    [group] = bus.dead_groups(test_topic)

    letters = viewer.get("/dead/").content.decode()
    results = viewer.get("/results/").content.decode()

    failure = f"/dead/groups/{group['fingerprint']}/?topic={test_topic}"
    assert letters.count(f'class="failed" href="{failure}"') == 1
    assert f'href="/tasks/?state=done&amp;topic={test_topic}"' in results


# --- when they were enqueued


def test_tasks_are_found_by_when_they_were_enqueued(
    test_topic: str, viewer: Client
) -> None:
    first = bus.enqueue_task(test_topic, "a")
    between_ms = (messages.iso_ms(bus.get_task(first).enqueued_at) or 0) + 1
    wait_until(lambda: time.time() * 1000 > between_ms + 1)
    second = bus.enqueue_task(test_topic, "b")
    third = bus.enqueue_task(test_topic, "a", delay_s=60)
    between = messages.iso(between_ms).removesuffix("Z")

    assert {*found(viewer, since=between)[0]} == {second, third}
    assert {*found(viewer, until=between)[0]} == {first}
    assert {*found(viewer, since=between, q="a")[0]} == {third}
    assert {*found(viewer, since=between, state="waiting")[0]} == {second}
    assert {*found(viewer, since=between, until=between)[0]} == set()
    assert "2 of that time among 3 tasks" in found(viewer, since=between)[1]


def test_a_time_that_is_none_is_not_found(test_topic: str, viewer: Client) -> None:
    assert viewer.get("/tasks/?since=soon").status_code == 404


@pytest.mark.parametrize("asked", [{}, {"q": "lot"}])
def test_a_list_of_tasks_keeps_no_results(
    test_topic: str, viewer: Client, asked: dict[str, str]
) -> None:
    bus.enqueue_task(test_topic, {"lot": 1})
    desk = Desk(test_topic)
    desk.complete(desk.one(), result='{"lines": [1, 2, 3]}')

    [task] = viewer.get("/tasks/", asked).context["page"].tasks

    assert (task.payload, task.state, task.result) == ({"lot": 1}, "done", None)
