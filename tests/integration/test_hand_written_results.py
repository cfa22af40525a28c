"""Results that an agent written by hand publishes itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

import bus
from bus import errors
from tests.support.api import api
from tests.support.pages import signed_in
from tests.support.waiting import wait_until


def by_hand(topic: str, past: dict[str, str] | None = None, **said: Any) -> str:
    """A task done by hand, its row published well before its ack."""
    task_id = bus.enqueue_task(topic, "work")
    [(entry_id, fields)] = bus.read_group(topic, "mine", "me", block_ms=0)
    row = json.dumps({"id": task_id, "topic": topic, **said}, separators=(",", ":"))
    entry: Any = {"id": fields["id"], "json": row, **(past or {})}
    client = bus.get_redis()
    client.xadd(bus.result_stream(topic), entry)
    # Another moment on the server's clock than that of the row.
    before = client.time()
    wait_until(lambda: client.time() > (before[0], before[1] + 5_000))
    assert bus.ack(topic, "mine", entry_id) == 1
    return task_id


def test_it_is_found_although_the_ack_came_later(test_topic: str) -> None:
    task_id = by_hand(test_topic, result={"n": 1})

    assert bus.get_task(task_id, test_topic).result == {"n": 1}
    assert bus.wait_result(task_id, test_topic, 1).result == {"n": 1}


def test_a_letter_moved_with_its_error_is_replayed_as_it_was(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 7})
    [(entry_id, fields)] = bus.read_group(test_topic, "mine", "me", block_ms=0)

    bus.move_to_dead(test_topic, entry_id, fields["payload"], error="seven")
    died_of = bus.get_dead(task_id, test_topic).error["message"]
    bus.replay(task_id, test_topic)

    [(_, again)] = bus.read_group(test_topic, "mine", "me", block_ms=0)
    assert (died_of, again["payload"]) == ("seven", {"n": 7})


@pytest.mark.parametrize("state", ["ok", "dead", "running", "", None, 7, ["done"], {}])
def test_whatever_state_it_names_its_task_is_done(test_topic: str, state: Any) -> None:
    task_id = by_hand(test_topic, state=state, result=1)

    task = bus.wait_result(task_id, test_topic, 1)

    assert (task.state, task.result) == ("done", 1)
    assert bus.explain(task_id, test_topic).startswith("It was done")
    assert [each.id for each in bus.list_tasks(test_topic, "done")[0]] == [task_id]
    with pytest.raises(errors.NotCancellable, match="has ended: done"):
        bus.cancel(task_id, test_topic)


@pytest.mark.django_db
def test_a_topic_that_it_names_is_not_where_it_lies(test_topic: str) -> None:
    by_hand(test_topic, entry_id="1-1", result=1)
    row = {"id": "by-hand", "topic": "theirs", "entry_id": "1-1"}
    entry: Any = {"id": "by-hand", "json": json.dumps(row)}
    bus.get_redis().xadd(bus.result_stream(test_topic), entry)
    client = api("viewer", (test_topic,))

    page = client.get("results", topic=test_topic).json()["results"]
    file = client.get("results", topic=test_topic, format="jsonl")
    lines = [json.loads(line) for line in b"".join(file.streaming_content).splitlines()]

    assert [each["topic"] for each in page] == [test_topic] * 2
    assert page == lines
    assert "1-1" not in [each["entry_id"] for each in page]


@pytest.mark.parametrize("state", ["cancelled", "discarded"])
def test_an_end_that_tasks_may_have_is_taken_from_it(
    test_topic: str, state: str
) -> None:
    task_id = by_hand(test_topic, state=state)

    assert bus.get_task(task_id, test_topic).state == state


MEMBERS = (
    *("state", "task", "result", "error", "agent", "attempt", "fence"),
    *("enqueued_at", "started_at", "finished_at"),
    *("max_attempts", "timeout_s", "again_of", "attempts", "replays", "epoch"),
)
ODD = (
    *(None, True, -7, 1e300, "", "a/b", [], {}, ["done"], {"type": {}, "message": []}),
    *("1961-04-12T06:07:00Z", "9999-12-31T23:59:59Z", "2026-01-01"),
)


@pytest.mark.django_db(transaction=True, serialized_rollback=True)
@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_nothing_that_it_says_is_a_mistake_of_ours(test_topic: str, odd: Any) -> None:
    client = api()
    line = json.dumps({"replay": odd, "epoch": odd, "at": odd, "by": odd})
    failed = json.dumps(dict.fromkeys(MEMBERS, odd))
    past = {"epoch": "2", "attempts": f"{failed}\n{line}"}
    task_id = by_hand(test_topic, past, **dict.fromkeys(MEMBERS, odd))

    page = client.get(f"tasks/{task_id}", topic=test_topic)
    listed = client.get("tasks", topic=test_topic, state="done")
    rows = client.get("results", topic=test_topic)
    cancelled = client.post(f"tasks/{task_id}/cancel?topic={test_topic}")
    again = client.post(f"tasks/{task_id}/run?topic={test_topic}")
    pages = [
        signed_in("viewer").get(path, {"topic": test_topic})
        for path in (f"/tasks/{task_id}/", "/tasks/", "/results/")
    ]

    assert (page.status_code, page.json()["result"]) == (200, odd)
    assert [task["id"] for task in listed.json()["tasks"]] == [task_id]
    assert rows.status_code == 200 and len(rows.json()["results"]) == 1
    assert [page.status_code for page in pages] == [200] * 3
    assert cancelled.status_code == 409
    assert again.status_code == (409 if odd is None else 201)  # of no payload
