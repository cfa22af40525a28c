"""Many at once: tasks cancelled, letters discarded, ticked or of one failure."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

import bus
from bus import purges
from bus.letters import DeadLetter
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


# --- all letters of a failure


def test_all_letters_of_a_failure_go_and_others_stay(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purges, "_LETTERS", 2)
    ids = letters(test_topic, 5)
    other = bus.enqueue_task(test_topic, "other")
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True, message="something else")
    [group] = [each for each in bus.dead_groups(test_topic) if each["count"] == 5]
    path = f"/dead/groups/{group['fingerprint']}/discard"
    shown = operator.get(f"/dead/groups/{group['fingerprint']}/").content.decode()

    asked = says(operator.get(path))
    first = told(operator, path, {})
    second = told(operator, path, {})

    assert f'href="{path}"' in shown
    assert "Discard all 5" in asked and "ValueError: no" in asked
    assert "Discarded: 5." in first
    assert "There was none left to discard." in second
    assert states(test_topic, ids) == ["discarded"] * 5
    assert states(test_topic, [other]) == ["dead"]
    [entry] = AuditEntry.objects.filter(verb="discard")
    assert (entry.target, entry.detail) == (group["fingerprint"], {"letters": 5})
    bus.undo(ids[2], test_topic)
    assert states(test_topic, ids[2:3]) == ["dead"]
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_a_failure_is_discarded_within_its_topic(
    test_topic: str, operator: Client
) -> None:
    here, there = letters(test_topic, 2), letters(f"{test_topic}-b", 2)
    [group] = bus.dead_groups(test_topic)
    path = f"/dead/groups/{group['fingerprint']}/discard"

    assert "Discard all 4" in says(operator.get(path))
    assert "Discard all 2" in says(operator.get(path, {"topic": test_topic}))
    told(operator, path, {"topic": test_topic})

    assert states(test_topic, here) == ["discarded"] * 2
    assert states(f"{test_topic}-b", there) == ["dead"] * 2


def test_no_failure_is_no_page_and_viewers_discard_none(
    test_topic: str, operator: Client
) -> None:
    ids = letters(test_topic, 1)
    [group] = bus.dead_groups(test_topic)
    path = f"/dead/groups/{group['fingerprint']}"
    viewer = signed_in("viewer")

    assert operator.get("/dead/groups/0000/discard").status_code == 404
    assert operator.get(f"{path}/discard?topic=no-such").status_code == 404
    assert viewer.post(f"{path}/discard").status_code == 403
    assert "/discard" not in viewer.get(f"{path}/").content.decode()
    assert states(test_topic, ids) == ["dead"]


def test_what_dies_while_a_failure_is_discarded_stays(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = letters(test_topic, 3)
    [group] = bus.dead_groups(test_topic)
    put_away, later = purges._put_away, []

    def slow(topic: str, batch: list[DeadLetter]) -> int:
        later.extend(letters(topic, 1))  # one more dies before each step
        return put_away(topic, batch)

    monkeypatch.setattr(purges, "_LETTERS", 2)
    monkeypatch.setattr(purges, "_put_away", slow)

    assert purges.discard_alike(test_topic, group["fingerprint"]) == 3
    assert states(test_topic, ids) == ["discarded"] * 3
    assert states(test_topic, later) == ["dead"] * 2
    assert purges.discard_alike(test_topic, "0000") == 0
