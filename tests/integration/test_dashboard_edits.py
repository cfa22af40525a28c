"""A letter edited and replayed: what differs is shown before, and it happens once."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from django.test import Client

import bus
from bus.models import AuditEntry
from dashboard import edits
from tests.integration.test_dashboard_pages import NASTY
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


def die(topic: str) -> None:
    desk = Desk(topic)
    desk.fail(desk.one(), final=True)


def dead_task(topic: str, payload: Any) -> str:
    task_id = bus.enqueue_task(topic, payload)
    die(topic)
    return task_id


def url_of(task_id: str, topic: str) -> str:
    return f"/dead/{task_id}/edit?topic={topic}"


def hidden(response: Any) -> dict[str, str]:
    """What the page's form would send, with its button."""
    text = response.content.decode()
    pairs = re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', text)
    return {**{name: html.unescape(value) for name, value in pairs}, "sure": "1"}


def toasts(response: Any) -> str:
    page = response.client.get(response["Location"])
    return " ".join(str(message) for message in page.context["messages"])


def test_what_differs_is_shown_and_then_replayed(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, {"page": 7, "ink": "red"})
    url = url_of(task_id, test_topic)

    form = operator.get(url)
    review = operator.post(url, {"payload": '{"page": 8, "ink": "red"}'})
    still = bus.get_task(task_id, test_topic)
    done = operator.post(url, hidden(review))

    assert "&quot;page&quot;: 7" in form.content.decode()
    text = looked_at(review).text
    assert 'Gone:   "page": 7,' in text and 'New:   "page": 8,' in text
    assert still.state == "dead"
    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.payload) == ("waiting", {"page": 8, "ink": "red"})
    assert task.replays[0]["payload"] == {"page": 7, "ink": "red"}
    assert "Replayed with its new payload" in toasts(done)
    [entry] = AuditEntry.objects.all()
    assert (entry.verb, entry.target) == ("replay", task_id)
    assert entry.before == {"page": 7, "ink": "red"}
    assert entry.after == {"page": 8, "ink": "red"}


def test_a_second_click_replays_nothing(test_topic: str, operator: Client) -> None:
    task_id = dead_task(test_topic, 1)
    url = url_of(task_id, test_topic)
    form = hidden(operator.post(url, {"payload": "2"}))
    operator.post(url, form)

    again = operator.post(url, form)
    die(test_topic)
    late = operator.post(url, form)

    assert again["Location"] == late["Location"]
    assert bus.get_task(task_id, test_topic).state == "dead"
    assert bus.stats(test_topic)["replayed"] == 1
    assert AuditEntry.objects.count() == 1


def test_who_comes_second_is_told(test_topic: str, operator: Client) -> None:
    task_id = dead_task(test_topic, 1)
    url = url_of(task_id, test_topic)
    form = hidden(operator.post(url, {"payload": "2"}))
    bus.replay(task_id, test_topic)

    response = operator.post(url, form)

    assert "Not replayed: the task is waiting now." in toasts(response)
    assert bus.get_task(task_id, test_topic).payload == 1


def test_a_letter_that_died_again_since_is_not_replayed_with_the_old_edit(
    test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, 1)
    url = url_of(task_id, test_topic)
    form = hidden(operator.post(url, {"payload": "2"}))
    bus.replay(task_id, test_topic)
    die(test_topic)

    response = operator.post(url, form)

    assert "somebody was first" in toasts(response)
    assert bus.get_task(task_id, test_topic).state == "dead"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"a": ', "The payload is not JSON"),
        ("", "The payload is empty"),
        ('{"a": 1, "a": 2}', "The payload has the key 'a' twice"),
        ('{"n": 18446744073709551617}', "The payload has the integer 1844674407"),
        ("[" * 40 + "]" * 40, "deep"),
        (json.dumps("x" * 300_000), "bytes"),
        ("1", "This is the payload it has"),
        (" 1 ", "This is the payload it has"),
    ],
)
def test_a_mistake_is_shown_beside_what_was_typed(
    text: str, says: str, test_topic: str, operator: Client
) -> None:
    task_id = dead_task(test_topic, 1)

    response = operator.post(url_of(task_id, test_topic), {"payload": text})

    assert response.status_code == 422
    assert says in looked_at(response).text
    assert bus.get_task(task_id, test_topic).state == "dead"


def test_a_payload_is_text_and_comes_back_as_it_was(
    test_topic: str, operator: Client
) -> None:
    payload = {"text": NASTY + "\n</textarea>", "n": [1, 1.5, None, True, "é"]}
    task_id = dead_task(test_topic, payload)

    page = operator.get(url_of(task_id, test_topic))
    review = operator.post(
        url_of(task_id, test_topic), {"payload": json.dumps([NASTY])}
    )

    looked_at(page)
    area = page.content.decode().split('autocomplete="off">\n')[1]
    assert json.loads(html.unescape(area.split("</textarea>")[0])) == payload
    looked_at(review)
    assert json.loads(hidden(review)["payload"]) == [NASTY]


def test_a_number_beyond_64_bits_stands_in_the_form_as_it_came(
    test_topic: str, operator: Client
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    bus.move_to_dead(test_topic, desk.one().sid, {"n": 2**64 + 1})

    page = operator.get(url_of(task_id, test_topic))

    assert f"&quot;n&quot;: {2**64 + 1}" in page.content.decode()


def test_a_viewer_neither_sees_nor_may(test_topic: str) -> None:
    task_id = dead_task(test_topic, 1)
    viewer, url = signed_in("viewer"), url_of(task_id, test_topic)

    assert "/edit" not in viewer.get(f"/dead/{task_id}/").content.decode()
    assert viewer.get(url).status_code == 403
    assert viewer.post(url, {"payload": "2", "sure": "1"}).status_code == 403
    assert bus.get_task(task_id, test_topic).state == "dead"


def test_a_letter_that_left_leads_to_its_task(
    test_topic: str, operator: Client
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    response = operator.get(url_of(task_id, test_topic))

    assert response["Location"] == f"/tasks/{task_id}/?topic={test_topic}"


def test_long_texts_are_compared_around_what_differs() -> None:
    old = [f"line {n}" for n in range(50_000)]
    new = [*old[:25_000], "other", *old[25_001:]]

    found = edits.differing("\n".join(old), "\n".join(new))

    assert ("gone", "line 25000") in found and ("new", "other") in found
    assert found[0] == ("skip", "24,997 lines the same") and len(found) == 10


def test_texts_that_have_nothing_in_common_are_told_one_after_the_other() -> None:
    old, new = [f"a{n}" for n in range(900)], [f"b{n}" for n in range(900)]

    found = edits.differing("\n".join(old), "\n".join(new))

    assert [kind for kind, _ in found] == ["gone"] * 900 + ["new"] * 900


def test_what_nobody_sees_is_seen_where_a_payload_is_edited(test_topic: str) -> None:
    task_id = dead_task(test_topic, {"file": "\u202egnp.exe"})

    page = signed_in("operator").get(url_of(task_id, test_topic)).content.decode()

    assert "\\u202egnp.exe" in page and "\u202e" not in page
