"""Many at once: tasks cancelled, letters discarded, ticked or of one failure."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import purges
from bus.letters import DeadLetter
from bus.models import AuditEntry
from tests.support.bulk import dead
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


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


def test_all_that_the_page_of_a_search_holds_are_cancelled(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes whole looks: 49 that fit in one topic, then 200 of the next."""
    monkeypatch.setattr("dashboard.seeking._LOOK_S", 60.0)
    few = bus.enqueue_many(test_topic, [{"n": n} for n in range(49)])
    many = bus.enqueue_many(f"{test_topic}-b", [{"n": n} for n in range(200)])
    page = operator.get("/tasks/?state=waiting&q=n").content.decode()
    ticks = re.findall('form="tick" name="task" value="([^"]*)"', page)

    text = told(operator, "/tasks/cancel", {"task": ticks})

    assert len(ticks) == 249 and "249 cancelled" in text
    assert {*states(test_topic, few), *states(f"{test_topic}-b", many)} == {"cancelled"}


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
    monkeypatch.setattr(purges, "LETTERS", 2)
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

    monkeypatch.setattr(purges, "LETTERS", 2)
    monkeypatch.setattr(purges, "_put_away", slow)

    assert purges.discard_alike(test_topic, group["fingerprint"]) == 3
    assert states(test_topic, ids) == ["discarded"] * 3
    assert states(test_topic, later) == ["dead"] * 2
    assert purges.discard_alike(test_topic, "0000") == 0


# --- letters that were chosen and frozen


def chosen(client: Client, **form: str) -> str:
    """The page of the letters that a form chose."""
    return str(client.post("/replays/new", form)["Location"])


def test_chosen_letters_are_discarded_as_they_were_frozen(
    test_topic: str,
    operator: Client,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(purges, "LETTERS", 3)
    blurred, sharp = dead(test_topic, 7, "no ink"), dead(test_topic, 2, "no paper")
    other = dead(f"{test_topic}-b", 2, "no ink")
    page = chosen(operator, error="ink")
    late = dead(test_topic, 1, "no ink")
    bus.replay(blurred[0], test_topic)

    shown = operator.get(page).content.decode()
    asked = operator.get(f"{page}discard")
    outcome = told(operator, f"{page}discard", {})
    twice = told(operator, f"{page}discard", {})

    assert f'href="{page}discard"' in shown
    assert "Discard 9" in says(asked) and "whose error says “ink”" in says(asked)
    assert "Discarded: 8." in outcome
    assert "put away before" in twice
    assert states(test_topic, blurred) == ["waiting", *["discarded"] * 6]
    assert states(f"{test_topic}-b", other) == ["discarded"] * 2
    assert states(test_topic, sharp + late) == ["dead"] * 3
    assert not [*redis_client.scan_iter(f"*{page.split('/')[2]}*")]
    trail = AuditEntry.objects.filter(verb="discard").order_by("topic")
    facts = [(entry.topic, entry.detail["letters"]) for entry in trail]
    assert facts == [(test_topic, 6), (f"{test_topic}-b", 2)]
    bus.undo(blurred[1], test_topic)
    assert states(test_topic, blurred[:3]) == ["waiting", "dead", "discarded"]


def test_what_was_started_is_not_discarded(test_topic: str, operator: Client) -> None:
    ids = dead(test_topic, 1)
    page = chosen(operator, topic=test_topic)
    operator.post(f"{page}start", {"rate": "", "percent": ""})

    outcome = told(operator, f"{page}discard", {})

    assert "is running: too late for that" in outcome
    assert states(test_topic, ids) == ["dead"]
    assert operator.get("/replays/x/discard").status_code == 404


def test_a_viewer_discards_no_chosen_letters(test_topic: str, operator: Client) -> None:
    ids = dead(test_topic, 1)
    page = chosen(operator, topic=test_topic)
    viewer = signed_in("viewer")

    assert viewer.get(f"{page}discard").status_code == 403
    assert viewer.post(f"{page}discard").status_code == 403
    assert f"{page}discard" not in viewer.get(page).content.decode()
    assert states(test_topic, ids) == ["dead"]
