"""Bulk replay in the dashboard: chosen, frozen, started, followed, cancelled."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import replays
from bus.bulk import room, selection
from bus.bulk.driver import Foreman
from bus.models import AuditEntry
from dashboard import bulk
from tests.integration.test_dashboard_actions import toasts
from tests.support.bulk import created, dead, driven
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"


def frozen(client: Client, **form: Any) -> str:
    """The id of what a form chose."""
    response = client.post("/replays/new", form)
    assert response.status_code == 303, response.content
    found = re.fullmatch(r"/replays/([0-9a-f-]{36})/", response["Location"])
    assert found
    return found[1]


def page(client: Client, job_id: str) -> str:
    return " ".join(looked_at(client.get(f"/replays/{job_id}/")).text.split())


def test_all_letters_of_a_topic_are_frozen_and_shown_before_anything_happens(
    test_topic: str, operator: Client
) -> None:
    dead(test_topic, 12, "no ink")
    dead(f"{test_topic}-b", 1)
    here = operator.get(f"/dead/?topic={test_topic}")

    job_id = frozen(operator, topic=test_topic)
    dead(test_topic, 3, start=12)

    assert "Replay all 12…" in looked_at(here).text
    text = page(operator, job_id)
    assert "Nothing is replayed yet" in text
    assert "Replay 12 letters" in text
    assert "ValueError: no ink" in text
    assert f"No live agent serves {test_topic}" in text
    assert bus.stats(test_topic)["dead"] == 15
    assert not AuditEntry.objects.exists()


def test_it_is_started_at_a_pace_and_followed_to_its_end(
    test_topic: str, operator: Client
) -> None:
    ids, foreman, desk = dead(test_topic, 3), Foreman(), Desk(test_topic)
    job_id = frozen(operator, topic=test_topic)

    form = {"rate": "1000", "percent": "", "canary": "1"}
    response = operator.post(f"/replays/{job_id}/start", form)
    wait_until(lambda: foreman.round() and bus.stats(test_topic)["waiting"])
    running = operator.get(f"/replays/{job_id}/")
    part = operator.get(f"/replays/{job_id}/", headers={"HX-Request": "true"})
    desk.fail(desk.one(), final=True)
    driven(foreman, replays.get(job_id), "stopped")

    assert response["Location"] == f"/replays/{job_id}/"
    assert 'hx-trigger="every 1s"' in running.content.decode()
    assert "<html" not in part.content.decode()
    text = page(operator, job_id)
    assert "1 of 1 letter is dead again: 100%, more than 10%. 2 to come." in text
    assert "dead again" in text
    assert ids[0][:8] in text
    form = operator.get(f"/replays/{job_id}/").context["draft"]
    assert form == {"rate": "1000", "canary": True, "percent": "10"}
    entry = AuditEntry.objects.get()
    assert (entry.who, entry.verb, entry.target) == ("operator", "bulk replay", job_id)
    assert entry.detail["canary"] is True


def test_ticked_letters_are_chosen_whatever_their_topics(
    test_topic: str, operator: Client
) -> None:
    other = f"{test_topic}-b"
    ids, others = dead(test_topic, 3), dead(other, 2)
    listed = operator.get("/dead/").content.decode()
    values = [f"{test_topic} {ids[1]}", f"{other} {others[0]}"]

    job_id = frozen(operator, ticked="1", letter=values)
    bus.pause(other)
    told = page(operator, job_id)
    none = operator.post("/replays/new", {"ticked": "1"})

    assert all(f'value="{value}"' in listed for value in values)
    assert replays.get(job_id).topics == {test_topic: 1, other: 1}
    assert "2 chosen letters" in told
    assert f"{other} is paused: its tasks will wait." in told
    assert none.status_code == 422
    assert "Tick the letters to replay first." in looked_at(none).text


def test_one_failure_is_chosen_from_its_page(test_topic: str, operator: Client) -> None:
    dead(test_topic, 4, "no ink")
    dead(test_topic, 2, "no paper")
    group = bus.dead_groups(test_topic)[0]["fingerprint"]
    shown = looked_at(operator.get(f"/dead/groups/{group}/?topic={test_topic}"))

    job_id = frozen(operator, topic=test_topic, group=group)

    assert "Replay all 4…" in shown.text
    assert replays.get(job_id).total == 4


def test_a_form_chooses_by_error_and_time(test_topic: str, operator: Client) -> None:
    dead(test_topic, 4, "no ink")
    dead(test_topic, 2, "no paper")
    form = looked_at(operator.get(f"/replays/new?topic={test_topic}"))

    job_id = frozen(operator, topic=test_topic, error="INK", since="2020-01-01T00:00")
    every = frozen(operator)

    assert form.wrong == []
    job = replays.get(job_id)
    assert job.total == 4
    assert bulk.words(job.selection) == (
        f"all letters in {test_topic}, whose error says “INK”, "
        "that died since 2020-01-01 00:00:00"
    )
    assert replays.get(every).total == 6
    assert bulk.words(replays.get(every).selection) == ""


@pytest.mark.parametrize(
    ("form", "says"),
    [
        ({"error": "nothing like it"}, "No dead letter matches."),
        ({"since": "yesterday"}, "is not a time"),
        ({"group": "(a+)+$"}, "is not a fingerprint"),
    ],
)
def test_a_choice_that_is_none_is_told_beside_the_form(
    test_topic: str, operator: Client, form: dict[str, str], says: str
) -> None:
    dead(test_topic, 1)

    response = operator.post("/replays/new", form)

    assert response.status_code == 422
    assert says in looked_at(response).text
    assert replays.list_jobs() == []


def test_too_many_are_told_beside_the_form(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(test_topic, 3)
    monkeypatch.setattr(selection, "LETTERS_MOST", 2)

    response = operator.post("/replays/new", {"topic": test_topic})

    assert "More than 2 letters are selected" in looked_at(response).text


@pytest.mark.parametrize("form", [{"rate": "fast"}, {"rate": "0"}, {"percent": "200"}])
def test_a_pace_that_is_none_is_told_beside_the_form(
    test_topic: str, operator: Client, form: dict[str, str]
) -> None:
    dead(test_topic, 1)
    job_id = frozen(operator, topic=test_topic)

    response = operator.post(f"/replays/{job_id}/start", {"rate": "", **form})

    assert response.status_code == 422
    assert replays.get(job_id).state == "frozen"
    assert "is not" in looked_at(response).text


def test_one_that_is_put_away_is_gone(
    test_topic: str, operator: Client, redis_client: redis.Redis
) -> None:
    dead(test_topic, 1)
    job_id = frozen(operator, topic=test_topic)

    response = operator.post(f"/replays/{job_id}/cancel")

    assert response["Location"] == "/dead/"
    assert operator.get(f"/replays/{job_id}/").status_code == 404
    assert not list(redis_client.scan_iter(f"*{job_id}*"))


def test_one_that_somebody_started_is_not_put_away(
    test_topic: str, operator: Client
) -> None:
    """The race: the page that says "Put away" is older than the start."""
    dead(test_topic, 1)
    job_id = frozen(operator, topic=test_topic)
    shown = operator.get(f"/replays/{job_id}/").content.decode()
    replays.resume(job_id)

    response = operator.post(f"/replays/{job_id}/cancel", {"away": "1"})

    assert '<button class="button" name="away" value="1">Put away' in shown
    assert "is running" in toasts(response)
    assert replays.get(job_id).state == "running"


def test_however_often_somebody_looks_there_is_room_for_others(
    test_topic: str, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_SETTLED_MS", 0)
    dead(test_topic, 1)
    looks = [frozen(operator, topic=test_topic) for _ in range(12)]

    job = created(test_topic)

    assert job.state == "running"
    assert {each.id for each in replays.list_jobs()} == {*looks[3:], job.id}


def test_paused_resumed_cancelled_and_clicked_twice(
    test_topic: str, operator: Client
) -> None:
    dead(test_topic, 5)
    job = created(test_topic, canary=True)
    url = f"/replays/{job.id}"

    operator.post(f"{url}/pause")
    paused = page(operator, job.id)
    again = toasts(operator.post(f"{url}/pause"))
    operator.post(f"{url}/start", {"rate": "", "percent": "50"})
    twice = toasts(operator.post(f"{url}/start"))
    operator.post(f"{url}/cancel")
    late = toasts(operator.post(f"{url}/start"))
    later = toasts(operator.post(f"{url}/cancel"))

    assert "Paused. By operator. 5 to come." in paused
    assert again == twice == ""
    assert "is cancelled" in late and later == ""
    assert "What was not replayed stays dead." in page(operator, job.id)
    assert replays.get(job.id).pace == replays.paced(None, False, 0.5)
    verbs = [*AuditEntry.objects.order_by("pk").values_list("verb", flat=True)]
    assert verbs == ["pause bulk replay", "resume bulk replay", "cancel bulk replay"]
    assert bus.stats(test_topic)["dead"] == 5


def test_they_are_listed_with_what_came_of_them(
    test_topic: str, operator: Client
) -> None:
    empty = operator.get("/replays/")
    dead(test_topic, 2)
    foreman, desk = Foreman(), Desk(test_topic)
    job = created(test_topic)
    foreman.round()
    desk.complete(*desk.claim(2))
    driven(foreman, job)

    listed = operator.get("/replays/")

    assert "No bulk replay yet" in looked_at(empty).text
    assert f"/replays/{job.id}/" in listed.content.decode()
    assert f"in {test_topic}" in looked_at(listed).text
    task_page = operator.get(f"/tasks/{bus.list_tasks(test_topic)[0][0].id}/")
    assert f'href="/replays/{job.id}/">in bulk' in task_page.content.decode()


def test_a_viewer_follows_and_changes_nothing(test_topic: str) -> None:
    viewer = signed_in("viewer")
    dead(test_topic, 1)
    job = created(test_topic, canary=True)

    text = page(viewer, job.id)
    answers = [
        viewer.get("/replays/new"),
        viewer.post("/replays/new", {"topic": test_topic}),
        *(viewer.post(f"/replays/{job.id}/{v}") for v in ("start", "pause", "cancel")),
    ]

    assert "Cancel the rest" not in text
    assert "Replay all" not in looked_at(viewer.get("/dead/")).text
    assert [each.status_code for each in answers] == [403] * 5
    assert replays.get(job.id).state == "running"


def test_unknown_ones_are_404(operator: Client) -> None:
    for job_id in (NOBODY, "x"):
        assert operator.get(f"/replays/{job_id}/").status_code == 404
        assert operator.post(f"/replays/{job_id}/start").status_code == 404


def test_what_errors_say_is_text(test_topic: str, operator: Client) -> None:
    nasty = "<script>alert(1)</script>"
    dead(test_topic, 1, nasty)
    job_id = frozen(operator, topic=test_topic, error=nasty)

    content = operator.get(f"/replays/{job_id}/").content.decode()

    assert nasty not in content
    assert "&lt;script&gt;" in content
