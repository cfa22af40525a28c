"""Forms about a whole topic: limits, purge, settle, delete, for admins only."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from django.test import Client

import bus
from bus import keys, topics
from bus.models import AuditEntry
from tests.integration.test_dashboard_pages import dead_task
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db

VERBS = ("limits", "purge", "settle", "delete")


def trail() -> list[AuditEntry]:
    return [*AuditEntry.objects.order_by("id")]


def said(response: Any) -> str:
    """What the page after a form says."""
    page = response.client.get(response["Location"])
    return " ".join(str(message) for message in page.context["messages"])


# --- for whom


@pytest.mark.parametrize("verb", VERBS)
def test_only_an_admin_is_offered_it_and_may(verb: str, test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    page, url = f"/topics/{test_topic}/", f"/topics/{test_topic}/{verb}"

    for role, may in (("viewer", False), ("operator", False), ("admin", True)):
        client = signed_in(role)
        assert (url in client.get(page).content.decode()) is may
        assert client.get(url).status_code == (200 if may else 403)
        if not may:
            form = {"what": "all", "name": test_topic, "backlog_max": "7"}
            assert client.post(url, form).status_code == 403

    assert bus.stats(test_topic)["waiting"] == 1
    assert bus.stats(test_topic)["limits"]["backlog_max"] != 7
    assert trail() == []


@pytest.mark.parametrize("verb", VERBS)
def test_a_form_of_another_site_changes_nothing(verb: str, test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    client = signed_in("admin", enforce_csrf_checks=True)
    form = {"what": "all", "name": test_topic, "backlog_max": "7"}

    response = client.post(f"/topics/{test_topic}/{verb}", form)

    assert response.status_code == 403
    assert bus.stats(test_topic)["waiting"] == 1 and trail() == []


@pytest.mark.parametrize("verb", VERBS)
def test_looking_at_the_form_changes_nothing(
    verb: str, test_topic: str, admin: Client, redis_client: redis.Redis
) -> None:
    dead_task(test_topic, 1)
    bus.enqueue_task(test_topic, 2)
    before = {key: redis_client.dump(key) for key in redis_client.scan_iter()}

    looked_at(admin.get(f"/topics/{test_topic}/{verb}"))

    after = {key: redis_client.dump(key) for key in redis_client.scan_iter()}
    assert after == before and trail() == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("topic", ["never-sent", "Not%20A%20Topic"])
def test_a_topic_nobody_knows_is_not_found_and_not_made(
    verb: str, topic: str, admin: Client
) -> None:
    response = admin.get(f"/topics/{topic}/{verb}")

    assert response.status_code == 404
    assert bus.list_topics() == []


# --- limits


def test_limits_are_set_and_an_empty_field_is_the_default(
    test_topic: str, admin: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.set_limits(test_topic, dead_max=9, timeout_s=2.5)
    url = f"/topics/{test_topic}/limits"
    form = {"backlog_max": "500", "dead_max": "", "timeout_s": "2.5"}

    page = admin.get(url)
    response = admin.post(url, form)

    assert 'value="9"' in page.content.decode()
    assert 'value="2.5"' in page.content.decode()
    limits = bus.stats(test_topic)["limits"]
    assert (limits["backlog_max"], limits["timeout_s"]) == (500, 2.5)
    assert limits["dead_max"] == 100_000
    [entry] = trail()
    assert (entry.verb, entry.topic) == ("limit", test_topic)
    assert entry.before == {"backlog_max": 100_000, "dead_max": 9}
    assert entry.after == {"backlog_max": 500, "dead_max": 100_000}
    assert "limits are set" in said(response)


def test_a_limit_that_is_the_default_can_be_set_and_unset(
    test_topic: str, admin: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    url = f"/topics/{test_topic}/limits"
    empty = admin.get(url).content.decode()
    assert 'placeholder="as its handler says, else 5"' in empty

    # A handler may say otherwise, so that this is no default.
    admin.post(url, {"max_attempts": "5"})
    held = topics.own_limits(test_topic)
    page = admin.get(url).content.decode()
    admin.post(url, {"max_attempts": ""})

    assert held["max_attempts"] == 5 and 'value="5"' in page
    assert set(topics.own_limits(test_topic).values()) == {None}
    assert len(trail()) == 2


def test_a_second_click_sets_nothing(test_topic: str, admin: Client) -> None:
    bus.enqueue_task(test_topic, 1)
    url, form = f"/topics/{test_topic}/limits", {"backlog_max": "500"}
    admin.post(url, form)

    again = admin.post(url, form)

    assert "Nothing was changed" in said(again)
    assert len(trail()) == 1


CALLED = {
    "backlog_max": "Backlog",
    "dead_max": "Dead letters",
    "results_keep": "Results kept",
    "max_attempts": "Attempts",
    "timeout_s": "Time limit of an attempt, s",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("backlog_max", "0"),
        ("backlog_max", "1.5"),
        ("backlog_max", "many"),
        ("dead_max", "99999999999"),
        ("results_keep", "-1"),
        ("max_attempts", "1001"),
        ("timeout_s", "nan"),
        ("timeout_s", "0"),
        ("timeout_s", "9" * 5000),
    ],
)
def test_a_limit_that_is_none_is_told_beside_the_form_which_keeps_the_rest(
    name: str, text: str, test_topic: str, admin: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    before = bus.stats(test_topic)["limits"]
    other = "dead_max" if name == "backlog_max" else "backlog_max"

    response = admin.post(f"/topics/{test_topic}/limits", {name: text, other: "77"})

    assert response.status_code == 422
    looked_at(response)
    alert = re.search(r'role="alert">.*?</svg>([^<]+)', response.content.decode())
    assert alert and re.match(f"{CALLED[name]}[: ]", alert[1])
    assert 'value="77"' in response.content.decode()
    assert bus.stats(test_topic)["limits"] == before and trail() == []


# --- purge


@pytest.mark.parametrize(
    ("what", "left"),
    [("waiting", (0, 0, 1, 1)), ("dead", (1, 1, 0, 1)), ("all", (0, 0, 0, 1))],
)
def test_purge_ends_what_was_chosen(
    what: str, left: tuple[int, ...], test_topic: str, admin: Client
) -> None:
    desk = Desk(test_topic, "hand")
    bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True)
    bus.enqueue_task(test_topic, 2)
    desk.one()
    bus.enqueue_task(test_topic, 3)
    bus.enqueue_task(test_topic, 4, delay_s=60)

    response = admin.post(f"/topics/{test_topic}/purge", {"what": what})

    row = bus.stats(test_topic)
    counts = tuple(row[name] for name in ("waiting", "delayed", "dead", "running"))
    assert counts == left
    assert row["ledger"]["drift"] == 0
    [entry] = trail()
    assert (entry.verb, entry.detail["what"]) == ("purge", what)
    assert "Purged" in said(response)


def test_purge_says_how_many_would_go_before(test_topic: str, admin: Client) -> None:
    bus.enqueue_many(test_topic, range(3))
    bus.enqueue_task(test_topic, 4, delay_s=60)

    text = looked_at(admin.get(f"/topics/{test_topic}/purge")).text

    assert "3 waiting and 1 delayed" in text and "no undo" in text


@pytest.mark.parametrize("what", ["", "everything", "WAITING"])
def test_a_purge_of_nothing_that_is_known_is_asked_again(
    what: str, test_topic: str, admin: Client
) -> None:
    bus.enqueue_task(test_topic, 1)

    response = admin.post(f"/topics/{test_topic}/purge", {"what": what})

    assert response.status_code == 422
    assert "Choose what is to go" in looked_at(response).text
    assert bus.stats(test_topic)["waiting"] == 1 and trail() == []


def test_a_second_click_purges_nothing(test_topic: str, admin: Client) -> None:
    bus.enqueue_task(test_topic, 1)
    url = f"/topics/{test_topic}/purge"
    admin.post(url, {"what": "all"})

    again = admin.post(url, {"what": "all"})

    assert "nothing to purge" in said(again)


# --- settle


def test_a_ledger_that_is_off_is_settled_after_a_question(
    test_topic: str, admin: Client, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    redis_client.hincrby(keys.named("counters", test_topic), "accepted", 2)
    url = f"/topics/{test_topic}/settle"

    question = looked_at(admin.get(url)).text
    first = said(admin.post(url))
    again = said(admin.post(url))

    assert "Look and settle" in question and "no undo" in question
    assert "+2 is entered" in first
    assert "Nothing to settle" in again
    row = bus.stats(test_topic)
    assert (row["ledger"]["drift"], row["settled"]) == (0, 2)
    [entry] = trail()
    assert (entry.verb, entry.detail["settled"]) == ("settle", 2)


def test_a_task_in_two_states_is_decided_before_its_ledger_is_settled(
    test_topic: str, admin: Client, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, "g", "by-hand")
    row = {"id": task_id, "json": '{"by": "hand"}'}
    ms, seq = str(redis_client.xadd(bus.result_stream(test_topic), row)).split("-")
    end = int(ms) * 4096 + int(seq)
    redis_client.zadd(keys.named("done", test_topic), {task_id: end})
    redis_client.hincrby(keys.named("counters", test_topic), "accepted", 2)

    response = admin.post(f"/topics/{test_topic}/settle")

    assert response.status_code == 409
    text = looked_at(response).text
    assert "in two states at once" in text and f"live and done {task_id}" in text
    assert bus.stats(test_topic)["settled"] == 0 and trail() == []


def test_a_ledger_that_balances_has_no_button(test_topic: str, admin: Client) -> None:
    bus.enqueue_task(test_topic, 1)

    text = looked_at(admin.get(f"/topics/{test_topic}/settle")).text

    assert "nothing to settle" in text and "Look and settle" not in text


# --- delete


def test_a_topic_is_deleted_once_its_name_is_typed(
    test_topic: str, admin: Client
) -> None:
    waiting = bus.enqueue_task(test_topic, 1)
    url = f"/topics/{test_topic}/delete"

    slip = admin.post(url, {"name": "demo"})
    kept = bus.list_topics()
    response = admin.post(url, {"name": f" {test_topic} "})
    told = said(response)
    again = admin.post(url, {"name": test_topic})

    assert slip.status_code == 422
    assert f"Type its name, {test_topic}" in looked_at(slip).text
    assert 'value="demo"' in slip.content.decode()
    assert kept == [test_topic]
    assert bus.list_topics() == []
    with pytest.raises(bus.TaskNotFound):
        bus.get_task(waiting)
    assert "1 cancelled" in told
    assert again["Location"] == "/topics/"
    assert "any more" in said(again)
    [entry] = trail()
    assert (entry.verb, entry.target) == ("delete", test_topic)
    assert entry.detail == {"force": False, "cancelled": 1, "discarded": 0}


def test_while_agents_run_its_tasks_it_stays_unless_forced(
    test_topic: str, admin: Client
) -> None:
    desk = Desk(test_topic, "hand")
    bus.enqueue_task(test_topic, 1)
    desk.one()
    url = f"/topics/{test_topic}/delete"

    refused = admin.post(url, {"name": test_topic})
    still = bus.list_topics()
    forced = admin.post(url, {"name": test_topic, "force": "1"})

    assert refused.status_code == 409
    assert "Agents run 1 task" in looked_at(refused).text
    assert still == [test_topic]
    assert forced.status_code == 303 and bus.list_topics() == []
    assert [entry.detail["force"] for entry in trail()] == [True]


@pytest.mark.parametrize("verb", VERBS)
def test_without_redis_it_says_that_nothing_was_changed(
    verb: str, test_topic: str, admin: Client, failure_simulator: Any
) -> None:
    failure_simulator.unreachable()

    response = admin.post(f"/topics/{test_topic}/{verb}", {"what": "all"})

    assert response.status_code == 503
    assert "Nothing was changed" in looked_at(response).text
