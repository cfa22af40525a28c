"""What is done with the rows that are ticked: tasks cancelled, letters discarded."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

import bus
from bus.models import AuditEntry
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> Client:
    return signed_in("operator")


def states(topic: str, ids: list[str]) -> list[str]:
    return [bus.get_task(each, topic).state for each in ids]


def letters(topic: str, count: int) -> list[str]:
    ids = bus.enqueue_many(topic, range(count))
    desk = Desk(topic)
    for item in desk.claim(count):
        desk.fail(item, final=True)
    return ids


def says(response: Any) -> str:
    return looked_at(response).text


def told(client: Client, path: str, form: dict[str, Any]) -> str:
    """What the page says to which the form leads."""
    return says(client.get(client.post(path, form)["Location"]))


def test_ticked_tasks_are_cancelled_and_the_rest_stays(
    test_topic: str, operator: Client
) -> None:
    ids = bus.enqueue_many(test_topic, range(5))
    desk = Desk(test_topic)
    running, done = desk.claim(2)
    desk.complete(done)
    ticked = [f"{test_topic} {each}" for each in ids[:4]]
    page = operator.get(f"/tasks/?topic={test_topic}").content.decode()
    assert page.count(f'form="tick" name="task" value="{test_topic} ') == 4

    form = {"task": [*ticked, "nonsense", f"{test_topic} nonsense"]}
    text = told(operator, "/tasks/cancel", form)

    assert "2 cancelled, 1 told to stop, 3 had ended before" in text
    assert states(test_topic, ids) == [
        *("running", "done", "cancelled", "cancelled", "waiting"),
    ]
    assert bus.get_task(running.id, test_topic).cancel_requested
    trail = AuditEntry.objects.order_by("id").values_list("verb", "target")
    assert [*trail] == [("cancel", ids[at]) for at in (0, 2, 3)]


def test_ticked_letters_are_shown_then_discarded(
    test_topic: str, operator: Client
) -> None:
    ids = letters(test_topic, 3)
    ticked = {"letter": [f"{test_topic} {each}" for each in ids[:2]]}

    asked = operator.post("/dead/discard", ticked)

    assert "Discard 2 letters?" in says(asked)
    assert states(test_topic, ids) == ["dead"] * 3

    again = {**ticked, "sure": "1"}
    once = told(operator, "/dead/discard", again)
    twice = told(operator, "/dead/discard", again)

    assert "Discarded: 2." in once
    assert "Discarded: 0." in twice and "2 were gone before" in twice
    assert states(test_topic, ids) == ["discarded", "discarded", "dead"]
    assert AuditEntry.objects.filter(verb="discard").count() == 2
    bus.undo(ids[0], test_topic)
    assert states(test_topic, ids) == ["dead", "discarded", "dead"]


@pytest.mark.parametrize(
    ("path", "words"),
    [("/tasks/cancel", "Tick the tasks"), ("/dead/discard", "Tick the letters")],
)
def test_nothing_ticked_is_told(path: str, words: str, operator: Client) -> None:
    assert words in told(operator, path, {})


@pytest.mark.parametrize("path", ["/tasks/cancel", "/dead/discard"])
def test_a_viewer_has_no_ticks_and_is_refused(path: str, test_topic: str) -> None:
    ids = letters(test_topic, 1)
    bus.enqueue_task(test_topic, 1)
    viewer = signed_in("viewer")

    form = {"letter": f"{test_topic} {ids[0]}", "task": f"{test_topic} {ids[0]}"}
    assert viewer.post(path, {**form, "sure": "1"}).status_code == 403
    for page in ("/tasks/", "/dead/"):
        assert 'form="tick"' not in viewer.get(page).content.decode()
    assert states(test_topic, ids) == ["dead"]
