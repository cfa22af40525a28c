"""All tasks that match a list's filter: shown, then cancelled, and no others."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import browse, messages
from bus.models import AuditEntry
from dashboard import matching
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db

PATH = "/tasks/cancel-matching"


def asked(client: Client, **query: str) -> tuple[str, dict[str, str]]:
    """The question's text, and the form that says yes, or looks on with a `cursor`."""
    return read(client.get(PATH, query))


def read(page: Any) -> tuple[str, dict[str, str]]:
    assert page.status_code == 200
    form = page.content.decode().partition('<div class="columns')[2]
    names = "state|topic|q|since|until|tasks|cursor"
    fields = re.findall(f'name="({names})" value="([^"]*)"', form)
    return " ".join(looked_at(page).text.split()), dict(fields)


def told(client: Client, form: dict[str, Any]) -> str:
    led = client.post(PATH, form)
    assert led.status_code == 303
    return " ".join(looked_at(client.get(led["Location"])).text.split())


def states(topic: str, ids: list[str]) -> list[str]:
    return [bus.get_task(each, topic).state for each in ids]


def test_all_that_match_are_cancelled_as_they_were_shown(
    test_topic: str, operator: Client
) -> None:
    payloads = [{"customer": n % 2} for n in range(140)]
    ids = bus.enqueue_many(test_topic, payloads)
    other = bus.enqueue_task(f"{test_topic}-b", {"customer": 1})
    Desk(test_topic).claim(2)

    text, form = asked(operator, topic=test_topic, q="customer=1")
    late = bus.enqueue_task(test_topic, {"customer": 1})
    outcome = told(operator, form)

    assert "Cancel 70 tasks?" in text and "customer=1" in text
    assert "69 cancelled, 1 told to stop" in outcome
    running = ["running", "running"]
    assert states(test_topic, ids) == [*running, *["waiting", "cancelled"] * 69]
    assert bus.get_task(ids[1], test_topic).cancel_requested
    assert not bus.get_task(ids[0], test_topic).cancel_requested
    assert states(test_topic, [late]) == ["waiting"]
    assert states(f"{test_topic}-b", [other]) == ["waiting"]
    entry = AuditEntry.objects.get(verb="cancel")
    assert (entry.topic, entry.who) == (test_topic, "operator")
    assert entry.detail == {
        "state": "",
        "text": "customer=1",
        "cancelled": 69,
        "told to stop": 1,
    }


def test_one_state_is_cancelled_over_topics_and_a_second_click_tells_the_same(
    test_topic: str, operator: Client
) -> None:
    topics = [test_topic, f"{test_topic}-b"]
    later = [bus.enqueue_task(topic, 1, delay_s=600) for topic in topics]
    now = bus.enqueue_task(test_topic, 2)

    text, form = asked(operator, state="delayed")
    first, second = told(operator, form), told(operator, form)

    assert "Cancel 2 tasks?" in text
    assert all(f"in {topic}" in text for topic in topics)
    assert "2 cancelled" in first and "2 cancelled" in second
    found = [bus.get_task(*each).state for each in zip(later, topics, strict=True)]
    assert found == ["cancelled", "cancelled"]
    assert states(test_topic, [now]) == ["waiting"]


def test_beyond_the_bound_it_says_so_and_the_rest_stays(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matching, "_MOST", 30)
    ids = bus.enqueue_many(test_topic, range(40))

    text, form = asked(operator, topic=test_topic)
    outcome = told(operator, form)

    assert "These are the first 30" in text
    assert "30 cancelled" in outcome
    assert states(test_topic, ids) == [*["cancelled"] * 30, *["waiting"] * 10]


class Glance:
    """A moment that is over after one look."""

    def __init__(self) -> None:
        self._over = iter([False])

    @property
    def over(self) -> bool:
        return next(self._over, True)


def test_a_look_goes_on_with_what_was_found_until_it_has_seen_all(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.lists.Moment", Glance)
    monkeypatch.setattr("dashboard.lists._SEARCH_LOOK", 2)
    other = f"{test_topic}-b"
    ids = bus.enqueue_many(test_topic, [{"n": n} for n in range(5)])
    late = bus.enqueue_task(other, {"n": 5}, delay_s=600)

    text, form = asked(operator, q="n")
    counts = [text]
    while "cursor" in form:
        # It waited and was found, now it runs: found once all the same.
        Desk(test_topic).claim(1)
        page = operator.post(PATH, form)
        text, form = read(page)
        counts.append(text)
    answer = {name: text for name, text in form.items() if name != "cursor"}

    assert "Cancel 2 tasks?" in counts[0] and "of 2 looked at." in counts[0]
    assert "Cancel 6 tasks?" in text and f"in {other}" in text
    assert len(counts) >= 5
    assert "told to stop" in told(operator, answer)
    assert states(other, [late]) == ["cancelled"]
    assert "waiting" not in states(test_topic, ids)


def test_tasks_that_two_topics_have_under_one_id_are_two(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.lists.Moment", Glance)
    topics = [test_topic, f"{test_topic}-b"]
    twin = bus.enqueue_task(topics[0], {"n": 1})
    bus.enqueue_task(topics[1], {"n": 1}, task_id=twin)

    text, form = asked(operator, q="n")
    while "cursor" in form:
        text, form = read(operator.post(PATH, form))

    assert "Cancel 2 tasks?" in text
    assert "2 cancelled" in told(operator, form)
    assert [bus.get_task(twin, each).state for each in topics] == ["cancelled"] * 2


def test_what_begins_to_run_within_one_look_is_found_once(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = bus.enqueue_many(test_topic, [1, 2])
    desk = Desk(test_topic)
    desk.claim(1)  # where none runs nobody looks
    list_tasks = browse.list_tasks

    def begins(topic: str, state: str, *how: Any) -> Any:
        found = list_tasks(topic, state, *how)
        desk.claim(1)
        return found

    monkeypatch.setattr(browse, "list_tasks", begins)
    text, form = asked(operator, topic=test_topic)

    assert "Cancel 2 tasks?" in text
    assert sorted(form["tasks"].split()[-2:]) == sorted(ids)


@pytest.mark.parametrize(
    "cursor", ["nope", "dead/a/", "waiting/a/~1", "waiting/%s/x~1.1", "~1.1.1"]
)
def test_a_place_that_is_none_is_not_found(
    cursor: str, test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    form = {"topic": test_topic, "cursor": cursor.replace("%s", test_topic)}

    assert operator.post(PATH, form).status_code == 404


def test_nothing_that_matches_is_told(test_topic: str, operator: Client) -> None:
    ended = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    desk.complete(desk.one())

    text, form = asked(operator, topic=test_topic)
    tasks = f"waiting {test_topic} {ended} x;;y;{test_topic} x;dead {test_topic} x"
    nothing = told(operator, {"topic": test_topic, "tasks": tasks})

    assert "Nothing to cancel" in text and form == {}
    assert "2 had ended before" in nothing
    assert "None was left" in told(operator, {"topic": test_topic})
    assert not AuditEntry.objects.exists()


@pytest.mark.parametrize("query", ["", "?state=done", "?state=nonsense", "?topic=nope"])
def test_a_filter_that_can_mean_nothing_is_not_found(
    query: str, redis_client: redis.Redis, operator: Client
) -> None:
    assert operator.get(f"{PATH}{query}").status_code == 404


def test_the_way_there_is_on_a_filtered_list_for_those_who_may(
    test_topic: str, operator: Client
) -> None:
    task = bus.enqueue_task(test_topic, 1)
    viewer = signed_in("viewer")
    way = f'href="{PATH}?topic={test_topic}"'

    assert way in operator.get(f"/tasks/?topic={test_topic}").content.decode()
    assert PATH not in operator.get("/tasks/").content.decode()
    assert PATH not in viewer.get(f"/tasks/?topic={test_topic}").content.decode()
    form = {"topic": test_topic, "tasks": f"waiting {test_topic} {task}"}
    assert viewer.get(PATH, {"topic": test_topic}).status_code == 403
    assert viewer.post(PATH, form).status_code == 403
    assert states(test_topic, [task]) == ["waiting"]


def test_a_time_of_the_list_is_one_of_what_is_cancelled(
    test_topic: str, operator: Client
) -> None:
    old = bus.enqueue_task(test_topic, 1)
    began_ms = messages.iso_ms(bus.get_task(old).enqueued_at) or 0
    since = messages.iso(began_ms + 1).removesuffix("Z")
    wait_until(lambda: time.time() * 1000 > began_ms + 2)
    new = bus.enqueue_task(test_topic, 2)

    text, form = asked(operator, topic=test_topic, since=since)
    outcome = told(operator, form)

    assert "Cancel 1 task?" in text and f"enqueued since {since}" in text
    assert "1 cancelled" in outcome
    assert states(test_topic, [old, new]) == ["waiting", "cancelled"]
    assert AuditEntry.objects.get(verb="cancel").detail["since"] == since
