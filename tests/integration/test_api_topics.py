"""Topics over HTTP: paused, bounded, emptied, deleted, and written down."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

import bus
from bus import keys, models
from bus.gateway import prompts
from tests.support.api import Api, a_dead_one, api, keyspace, problem, send
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db


def change(client: Api, topic: str, value: Any) -> Any:
    body = json.dumps(value).encode()
    return client.raw(f"topics/{topic}", body, method="PATCH")


def trail() -> list[tuple[str, str, str]]:
    """Verb, topic and target of what was written down, the oldest first."""
    found = models.AuditEntry.objects.order_by("id")
    return list(found.values_list("verb", "topic", "target"))


def test_an_operator_pauses_and_resumes(test_topic: str) -> None:
    client = api("operator")
    send(client, test_topic)

    paused = change(client, test_topic, {"paused": True})
    held = Desk(test_topic).claim()
    resumed = change(client, test_topic, {"paused": False})

    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert held == []
    assert (resumed.json()["topic"], resumed.json()["paused"]) == (test_topic, False)
    assert [verb for verb, *_ in trail()] == ["pause", "resume"]


def test_an_admin_sets_limits_and_returns_them_to_their_default(
    test_topic: str,
) -> None:
    client = api("admin")
    send(client, test_topic)
    usual = client.get(f"topics/{test_topic}").json()

    limits = {"backlog_max": 1, "max_attempts": 2.0, "timeout_s": 0.5}
    bounded = change(client, test_topic, limits).json()
    full = client.post("enqueue", {"topic": test_topic, "task": 2})
    back = change(client, test_topic, dict.fromkeys(limits)).json()

    assert {name: bounded[name] for name in limits} == limits
    problem(full, 429, "topic_full")
    assert all(back[name] == usual[name] for name in limits)
    assert trail() == [("limit", test_topic, test_topic)] * 2
    assert models.AuditEntry.objects.earliest("id").after == limits


def test_limits_take_an_admin(test_topic: str) -> None:
    send(api(), test_topic)

    refused = change(api(), test_topic, {"paused": True, "backlog_max": 1})

    problem(refused, 403, "permission_denied")
    assert bus.stats(test_topic)["paused"] is False
    assert trail() == []


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({}, "invalid"),
        ([], "invalid"),
        ({"paused": 1}, "invalid"),
        ({"paused": None}, "invalid"),
        ({"paused": True, "pace": 1}, "invalid"),
        ({"backlog_max": "5"}, "invalid"),
        ({"backlog_max": 1.5}, "invalid"),
        ({"backlog_max": True}, "invalid"),
        ({"paused": True, "backlog_max": 0}, "invalid_option"),
        ({"backlog_max": 10**15}, "invalid_option"),
        ({"timeout_s": 0}, "invalid_option"),
        ({"timeout_s": 0.0009}, "invalid_option"),
        ({"timeout_s": -1e308}, "invalid_option"),
        ({"dead_max": 0}, "invalid_option"),
    ],
    ids=json.dumps,
)
def test_a_change_that_is_none_changes_nothing(
    test_topic: str, redis_client: redis.Redis, value: Any, code: str
) -> None:
    client = api("admin")
    send(client, test_topic)
    before = keyspace(redis_client)

    problem(change(client, test_topic, value), 422, code)

    assert keyspace(redis_client) == before
    assert trail() == []


def test_purge_cancels_what_waits_and_keeps_the_letters(test_topic: str) -> None:
    client = api("admin")
    dead = a_dead_one(client, test_topic)
    waiting = [send(client, test_topic, n) for n in range(3)]
    delayed = send(client, test_topic, delay_s=60)

    answer = client.post(f"topics/{test_topic}/purge")

    counts = {"cancelled": 4, "asked": 0, "discarded": 0}
    assert answer.json() == {"topic": test_topic, **counts}
    states = {client.get(f"tasks/{each}").json()["state"] for each in waiting}
    assert states == {"cancelled"}
    assert client.get(f"tasks/{delayed}").json()["state"] == "cancelled"
    assert client.get(f"tasks/{dead}").json()["state"] == "dead"
    assert bus.stats(test_topic)["ledger"]["drift"] == 0
    assert trail() == [("purge", test_topic, test_topic)]


def test_purge_of_all_asks_agents_to_stop_and_discards_letters(
    test_topic: str,
) -> None:
    client = api("admin")
    dead = a_dead_one(client, test_topic)
    running = send(client, test_topic)
    Desk(test_topic).one()
    send(client, test_topic)

    counts = client.post(f"topics/{test_topic}/purge", {"what": "all"}).json()

    assert (counts["cancelled"], counts["asked"], counts["discarded"]) == (1, 1, 1)
    assert client.get(f"tasks/{running}").json()["cancel_requested"] is True
    assert client.get(f"tasks/{dead}").json()["state"] == "discarded"


@pytest.mark.parametrize("body", [{"what": "everything"}, {"what": 1}, {"all": True}])
def test_a_purge_of_nothing_known_empties_nothing(
    test_topic: str, body: dict[str, Any]
) -> None:
    client = api("admin")
    task_id = send(client, test_topic)

    assert client.post(f"topics/{test_topic}/purge", body).status_code == 422
    assert client.get(f"tasks/{task_id}").json()["state"] == "waiting"


def test_an_admin_settles_a_ledger_and_all_see_it(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client = api("admin")
    send(client, test_topic)
    redis_client.hincrby(keys.named("counters", test_topic), "accepted", 3)

    answer = client.post(f"topics/{test_topic}/settle")

    assert answer.json() == {"topic": test_topic, "settled": 3}
    row = api("viewer").get(f"topics/{test_topic}").json()
    assert (row["settled"], row["ledger"]["drift"]) == (3, 0)
    assert row["ledger"]["settled"] == 3
    assert row["settled_at"] is not None
    assert trail() == [("settle", test_topic, test_topic)]
    assert models.AuditEntry.objects.get().detail == {"settled": 3}


def test_a_ledger_is_settled_by_no_operator_and_takes_no_fields(
    test_topic: str, redis_client: redis.Redis
) -> None:
    send(api(), test_topic)
    redis_client.hincrby(keys.named("counters", test_topic), "accepted", 3)

    refused = api("operator").post(f"topics/{test_topic}/settle")
    problem(refused, 403, "permission_denied")
    odd = api("admin").post(f"topics/{test_topic}/settle", {"settled": 3})
    problem(odd, 422, "invalid")
    other = api("admin", ("shop-",)).post(f"topics/{test_topic}/settle")
    problem(other, 403, "topic_not_allowed")

    assert bus.stats(test_topic)["ledger"]["drift"] == 3
    assert trail() == []


def test_a_ledger_is_not_settled_over_a_task_in_two_states(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client = api("admin")
    task_id = send(client, test_topic)
    row = {"id": task_id, "json": "{}"}
    ms = str(redis_client.xadd(bus.result_stream(test_topic), row, id="5-0"))[0]
    score = int(ms) * 4096
    redis_client.zadd(keys.named("done", test_topic), {task_id: score})

    refused = client.post(f"topics/{test_topic}/settle")

    assert task_id in problem(refused, 409, "conflict")["detail"]


def test_delete_waits_for_agents_unless_it_is_forced(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client = api("admin")
    send(client, test_topic)
    Desk(test_topic).one()
    send(client, test_topic)

    busy = client.delete(f"topics/{test_topic}")
    odd = client.delete(f"topics/{test_topic}?force=yes")
    gone = client.delete(f"topics/{test_topic}?force=true")

    problem(busy, 409, "topic_busy")
    problem(odd, 422, "invalid")
    assert gone.json() == {"topic": test_topic, "cancelled": 2, "discarded": 0}
    assert [key for key in keyspace(redis_client) if f"{{{test_topic}}}" in key] == []
    problem(client.get(f"topics/{test_topic}"), 404, "topic_not_found")
    assert trail() == [("delete", test_topic, test_topic)]
    assert send(client, test_topic), "a task that comes begins a new topic"


@pytest.mark.parametrize("topic", ["nobody-knows", "UPPER", "agents", "a" * 65])
def test_a_topic_that_is_not_there_is_404_and_not_made(
    redis_client: redis.Redis, topic: str
) -> None:
    client = api("admin")

    for answer in (
        client.get(f"topics/{topic}"),
        change(client, topic, {"paused": True, "backlog_max": 5}),
        client.post(f"topics/{topic}/purge"),
        client.post(f"topics/{topic}/settle"),
        client.delete(f"topics/{topic}"),
    ):
        problem(answer, 404, "topic_not_found")
    assert keyspace(redis_client) == {}
    assert trail() == []


def test_a_bound_token_changes_its_own_topics_and_hears_of_no_other(
    redis_client: redis.Redis,
) -> None:
    for topic in ("shop-a", "bank"):
        send(api(), topic)
    client = api("admin", ("shop-",))

    assert change(client, "shop-a", {"paused": True}).status_code == 200
    problem(change(client, "bank", {"paused": True}), 403, "topic_not_allowed")
    problem(client.post("topics/bank/purge"), 403, "topic_not_allowed")
    problem(client.delete("topics/bank"), 403, "topic_not_allowed")
    missing = client.get("topics/shop-z")
    assert "bank" not in problem(missing, 404, "topic_not_found")["detail"]
    assert bus.stats("bank")["waiting"] == 1


def test_a_limit_out_of_its_range_is_told_with_readable_bounds(test_topic: str) -> None:
    client = api("admin")
    send(client, test_topic)

    response = client.raw(
        f"topics/{test_topic}", b'{"backlog_max": -1}', method="PATCH"
    )
    many = client.post("enqueue/batch", {"tasks": [{}] * 1001})

    said = problem(response, 422, "invalid_option")["detail"]
    assert said == "backlog_max -1 is not 1 to 100,000,000"
    assert (
        problem(many, 422, "invalid")["detail"] == "/tasks holds 1,001, not 1 to 1,000"
    )


def test_a_seed_out_of_its_range_is_told_one_that_is_taken() -> None:
    assert "9007199254740991" in prompts.OPTIONS["seed"](2**53)
    assert prompts.OPTIONS["seed"](2**53 - 1) == ""
