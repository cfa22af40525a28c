"""Dead letters over HTTP: found, replayed once, discarded, brought back."""

from __future__ import annotations

from typing import Any

import pytest

import bus
from bus import models
from tests.support.api import a_dead_one, api, finish, problem
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"


def test_a_letter_is_replayed_once(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)

    first = client.post(f"dead/{task_id}/replay")
    again = client.post(f"dead/{task_id}/replay")

    moved = {"id": task_id, "topic": test_topic, "state": "waiting"}
    assert (first.status_code, first.json()) == (200, moved)
    problem(again, 409, "not_dead")
    assert models.AuditEntry.objects.get(verb="replay").target == task_id


def test_a_letter_is_replayed_with_another_payload(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic, {"n": 1})

    client.post(f"dead/{task_id}/replay", {"task": None})

    assert bus.get_task(task_id).payload is None
    problem(client.post(f"dead/{task_id}/replay", {"x": 1}), 422, "invalid")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", f"dead/{NOBODY}/replay"), ("POST", f"dead/{NOBODY}/undo")),
        *(("DELETE", f"dead/{NOBODY}"), ("POST", f"tasks/{NOBODY}/run")),
        *(("POST", "replays"), ("POST", "tokens")),
    ],
)
@pytest.mark.parametrize("key", ["", " \t "])
def test_an_empty_key_names_no_request(
    test_topic: str, method: str, path: str, key: str
) -> None:
    """As one of all who send it so it would make strangers' requests the same."""
    client = api("admin")
    body = {"replays": b'{"error": "no"}', "tokens": b'{"name": "a", "role": "agent"}'}
    path = path.replace(NOBODY, a_dead_one(client, test_topic))
    tokens = models.Token.objects.count()

    refused = client.raw(path, body.get(path, b""), method=method, Idempotency_Key=key)

    problem(refused, 422, "invalid_option")
    assert bus.stats(test_topic)["dead"] == 1
    assert models.Token.objects.count() == tokens


def test_a_replay_names_the_letter_and_the_request_it_is_of(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic, {"n": 1})
    seen, url = bus.get_dead(task_id).entry_id, f"dead/{task_id}/replay"

    other = client.post(url, {"entry_id": "1-1"})
    edit = {"entry_id": seen, "task": {"n": 2}}
    first = client.post(url, edit, Idempotency_Key="click 1")
    again = client.post(url, edit, Idempotency_Key="\tclick 1 ")
    late = client.post(url, {"entry_id": seen})

    assert problem(other, 409, "not_dead")["state"] == "dead"
    assert (first.status_code, first.json()) == (200, again.json())
    assert problem(late, 409, "not_dead")["state"] == "waiting"
    problem(client.post(url, {"entry_id": "x"}), 422, "invalid_name")
    [replay] = client.get(f"tasks/{task_id}").json()["replays"]
    assert (replay["letter"], replay["payload"]) == (seen, {"n": 1})
    assert replay["by"] == "test operator"
    assert bus.stats(test_topic)["replayed"] == 1


def test_a_used_key_is_for_the_same_payload_only_and_tells_the_state_there_is(
    test_topic: str,
) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic, {"n": 1})
    url, key = f"dead/{task_id}/replay", {"Idempotency_Key": "click 1"}
    edit = {"task": {"a": 1, "b": 2}}

    first = client.post(url, edit, **key)
    other = client.post(url, {"task": {"n": 3}}, **key)
    plain = client.post(url, **key)
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)
    dead = client.post(url, {"task": {"b": 2, "a": 1}}, **key)
    late = client.post(url, {"task": {"n": 3}}, **key)
    client.post(url)
    finish(test_topic)
    done = client.post(url, edit, **key)

    for refused in (other, plain, late):
        problem(refused, 409, "task_conflict")
    states = [answer.json()["state"] for answer in (first, dead, done)]
    assert states == ["waiting", "dead", "done"]
    assert bus.get_task(task_id).payload == {"a": 1, "b": 2}
    assert bus.stats(test_topic)["replayed"] == 2
    for replay in bus.get_task(task_id).replays:
        assert not {"mark", "digest"} & replay.keys()


def test_a_key_used_without_an_edit_is_not_for_one(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic, {"n": 1})
    url, key = f"dead/{task_id}/replay", {"Idempotency_Key": "click 1"}

    client.post(url, **key)

    assert client.post(url, {"task": {"n": 1}}, **key).json()["state"] == "waiting"
    problem(client.post(url, {"task": {"n": 2}}, **key), 409, "task_conflict")


def test_a_discard_can_be_undone(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)

    gone = client.delete(f"dead/{task_id}")
    hidden = client.get(f"dead/{task_id}")
    back = client.post(f"dead/{task_id}/undo")

    assert (gone.status_code, gone.json()["state"]) == (200, "discarded")
    problem(hidden, 404, "dead_letter_not_found")
    assert (back.status_code, back.json()["state"]) == (200, "dead")
    assert client.get(f"dead/{task_id}").json()["task"] == 1
    verbs = set(models.AuditEntry.objects.values_list("verb", flat=True))
    assert verbs == {"discard", "undo"}
    problem(client.post(f"dead/{NOBODY}/undo"), 404, "dead_letter_not_found")
    problem(client.delete(f"dead/{NOBODY}"), 404, "dead_letter_not_found")
    problem(client.post(f"dead/{NOBODY}/replay"), 404, "dead_letter_not_found")


def test_a_key_makes_the_repeat_of_a_discard_or_undo_harmless(test_topic: str) -> None:
    client = api()
    url, key = f"dead/{a_dead_one(client, test_topic)}", {"Idempotency_Key": "click"}

    def discard(**headers: str) -> Any:
        return client.raw(url, b"", method="DELETE", **headers)

    def undo(**headers: str) -> Any:
        return client.post(f"{url}/undo", **headers)

    keyed = [discard(**key), discard(**key), undo(**key), undo(**key), discard(**key)]
    bare = undo()

    told = [(each.status_code, each.json()["state"]) for each in keyed]
    states = ["discarded", "discarded", "dead", "dead", "dead"]
    assert told == [(200, state) for state in states]
    problem(bare, 404, "dead_letter_not_found")
    assert discard().json()["state"] == "discarded"
    assert problem(discard(), 409, "not_dead")["state"] == "discarded"
    details = models.AuditEntry.objects.order_by("id").values_list("detail", flat=True)
    assert [each.get("repeat", False) for each in details] == [
        *(False, True, False, True, True),
        False,
    ]


def test_letters_of_all_topics_come_newest_first(test_topic: str) -> None:
    client = api()
    topics = [test_topic, f"{test_topic}-b"]
    ids = [a_dead_one(client, topics[n % 2], n) for n in range(7)]

    first = client.get("dead", count=4).json()
    second = client.get("dead", count=4, cursor=first["next"]).json()
    one = client.get("dead", topic=topics[1]).json()

    found = [row["id"] for row in first["dead"] + second["dead"]]
    assert found == ids[::-1]
    assert second["next"] is None
    assert [row["id"] for row in one["dead"]] == ids[5::-2]


def test_letters_are_found_by_group_error_and_time(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)
    letter = client.get(f"dead/{task_id}").json()
    group = client.get("dead/groups").json()["groups"][0]

    def found(**query: str) -> int:
        return len(client.get("dead", **query).json()["dead"])

    assert (group["topic"], group["count"]) == (test_topic, 1)
    assert group["fingerprint"] == letter["fingerprint"]
    assert found(group=group["fingerprint"]) == 1
    assert found(group="0" * 16) == 0
    assert found(error=letter["error"]["message"].upper()) == 1
    assert found(error="something else") == 0
    assert found(since=letter["died_at"]) == 1
    assert found(until=letter["died_at"]) == 0


@pytest.mark.parametrize("call", ["dead/{id}", "topics/{topic}"])
def test_a_delete_does_not_drop_what_its_body_says(test_topic: str, call: str) -> None:
    client = api("admin")
    path = call.format(id=a_dead_one(client, test_topic), topic=test_topic)

    broken = client.raw(path, b"{nonsense", method="DELETE")
    named = client.raw(path, b'{"force": true}', method="DELETE")

    problem(broken, 400, "unreadable")
    [wrong] = problem(named, 422, "invalid")["errors"]
    assert wrong["pointer"] == "/force"
    assert client.raw(path, b"{}", method="DELETE").status_code == 200
