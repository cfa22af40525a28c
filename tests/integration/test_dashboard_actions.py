"""Forms of the dashboard: who may, what happens, that it happens once, who knows."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus.models import AuditEntry
from tests.integration.test_dashboard_pages import dead_task
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db

NEVER_SENT = "0198c0de-0000-7000-8000-000000000000"


def trail() -> list[tuple[str, str, str, str]]:
    rows = AuditEntry.objects.order_by("id")
    return [(row.who, row.verb, row.topic, row.target) for row in rows]


def state(task_id: str, topic: str) -> str:
    return bus.get_task(task_id, topic).state


def toasts(response: Any) -> str:
    """What the page after a form says, when it is fetched."""
    page = response.client.get(response["Location"])
    return " ".join(str(message) for message in page.context["messages"])


# --- what happens


def test_replay_puts_a_letter_back_to_work(test_topic: str, operator: Client) -> None:
    task_id = dead_task(test_topic, {"n": 1})

    response = operator.post(f"/dead/{task_id}/replay?topic={test_topic}")

    assert response.status_code == 303
    assert response["Location"] == f"/tasks/{task_id}/?topic={test_topic}"
    assert state(task_id, test_topic) == "waiting"
    assert trail() == [("operator", "replay", test_topic, task_id)]
    assert "Replayed" in toasts(response)


def test_replay_from_the_list_comes_back_to_the_list(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    page = operator.get("/dead/")
    here = f"/dead/?topic={test_topic}"

    response = operator.post(f"/dead/{task_id}/replay", {"next": here})

    assert f"/dead/{task_id}/replay" in page.content.decode()
    assert response["Location"] == here


def test_a_tasks_page_replays_the_letter_that_it_saw(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    entry = bus.get_dead(task_id, test_topic).entry_id

    page = operator.get(f"/tasks/{task_id}/?topic={test_topic}").content.decode()

    assert f'name="entry" value="{entry}"' in page


def test_a_second_click_replays_nothing(test_topic: str, operator: Client) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    entry = bus.get_dead(task_id, test_topic).entry_id
    url, form = f"/dead/{task_id}/replay?topic={test_topic}", {"entry": entry}
    operator.post(url, form)

    again = operator.post(url, form)

    assert again.status_code == 303
    assert "Not replayed: your click before was first." in toasts(again)
    late = signed_in("admin").post(url, form)
    assert "Not replayed: operator was first." in toasts(late)
    assert bus.stats(test_topic)["replayed"] == 1
    assert len(trail()) == 1


def test_a_click_on_a_letter_that_died_again_since_replays_nothing(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    entry = bus.get_dead(task_id, test_topic).entry_id
    bus.replay(task_id, test_topic)
    [(sid, _)] = bus.read_group(test_topic, "hands", "me", block_ms=0)
    bus.move_to_dead(test_topic, sid, {"error": "again"})

    response = operator.post(f"/dead/{task_id}/replay", {"entry": entry})

    assert response.status_code == 303
    assert state(task_id, test_topic) == "dead"
    assert trail() == []


def test_discard_asks_first_and_undo_brings_back(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    url = f"/dead/{task_id}/discard?topic={test_topic}"

    question = operator.get(url)
    asked = state(task_id, test_topic)
    done = operator.post(url)
    gone = state(task_id, test_topic)
    page = operator.get(done["Location"])
    back = operator.post(f"/dead/{task_id}/undo?topic={test_topic}")

    assert "Undo is possible" in looked_at(question).text
    assert (asked, gone) == ("dead", "discarded")
    assert "Undo the discard" in looked_at(page).text
    assert state(task_id, test_topic) == "dead"
    assert back["Location"] == f"/dead/{task_id}/?topic={test_topic}"
    assert [verb for _, verb, _, _ in trail()] == ["discard", "undo"]


def test_second_clicks_on_discard_and_undo_are_quiet(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})

    for verb in ("discard", "discard", "undo", "undo"):
        response = operator.post(f"/dead/{task_id}/{verb}?topic={test_topic}")
        assert response.status_code == 303

    assert state(task_id, test_topic) == "dead"
    assert [verb for _, verb, _, _ in trail()] == ["discard", "undo"]
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_cancel_ends_a_waiting_task(test_topic: str, operator: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    url = f"/tasks/{task_id}/cancel?topic={test_topic}"

    operator.post(url)
    again = operator.post(url)

    assert again.status_code == 303
    assert state(task_id, test_topic) == "cancelled"


def test_cancel_of_a_dead_task_says_that_it_has_ended(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, 1)

    response = operator.post(f"/tasks/{task_id}/cancel")

    assert "has ended: dead" in toasts(response)
    assert trail() == []


def click_of(page: Any) -> dict[str, str]:
    return {"click": page.content.decode().split('name="click" value="')[1][:36]}


def test_a_delayed_task_starts_now(test_topic: str, operator: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    page = operator.get(f"/tasks/{task_id}/?topic={test_topic}")
    url = f"/tasks/{task_id}/run?topic={test_topic}"

    response = operator.post(url, click_of(page))
    operator.post(url, click_of(page))

    assert "Run now" in page.content.decode()
    assert response["Location"] == f"/tasks/{task_id}/?topic={test_topic}"
    assert state(task_id, test_topic) == "waiting"
    assert "It starts now" in toasts(response)
    assert trail() == [("operator", "run", test_topic, task_id)]
    assert "/run" not in operator.get(f"/tasks/{task_id}/").content.decode()


def test_an_ended_task_runs_again_once_per_form(
    test_topic: str, operator: Client
) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1})
    bus.cancel(task_id)
    page = operator.get(f"/tasks/{task_id}/")
    url = f"/tasks/{task_id}/run"

    first = operator.post(url, click_of(page))
    second = operator.post(url, click_of(page))
    [new] = bus.list_tasks(test_topic, "waiting")[0]

    assert "Run again" in page.content.decode()
    assert first["Location"] == second["Location"]
    assert first["Location"] == f"/tasks/{new.id}/?topic={test_topic}"
    assert new.again_of == task_id
    assert f"/tasks/{task_id}/" in operator.get(first["Location"]).content.decode()
    assert trail() == [("operator", "run", test_topic, task_id)]


def test_what_waits_is_not_run_again(test_topic: str, operator: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    response = operator.post(f"/tasks/{task_id}/run")

    assert "it runs without being asked to" in toasts(response)
    assert trail() == []


def test_who_may_not_run_sees_no_button(test_topic: str, viewer: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)

    page = viewer.get(f"/tasks/{task_id}/").content.decode()

    assert "Run now" not in page
    assert viewer.post(f"/tasks/{task_id}/run").status_code == 403
    assert state(task_id, test_topic) == "delayed"


def test_pause_and_resume_turn_a_topic_off_and_on(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 1)

    operator.post(f"/topics/{test_topic}/pause")
    paused = bus.stats(test_topic)["paused"]
    operator.post(f"/topics/{test_topic}/pause")
    page = operator.get(f"/topics/{test_topic}/")
    operator.post(f"/topics/{test_topic}/resume")

    assert paused and not bus.stats(test_topic)["paused"]
    assert "Resume" in looked_at(page).text
    assert [verb for _, verb, _, _ in trail()] == ["pause", "resume"]


def test_an_agent_is_drained_once(operator: Client, test_topic: str) -> None:
    bus.register_agent("words-1", "words")
    assert "Drain agent" in looked_at(operator.get("/agents/words-1/")).text

    for _ in range(2):
        response = operator.post("/agents/words-1/drain")
        assert (response.status_code, response["Location"]) == (303, "/agents/words-1/")

    page = looked_at(operator.get("/agents/words-1/"))
    assert "finishes what it has in hand" in page.text
    assert "Drain agent" not in page.text
    assert [verb for _, verb, _, _ in trail()] == ["drain"]


def test_an_agent_that_has_gone_is_not_drained(
    operator: Client, redis_client: redis.Redis
) -> None:
    bus.register_agent("words-1", "words")
    bus.deregister_agent("words-1")

    response = operator.post("/agents/words-1/drain")

    assert response.status_code == 404
    assert trail() == []


def test_a_task_is_sent_once_however_often_one_clicks(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, "first")
    draft = operator.get(f"/topics/{test_topic}/").context["draft"]
    form = {"task_id": draft["task_id"], "task": ' {"n": 1} '}

    response = operator.post(f"/topics/{test_topic}/send", form)
    operator.post(f"/topics/{test_topic}/send", form)

    assert response.status_code == 303
    assert bus.stats(test_topic)["accepted"] == 2
    assert bus.get_task(draft["task_id"], test_topic).payload == {"n": 1}


def test_a_changed_draft_is_another_task(test_topic: str, operator: Client) -> None:
    bus.enqueue_task(test_topic, "first")
    task_id = operator.get(f"/topics/{test_topic}/").context["draft"]["task_id"]

    for text in ("1", "2"):
        form = {"task_id": task_id, "task": text}
        operator.post(f"/topics/{test_topic}/send", form)

    assert bus.stats(test_topic)["accepted"] == 3


@pytest.mark.parametrize(
    "text", ["", "{", "{'a': 1}", "NaN", '{"a": 1} x', "[" * 40 + "]" * 40]
)
def test_a_mistake_is_shown_beside_what_was_typed(
    text: str, test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, "first")

    response = operator.post(f"/topics/{test_topic}/send", {"task": text})

    assert response.status_code == 422
    assert 'aria-invalid="true"' in response.content.decode()
    assert text in looked_at(response).text
    assert bus.stats(test_topic)["accepted"] == 1
    assert trail() == []


def test_a_full_topic_says_so_in_place(test_topic: str, operator: Client) -> None:
    bus.enqueue_task(test_topic, "first")
    bus.set_limits(test_topic, backlog_max=1)

    response = operator.post(f"/topics/{test_topic}/send", {"task": "1"})

    assert response.status_code == 422
    assert "is full" in looked_at(response).text


def test_an_unknown_topic_is_not_made_by_a_form(
    test_topic: str, operator: Client, redis_client: redis.Redis
) -> None:
    for verb in ("pause", "resume"):
        assert operator.post(f"/topics/{test_topic}/{verb}").status_code == 404

    assert redis_client.keys() == []


# --- who may

ACTIONS = [
    "/tasks/{id}/cancel",
    "/tasks/{id}/run",
    "/dead/{id}/replay",
    "/dead/{id}/discard",
    "/dead/{id}/undo",
    "/topics/{topic}/pause",
    "/topics/{topic}/resume",
    "/topics/{topic}/send",
    "/agents/a/drain",
]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_hand_made_post_of_a_viewer_is_refused(
    action: str,
    test_topic: str,
    viewer: Client,
    redis_client: redis.Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    task_id = dead_task(test_topic, {"n": 1})
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    path = action.format(id=task_id, topic=test_topic)

    response = viewer.post(path, {"task": "1"})

    assert response.status_code == 403
    assert "Your role, viewer, does not include this" in looked_at(response).text
    [line] = [each for each in caplog.records if each.name == "dashboard.failures"]
    assert line.exc_info is None and path in line.getMessage()
    after = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    assert after == before and trail() == []


@pytest.mark.parametrize("action", ACTIONS)
def test_a_stranger_signs_in_first_and_lands_on_a_page(
    action: str, test_topic: str, client: Client
) -> None:
    path = action.format(id=NEVER_SENT, topic=test_topic)

    response = client.post(path, {"next": "/dead/"})

    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/dead/"


@pytest.mark.parametrize("action", ACTIONS)
def test_a_form_of_another_site_changes_nothing(action: str, test_topic: str) -> None:
    client = signed_in("operator", enforce_csrf_checks=True)
    task_id = dead_task(test_topic, {"n": 1})
    path = action.format(id=task_id, topic=test_topic)

    response = client.post(path, {"task": "1"})

    assert response.status_code == 403
    assert "out of date" in looked_at(response).text
    assert state(task_id, test_topic) == "dead"


@pytest.mark.parametrize("action", ACTIONS)
def test_verbs_that_a_role_lacks_are_absent(
    action: str, test_topic: str, operator: Client
) -> None:
    verb = action.rpartition("/")[2]
    dead_id = dead_task(test_topic, {"n": 1})
    put_away = dead_task(test_topic, {"n": 2})
    bus.discard(put_away, test_topic)
    waiting = bus.enqueue_task(test_topic, 3)
    if verb == "resume":
        bus.pause(test_topic)
    bus.register_agent("a", "t")
    pages = [
        "/agents/a/",
        f"/topics/{test_topic}/",
        *(f"/tasks/{each}/" for each in (waiting, put_away)),
        *(f"/dead/{each}/" for each in (dead_id, put_away)),
    ]

    def offered(client: Client) -> bool:
        target = re.compile(rf'/{verb}["?]')  # /replays/ is a page
        return any(target.search(client.get(p).content.decode()) for p in pages)

    assert offered(operator)
    assert not offered(signed_in("viewer"))


@pytest.mark.parametrize("action", ACTIONS)
def test_actions_are_post_only(action: str, test_topic: str, operator: Client) -> None:
    task_id = dead_task(test_topic, {"n": 1})
    path = action.format(id=task_id, topic=test_topic)

    response = operator.get(path)

    assert response.status_code == (200 if path.endswith("discard") else 405)
    assert state(task_id, test_topic) == "dead"


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example", "javascript:alert(1)"]
)
def test_forms_lead_nowhere_outside(
    target: str, test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"n": 1})

    response = operator.post(f"/dead/{task_id}/replay", {"next": target})

    assert response["Location"] == f"/tasks/{task_id}/?topic={test_topic}"


@pytest.mark.parametrize("action", ACTIONS)
def test_without_redis_an_action_says_that_nothing_was_changed(
    action: str, test_topic: str, operator: Client, failure_simulator: Any
) -> None:
    path = action.format(id=NEVER_SENT, topic=test_topic)
    failure_simulator.unreachable()

    response = operator.post(path, {"task": "1", "task_id": NEVER_SENT})

    assert response.status_code == 503
    text = looked_at(response).text
    assert "Nothing was changed" in text or "look whether it happened" in text
    assert trail() == []
