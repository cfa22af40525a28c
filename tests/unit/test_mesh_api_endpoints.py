"""The REST API call by call: what goes in, what comes out, with which status."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

import pytest
import redis

import bus
from bus import models
from tests.support.api import (
    ROOT,
    a_dead_one,
    api,
    finish,
    keyspace,
    problem,
    send,
)
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"
ENQUEUED = {"id", "topic", "state", "durability"}


# --- enqueue


def test_a_task_is_accepted_with_its_place(
    test_topic: str, sample_task_data: dict[str, Any]
) -> None:
    response = api().post("enqueue", {"topic": test_topic, "task": sample_task_data})

    body = response.json()
    assert response.status_code == 201
    assert set(body) == ENQUEUED
    assert (body["topic"], body["state"]) == (test_topic, "waiting")
    assert body["durability"] in ("memory", "aof")
    assert response["Location"] == f"{ROOT}/tasks/{body['id']}?topic={test_topic}"
    assert bus.get_task(body["id"]).payload == sample_task_data


@pytest.mark.parametrize("task", [None, 0, False, "", [], {}, "kätzchen 🐈", 1.5])
def test_any_json_value_is_a_task(test_topic: str, task: Any) -> None:
    task_id = send(api(), test_topic, task)

    found = bus.get_task(task_id, test_topic).payload
    assert (found, type(found)) == (task, type(task))


def test_the_same_id_is_the_same_task(test_topic: str) -> None:
    client, own = api(), str(uuid.uuid4())
    body = {"topic": test_topic, "task": {"a": 1}, "id": own}

    first, again = client.post("enqueue", body), client.post("enqueue", body)
    other = client.post("enqueue", {**body, "task": {"a": 2}})

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"] == own
    problem(other, 409, "task_conflict")
    assert bus.stats(test_topic)["backlog"] == 1


def test_an_idempotency_key_makes_a_repeat_one_task(test_topic: str) -> None:
    client, body = api(), {"topic": test_topic, "task": 1}

    first = client.post("enqueue", body, Idempotency_Key="order 7")
    again = client.post("enqueue", body, Idempotency_Key="order 7")
    other = client.post("enqueue", {**body, "task": 2}, Idempotency_Key="order 7")

    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json()["id"] == again.json()["id"]
    problem(other, 409, "task_conflict")


def test_an_idempotency_key_belongs_to_its_token(test_topic: str) -> None:
    body = {"topic": test_topic, "task": 1}

    mine = api().post("enqueue", body, Idempotency_Key="7")
    theirs = api().post("enqueue", body, Idempotency_Key="7")

    assert mine.status_code == theirs.status_code == 201
    assert mine.json()["id"] != theirs.json()["id"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
def test_an_odd_idempotency_key_is_refused(test_topic: str, key: str) -> None:
    body = {"topic": test_topic, "task": 1}

    problem(api().post("enqueue", body, Idempotency_Key=key), 422, "invalid_option")


def test_a_task_has_one_name(redis_client: redis.Redis) -> None:
    body = {"topic": "a", "task": 1, "id": NOBODY}

    document = problem(api().post("enqueue", body, Idempotency_Key="7"), 422, "invalid")

    assert document["errors"][0]["pointer"] == "/id"
    assert keyspace(redis_client) == {}


def test_whole_numbers_may_be_written_with_a_point(test_topic: str) -> None:
    task_id = send(api(), test_topic, 1, max_attempts=2.0)

    assert bus.get_task(task_id).max_attempts == 2


def test_a_task_may_start_later(test_topic: str) -> None:
    client = api()

    in_a_minute = send(client, test_topic, 1, delay_s=60)
    on_new_year = send(client, test_topic, 2, run_at="2031-01-01T00:00:00+01:00")

    assert bus.get_task(in_a_minute).state == "delayed"
    assert bus.get_task(on_new_year).due_at == "2030-12-31T23:00:00.000Z"


def test_options_reach_the_task(test_topic: str) -> None:
    task_id = send(api(), test_topic, 1, max_attempts=2, timeout_s=1.5)

    found = bus.get_task(task_id)
    assert (found.max_attempts, found.timeout_s) == (2, 1.5)


def test_a_full_topic_says_when_to_come_back(test_topic: str) -> None:
    client = api()
    send(client, test_topic, 1, maxlen=1)

    response = client.post("enqueue", {"topic": test_topic, "task": 2, "maxlen": 1})

    document = problem(response, 429, "topic_full")
    assert int(response["Retry-After"]) >= 1
    assert document["retry_after_ms"] >= 1
    assert bus.stats(test_topic)["backlog"] == 1


def test_a_level_the_server_cannot_give_is_refused(test_topic: str) -> None:
    body = {"topic": test_topic, "task": 1, "durability": "replicated:2"}

    problem(api().post("enqueue", body), 422, "invalid_option")


WRONG_FIELDS: list[tuple[dict[str, Any], str]] = [
    ({"state": "done"}, "/state"),
    ({"attempts": 0}, "/attempts"),
    ({"owner": "me"}, "/owner"),
    ({"id": 7}, "/id"),
    ({"topic": None}, "/topic"),
    ({"delay_s": "5"}, "/delay_s"),
    ({"delay_s": True}, "/delay_s"),
    ({"delay_s": None}, "/delay_s"),
    ({"max_attempts": 1.5}, "/max_attempts"),
    ({"timeout_s": []}, "/timeout_s"),
    ({"run_at": "tomorrow"}, "/run_at"),
    ({"run_at": "2031-01-01T00:00:00"}, "/run_at"),
    ({"maxlen": "all"}, "/maxlen"),
]


@pytest.mark.parametrize(("field", "pointer"), WRONG_FIELDS)
def test_a_wrong_field_is_named(
    redis_client: redis.Redis, field: dict[str, Any], pointer: str
) -> None:
    body = {"topic": "wrong-fields", "task": 1, **field}

    document = problem(api().post("enqueue", body), 422, "invalid")

    assert [row["pointer"] for row in document["errors"]] == [pointer]
    assert keyspace(redis_client) == {}


OUT_OF_RANGE: list[dict[str, Any]] = [
    {"delay_s": -1},
    {"delay_s": 1e12},
    {"max_attempts": 0},
    {"max_attempts": 1001},
    {"timeout_s": 0},
    {"maxlen": 0},
    {"run_at": "9999-01-01T00:00:00Z"},
    {"delay_s": 1, "run_at": "2031-01-01T00:00:00Z"},
]


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_an_option_outside_its_range_is_refused(
    redis_client: redis.Redis, field: dict[str, Any]
) -> None:
    body = {"topic": "out-of-range", "task": 1, **field}

    problem(api().post("enqueue", body), 422, "invalid_option")

    assert keyspace(redis_client) == {}


ODD_TOPICS = ["a}{b", "*", "../x", "x" * 65, "Ａ", "a\n", "a.", "agents", "", "A"]


@pytest.mark.parametrize("topic", ODD_TOPICS)
def test_an_odd_topic_is_refused(redis_client: redis.Redis, topic: str) -> None:
    problem(api().post("enqueue", {"topic": topic, "task": 1}), 422, "invalid_name")

    assert keyspace(redis_client) == {}


def test_too_many_topics_are_refused(test_topic: str, settings: Any) -> None:
    settings.MESH_TOPICS_MAX = 1
    client = api()
    send(client, test_topic)

    response = client.post("enqueue", {"topic": f"{test_topic}-2", "task": 1})

    problem(response, 422, "too_many_topics")


# --- enqueue/batch


def test_each_task_of_a_batch_has_its_own_outcome(test_topic: str) -> None:
    client, own = api(), str(uuid.uuid4())
    send(client, test_topic, "first", id=own)
    tasks = [
        {"topic": test_topic, "task": 1},
        {"topic": test_topic, "task": "first", "id": own},
        {"topic": test_topic, "task": "other", "id": own},
        {"topic": "NO", "task": 1},
        {"topic": test_topic},
        {"topic": f"{test_topic}-b", "task": 2, "delay_s": 5},
        7,
    ]

    response = client.post("enqueue/batch", {"tasks": tasks})

    rows = response.json()["results"]
    assert response.status_code == 200
    assert [row["index"] for row in rows] == list(range(7))
    statuses = [row["status"] for row in rows]
    assert statuses == [201, 200, 409, 422, 422, 201, 422]
    codes = [row["error"]["code"] for row in rows if "error" in row]
    assert codes == ["task_conflict", "invalid_name", "invalid", "invalid"]
    assert rows[1]["id"] == own
    assert rows[5]["state"] == "delayed"


def test_a_batch_sent_again_with_its_key_is_the_same_batch(test_topic: str) -> None:
    client = api()
    body = {"tasks": [{"topic": test_topic, "task": n % 2} for n in range(150)]}

    first = client.post("enqueue/batch", body, Idempotency_Key="batch").json()
    again = client.post("enqueue/batch", body, Idempotency_Key="batch").json()

    assert {row["status"] for row in first["results"]} == {201}
    assert {row["status"] for row in again["results"]} == {200}
    assert bus.stats(test_topic)["backlog"] == 150


@pytest.mark.parametrize("key", ["", "x" * 241, "a\tb"])
def test_an_odd_key_refuses_a_batch_whole(redis_client: redis.Redis, key: str) -> None:
    body = {"tasks": [{"topic": "batch", "task": 1}]}

    response = api().post("enqueue/batch", body, Idempotency_Key=key)

    problem(response, 422, "invalid_option")
    assert keyspace(redis_client) == {}


@pytest.mark.parametrize("count", [0, 1001])
def test_a_batch_is_1_to_1000_tasks(redis_client: redis.Redis, count: int) -> None:
    tasks = [{"topic": "batch", "task": 1}] * count

    problem(api().post("enqueue/batch", {"tasks": tasks}), 422, "invalid")

    assert keyspace(redis_client) == {}


# --- tasks and results


def test_a_task_tells_its_life(test_topic: str) -> None:
    client = api()
    task_id = send(client, test_topic, {"n": 1})

    waiting = client.get(f"tasks/{task_id}").json()
    finish(test_topic, {"ok": True})
    done = client.get(f"tasks/{task_id}", topic=test_topic).json()

    assert waiting["state"] == "waiting"
    assert "No live agent" in waiting["explain"]
    assert "result" not in waiting
    assert done["state"] == "done"
    assert done["result"] == {"ok": True}
    assert done["task"] == {"n": 1}
    assert [row["what"] for row in done["timeline"]][0] == "enqueued"
    assert done["attempt"] == 1


def test_a_dead_task_tells_of_what_it_died(test_topic: str) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)

    found = client.get(f"tasks/{task_id}").json()

    assert found["state"] == "dead"
    assert found["error"]["type"]
    assert len(found["attempts"]) == 1


@pytest.mark.parametrize("name", [NOBODY, "*", "..", "x" * 3000, "%00", "７"])
def test_an_unknown_task_is_not_found(redis_client: redis.Redis, name: str) -> None:
    problem(api().get(f"tasks/{name}"), 404, "task_not_found")


def test_tasks_are_listed_by_state_page_by_page(test_topic: str) -> None:
    client = api()
    ids = [send(client, test_topic, n) for n in range(5)]
    send(client, test_topic, "later", delay_s=60)

    found: list[str] = []
    query: dict[str, Any] = {"topic": test_topic, "state": "waiting", "count": 2}
    while True:
        page = client.get("tasks", **query).json()
        found += [row["id"] for row in page["tasks"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert found == ids


BAD_QUERIES = [
    ("tasks", {}, "invalid"),
    ("tasks", {"topic": "NO"}, "invalid_name"),
    ("tasks", {"topic": "a", "state": "gone"}, "invalid_option"),
    ("tasks", {"topic": "a", "cursor": "x"}, "invalid_option"),
    ("tasks", {"topic": ""}, "invalid_name"),
    ("tasks", {"topic": "a", "state": ""}, "invalid_option"),
    ("tasks", {"topic": "a", "count": "0"}, "invalid"),
    ("agents", {"state": "asleep"}, "invalid"),
    ("dead", {"until": ""}, "invalid"),
    ("tasks", {"topic": "a", "count": "1e9"}, "invalid"),
    ("tasks", {"topic": "a", "count": "-1"}, "invalid"),
    ("tasks", {"topic": "a", "count": "²"}, "invalid"),
    ("results", {"topic": "a", "after": "$"}, "invalid_name"),
    ("results", {"topic": "a", "before": "1-1-1"}, "invalid_name"),
    ("dead", {"cursor": "bm9uZQ"}, "invalid_option"),
    ("dead", {"since": "yesterday"}, "invalid"),
    ("dead", {"group": "*"}, "invalid"),
    ("dead/groups", {"topic": "a", "cursor": "WzFd"}, "invalid_option"),
    ("agents", {"cursor": "eyJ9"}, "invalid_option"),
    (f"tasks/{NOBODY}", {"wait": "61"}, "invalid"),
    (f"tasks/{NOBODY}", {"wait": "nan"}, "invalid"),
]


@pytest.mark.parametrize(("path", "query", "code"), BAD_QUERIES)
def test_a_bad_query_is_refused(
    redis_client: redis.Redis, path: str, query: dict[str, str], code: str
) -> None:
    problem(api().get(path, **query), 422, code)


EDGES = ["0-0", f"{2**64 - 1}-{2**64 - 1}"]


@pytest.mark.parametrize("edge", EDGES)
def test_the_edges_of_a_stream_are_places_like_others(
    test_topic: str, edge: str
) -> None:
    client = api()
    send(client, test_topic)
    finish(test_topic)
    a_dead_one(client, test_topic)

    before = client.get("results", topic=test_topic, before=edge).json()["results"]
    after = client.get("results", topic=test_topic, after=edge).json()["results"]
    cursor = _cursor([*map(int, edge.split("-")), "a"])
    letters = client.get("dead", topic=test_topic, cursor=cursor)

    assert (len(before), len(after)) == ((0, 1) if edge == "0-0" else (1, 0))
    assert letters.status_code == (200 if edge == "0-0" else 422)
    for place in range(6):
        odd = _cursor([test_topic, None, place, edge])
        response = client.get("tasks", topic=test_topic, cursor=odd)
        problem(response, 422, "invalid_option")


def _cursor(value: Any) -> str:
    text = base64.urlsafe_b64encode(json.dumps(value).encode())
    return text.decode().rstrip("=")


def test_results_can_be_followed_without_a_gap(test_topic: str) -> None:
    client = api()
    ids = [send(client, test_topic, n) for n in range(5)]
    finish(test_topic, "ok")

    newest = client.get("results", topic=test_topic, count=2).json()
    rest = client.get("results", topic=test_topic, before=newest["next"]).json()
    rows = newest["results"] + rest["results"]
    oldest = rows[-1]["entry_id"]
    later = client.get("results", topic=test_topic, after=oldest).json()

    assert {row["id"] for row in rows} == set(ids)
    assert len(rows) == 5
    assert rest["next"] is None
    entries = [row["entry_id"] for row in rows]
    assert [row["entry_id"] for row in later["results"]] == entries[-2::-1]
    assert set(rows[0]) >= {
        *("entry_id", "id", "topic", "state", "task", "result", "agent", "attempt"),
        *("fence", "enqueued_at", "started_at", "finished_at"),
    }


def test_a_waiting_task_is_cancelled(test_topic: str) -> None:
    client = api()
    task_id = send(client, test_topic)

    response = client.post(f"tasks/{task_id}/cancel")
    again = client.post(f"tasks/{task_id}/cancel")

    cancelled = {"id": task_id, "topic": test_topic, "state": "cancelled"}
    assert (response.status_code, response.json()) == (200, cancelled)
    assert again.status_code == 200
    assert models.AuditEntry.objects.filter(verb="cancel", target=task_id).exists()


def test_a_running_task_is_told_to_stop(test_topic: str) -> None:
    client = api()
    task_id = send(client, test_topic)
    Desk(test_topic).one()

    response = client.post(f"tasks/{task_id}/cancel")

    assert (response.status_code, response.json()["state"]) == (202, "running")


def test_an_ended_task_cannot_be_cancelled(test_topic: str) -> None:
    client = api()
    task_id = send(client, test_topic)
    finish(test_topic, 1)

    problem(client.post(f"tasks/{task_id}/cancel"), 409, "not_cancellable")
    problem(client.post(f"tasks/{NOBODY}/cancel"), 404, "task_not_found")


# --- agents


def test_an_agent_registers_beats_and_leaves(
    redis_client: redis.Redis, sample_agent_data: dict[str, Any]
) -> None:
    agent, viewer = api("agent"), api("viewer")
    name = sample_agent_data["agent_id"]

    made = agent.post("agents", sample_agent_data)
    renewed = agent.post("agents", sample_agent_data)
    beat = agent.post(f"agents/{name}/heartbeat", {"ttl_seconds": 90})
    seen = viewer.get(f"agents/{name}").json()
    odd = agent.raw(f"agents/{name}", b'{"force": true}', method="DELETE")
    problem(odd, 422, "invalid")
    left = agent.delete(f"agents/{name}")

    assert (made.status_code, renewed.status_code) == (201, 200)
    assert made["Location"] == f"{ROOT}/agents/{name}"
    assert made.json()["meta"] == sample_agent_data["meta"]
    told = {"agent_id": name, "expires_in_s": 90.0, "drain": False, "deliveries": []}
    assert beat.json() == told
    assert 85 < seen["expires_in_s"] <= 90
    assert (left.status_code, left.content) == (204, b"")
    assert viewer.get(f"agents/{name}").json()["state"] == "gone"
    problem(agent.post(f"agents/{name}/heartbeat"), 404, "agent_not_found")
    problem(agent.delete(f"agents/{name}"), 404, "agent_not_found")


def test_agents_are_listed_page_by_page(redis_client: redis.Redis) -> None:
    names = [f"agent-{n}" for n in range(5)]
    for name in names:
        bus.register_agent(name, "test")
    bus.deregister_agent("agent-0")
    client = api("viewer")

    first = client.get("agents", count=3).json()
    second = client.get("agents", count=3, cursor=first["next"]).json()
    gone = client.get("agents", state="gone").json()

    rows = [row["agent_id"] for row in first["agents"] + second["agents"]]
    assert rows == [*names[1:], "agent-0"]
    assert second["next"] is None
    assert [row["agent_id"] for row in gone["agents"]] == ["agent-0"]


@pytest.mark.parametrize(
    ("field", "code"),
    [
        ({"agent_id": "a b"}, "invalid_name"),
        ({"agent_type": ""}, "invalid_name"),
        ({"ttl_seconds": 0}, "invalid_option"),
        ({"ttl_seconds": 1e9}, "invalid_option"),
        ({"meta": []}, "invalid"),
        ({"state": "live"}, "invalid"),
        ({"agent_id": None}, "invalid"),
    ],
)
def test_an_odd_registration_is_refused(
    redis_client: redis.Redis, field: dict[str, Any], code: str
) -> None:
    body = {"agent_id": "a", "agent_type": "b", **field}

    problem(api("agent").post("agents", body), 422, code)

    assert keyspace(redis_client) == {}


# --- topics


def test_a_topic_is_shown_flat(test_topic: str) -> None:
    client = api()
    send(client, test_topic)
    a_dead_one(client, test_topic)

    finish(test_topic)
    send(client, test_topic)

    row = client.get(f"topics/{test_topic}").json()
    listed = client.get("topics").json()

    assert (row["waiting"], row["dead"], row["backlog"]) == (1, 1, 1)
    assert row["backlog_max"] == 100_000
    assert row["dead_per_minute"] > 0 and row["done_per_minute"] > 0
    # What the desk says of its runs: below 4 ms if done, below 8 ms if failed.
    assert (row["run_p50_ms"], row["run_p99_ms"]) == (4, 8)
    assert row["wait_p99_ms"] == 2
    assert row["ledger"]["drift"] == 0
    assert [each["topic"] for each in listed["topics"]] == [test_topic]
    assert listed["next"] is None
    problem(client.get("topics/nobody-knows"), 404, "topic_not_found")
    assert "nobody-knows" not in bus.list_topics()
