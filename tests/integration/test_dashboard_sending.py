"""The page that sends a task: options, copies, copies that replace their original."""

from __future__ import annotations

import pytest
from django.test import Client

import bus
from bus.models import AuditEntry
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


def form_of(page: object) -> dict[str, str]:
    """What a browser would send back of the form as it was shown."""
    draft = page.context["draft"]  # type: ignore[attr-defined]
    names = ("task", "task_id", "delay_s", "max_attempts", "timeout_s")
    return {name: draft[name] for name in names}


def verbs() -> list[str]:
    return [row.verb for row in AuditEntry.objects.order_by("id")]


def test_a_task_is_sent_with_its_options(test_topic: str, operator: Client) -> None:
    bus.enqueue_task(test_topic, {"like": "this"})
    page = operator.get(f"/topics/{test_topic}/new")
    options = {"delay_s": "600", "max_attempts": "2", "timeout_s": "1.5"}

    response = operator.post(
        f"/topics/{test_topic}/new", {**form_of(page), **options, "task": '{"n": 1}'}
    )

    sent = bus.get_task(page.context["draft"]["task_id"], test_topic)
    assert response.status_code == 303
    assert (sent.payload, sent.state) == ({"n": 1}, "delayed")
    assert (sent.max_attempts, sent.timeout_s) == (2, 1.5)
    assert '"like": "this"' in looked_at(page).text


def test_a_form_that_was_sent_and_then_changed_sends_one_more_task_once(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 0)
    url = f"/topics/{test_topic}/new"
    form = form_of(operator.get(url))

    for task in ("1", "2", "2"):
        operator.post(url, {**form, "task": task})

    sent = [task.payload for task in bus.list_tasks(test_topic)[0]]
    assert sent == [0, 1, 2]


def test_a_second_click_is_no_second_entry_on_the_audit_trail(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 0)
    url = f"/topics/{test_topic}/new"
    form = form_of(operator.get(url))

    for task in ("1", "1", "2", "2"):
        assert operator.post(url, {**form, "task": task}).status_code == 303

    sent = [task.id for task in bus.list_tasks(test_topic)[0]][1:]
    assert [row.target for row in AuditEntry.objects.order_by("id")] == sent


def test_a_copy_begins_as_its_original(test_topic: str, operator: Client) -> None:
    payload = {"text": "ünï", "deep": [1, {"a": None}]}
    original = bus.enqueue_task(test_topic, payload, max_attempts=3, timeout_s=2.5)
    url = f"/topics/{test_topic}/new?copy={original}"
    assert url in operator.get(f"/tasks/{original}/").content.decode()

    page = operator.get(url)
    looked_at(page)
    form = {**form_of(page), "copy": original}
    operator.post(f"/topics/{test_topic}/new", form)
    operator.post(f"/topics/{test_topic}/new", form)

    sent = bus.get_task(form["task_id"], test_topic)
    assert sent.id != original and sent.payload == payload
    assert (sent.max_attempts, sent.timeout_s) == (3, 2.5)
    assert bus.stats(test_topic)["waiting"] == 2


def test_a_copy_may_replace_what_has_not_started(
    test_topic: str, operator: Client
) -> None:
    original = bus.enqueue_task(test_topic, {"n": 1})
    page = operator.get(f"/topics/{test_topic}/new", {"copy": original})
    assert page.context["draft"]["instead"]  # ticked at first

    form = {**form_of(page), "copy": original, "instead": "1", "task": '{"n": 2}'}
    response = operator.post(f"/topics/{test_topic}/new", form)

    assert response.status_code == 303
    assert bus.get_task(original, test_topic).state == "cancelled"
    assert bus.get_task(form["task_id"], test_topic).payload == {"n": 2}
    assert verbs() == ["cancel", "enqueue"]


@pytest.mark.parametrize(
    ("field", "text", "says"),
    [
        ("task", "{", "JSON"),
        (
            "task",
            '{"account": 18446744073709551617}',
            "The payload has the integer 1844",
        ),
        ("task", '{"a": 1, "a": 2}', "The payload has the key 'a' twice"),
        ("task", '{"a": "\\u0000"}', "The payload holds the character NUL"),
        ("task", "1e400", "The payload has the number 1e400"),
        ("task", " ", "The payload is empty"),
        ("task", '"' + "x" * 300_000 + '"', "bytes"),
        ("delay_s", "soon", "Starts in, s: 'soon' is not a number"),
        ("delay_s", "-1", "Starts in, s -1.0 is not"),
        ("max_attempts", "0", "Attempts 0 "),
        ("timeout_s", "1e9", "Time limit of an attempt, s 1000000000.0 "),
    ],
)
def test_a_mistake_is_told_before_the_original_is_cancelled(
    field: str, text: str, says: str, test_topic: str, operator: Client
) -> None:
    original = bus.enqueue_task(test_topic, 1)
    page = operator.get(f"/topics/{test_topic}/new", {"copy": original})

    form = {**form_of(page), "copy": original, "instead": "1", field: text}
    response = operator.post(f"/topics/{test_topic}/new", form)

    assert response.status_code == 422
    seen = looked_at(response)
    assert says in seen.text
    assert response.context["draft"][field] == text
    assert bus.get_task(original, test_topic).state == "waiting"
    assert bus.stats(test_topic)["accepted"] == 1


def test_nothing_is_sent_instead_of_what_has_ended_meanwhile(
    test_topic: str, operator: Client
) -> None:
    original = bus.enqueue_task(test_topic, 1)
    page = operator.get(f"/topics/{test_topic}/new", {"copy": original})
    desk = Desk(test_topic)
    desk.complete(desk.one())

    form = {**form_of(page), "copy": original, "instead": "1", "task": "2"}
    response = operator.post(f"/topics/{test_topic}/new", form)

    assert response.status_code == 422
    assert "has ended: done" in looked_at(response).text
    assert bus.stats(test_topic)["accepted"] == 1


@pytest.mark.parametrize("copy", ["0198c0de-0000-7000-8000-000000000000", "nonsense"])
def test_a_copy_of_nothing_is_no_page(
    copy: str, test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 1)

    response = operator.get(f"/topics/{test_topic}/new", {"copy": copy})

    assert response.status_code == 404


def test_a_form_makes_no_topic(test_topic: str, operator: Client) -> None:
    path = f"/topics/{test_topic}/new"

    assert operator.get(path).status_code == 404
    assert operator.post(path, {"task": "1"}).status_code == 404
    assert test_topic not in bus.list_topics()


def test_a_viewer_sends_nothing(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    viewer = signed_in("viewer")

    response = viewer.post(f"/topics/{test_topic}/new", {"task": "2"})

    assert response.status_code == 403
    assert viewer.get(f"/topics/{test_topic}/new").status_code == 403
    assert "/new" not in viewer.get(f"/topics/{test_topic}/").content.decode()
    assert bus.stats(test_topic)["accepted"] == 1


# --- a payload unlike the others of its topic


def test_of_a_payload_unlike_the_others_it_is_told_how_it_differs(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_many(test_topic, [{"address": f"{n}@b.c"} for n in range(5)])

    for path in ("new", "send"):
        page = operator.get(f"/topics/{test_topic}/new")
        form = {**form_of(page), "task": '{"adress": "x@b.c"}'}
        sent = operator.post(f"/topics/{test_topic}/{path}", form)
        assert sent.status_code == 303
        text = looked_at(operator.get(sent.headers["Location"])).text
        assert "“address” is missing: all others have it. Is it “adress”?" in text
        task = bus.get_task(form["task_id"], test_topic)
        assert task.payload == {"adress": "x@b.c"}
        bus.cancel(task.id, test_topic)


def test_a_copy_is_like_its_original_whatever_the_others_are(
    test_topic: str, operator: Client
) -> None:
    original = bus.enqueue_task(f"{test_topic}", {"odd": 1}, delay_s=600)
    bus.enqueue_many(test_topic, [{"address": f"{n}@b.c"} for n in range(5)])
    page = operator.get(f"/topics/{test_topic}/new?copy={original}")

    form = {**form_of(page), "copy": original}
    sent = operator.post(f"/topics/{test_topic}/new", form)

    assert sent.status_code == 303
    assert bus.get_task(form["task_id"], test_topic).payload == {"odd": 1}


def test_the_fields_of_the_others_stand_beside_the_form(
    test_topic: str, operator: Client
) -> None:
    bus.enqueue_many(test_topic, [{"who": {"name": "<b>ann"}}, {"who": {"id": 7}}])

    page = operator.get(f"/topics/{test_topic}/new")

    text = looked_at(page).text
    assert "whoobjectall" in text
    assert "who.nametext1<b>ann" in text
    assert "<b>ann" not in page.content.decode()


@pytest.mark.parametrize("text", ['{"account": 18446744073709551617}', '{"a":1,"a":2}'])
def test_the_field_of_a_topics_page_changes_no_payload(
    text: str, test_topic: str, operator: Client
) -> None:
    bus.enqueue_task(test_topic, 1)

    page = operator.post(f"/topics/{test_topic}/send", {"task": text})

    assert page.status_code == 422
    assert "The payload has the" in looked_at(page).text
    assert bus.stats(test_topic)["waiting"] == 1
