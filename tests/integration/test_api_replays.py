"""Bulk replay over HTTP: previewed, created, followed, paused, resumed, cancelled."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import bus
from bus import models, replays
from bus.bulk.driver import Foreman
from tests.integration.test_api_schema import conforms
from tests.support.api import api, keyspace, problem
from tests.support.bulk import dead, driven
from tests.support.desk import Desk
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"


def created(client: Any, **body: Any) -> dict[str, Any]:
    response = client.post("replays", body)
    assert response.status_code == 201, response.content
    conforms(response, "replays", "post")
    made: dict[str, Any] = response.json()
    assert response["Location"] == f"/api/v1/mesh/replays/{made['id']}"
    return made


def test_a_dry_run_tells_all_and_writes_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = dead(test_topic, 7, "no")
    dead(test_topic, 2, "never")
    client, before = api(), keyspace(redis_client)

    response = client.post("replays", {"topics": [test_topic], "dry_run": True})

    conforms(response, "replays", "post")
    told = response.json()
    assert (told["total"], told["topics"]) == (9, [{"topic": test_topic, "count": 9}])
    assert [group["count"] for group in told["groups"]] == [7, 2]
    assert [row["id"] for row in told["sample"]] == ids[:5]
    assert keyspace(redis_client) == before
    assert not models.AuditEntry.objects.exists()


def test_one_is_created_followed_and_done(test_topic: str) -> None:
    client, ids, desk = api(), dead(test_topic, 3), Desk(test_topic)
    bus.discard(ids[2], test_topic)
    made = created(client, topics=[test_topic], rate=1000)
    foreman = Foreman()
    while bus.stats(test_topic)["waiting"] < 2:
        foreman.round()
    desk.fail(desk.one(), final=True)
    desk.complete(desk.one())
    driven(foreman, replays.get(made["id"]))

    response = client.get(f"replays/{made['id']}")

    conforms(response, "replays/{job_id}")
    told = response.json()
    assert (told["state"], told["by"], told["total"]) == ("done", "test operator", 2)
    assert (told["counts"]["done"], told["counts"]["dead"]) == (1, 1)
    assert told["letters"] == [
        {"topic": test_topic, "id": ids[0], "what": "dead", "why": None}
    ]
    entry = models.AuditEntry.objects.get(verb="bulk replay")
    assert (entry.target, entry.topic) == (made["id"], test_topic)
    assert entry.detail["letters"] == 2


def test_a_skipped_letter_says_who_was_first(test_topic: str) -> None:
    client, ids = api(), dead(test_topic, 2)
    made = created(client, topics=[test_topic], start=False)
    admin = api("admin")
    assert admin.delete(f"dead/{ids[0]}").status_code == 200
    admin.post(f"dead/{ids[1]}/replay")

    client.post(f"replays/{made['id']}/resume")
    driven(Foreman(), replays.get(made["id"]))

    rows = client.get(f"replays/{made['id']}").json()["letters"]
    assert {(row["id"], row["what"], row["why"]) for row in rows} == {
        (ids[0], "skipped", "discarded by test admin"),
        (ids[1], "skipped", "replayed by test admin"),
    }


def test_it_is_paused_resumed_and_cancelled(test_topic: str) -> None:
    client = api()
    dead(test_topic, 30)
    made = created(client, topics=[test_topic], canary=True)
    url = f"replays/{made['id']}"

    paused = client.post(f"{url}/pause")
    twice = client.post(f"{url}/pause")
    resumed = client.post(f"{url}/resume", {"rate": 5, "canary": False})
    ended = client.delete(url)
    late = client.post(f"{url}/resume")

    assert (made["max_failure_rate"], made["state"]) == (0.1, "running")
    assert (paused.json()["state"], paused.json()["why"]) == (
        "paused",
        "by test operator",
    )
    conforms(paused, "replays/{job_id}/pause", "post")
    assert problem(twice, 409, "conflict")["state"] == "paused"
    conforms(resumed, "replays/{job_id}/resume", "post")
    assert (resumed.json()["rate"], resumed.json()["canary"]) == (5, False)
    conforms(ended, "replays/{job_id}", "delete")
    assert ended.json()["state"] == "cancelled"
    assert problem(late, 409, "conflict")["state"] == "cancelled"
    verbs = models.AuditEntry.objects.order_by("pk").values_list("verb", flat=True)
    assert [*verbs] == [
        "bulk replay",
        "pause bulk replay",
        "resume bulk replay",
        "cancel bulk replay",
    ]
    assert bus.stats(test_topic)["dead"] == 30


def test_going_on_at_another_rate_leaves_the_canary_and_the_stop(
    test_topic: str,
) -> None:
    client = api()
    dead(test_topic, 3)
    made = created(
        client, topics=[test_topic], canary=True, max_failure_rate=0.05, rate=9
    )
    url = f"replays/{made['id']}"

    paces = []
    for body in ({"rate": 5}, {"rate": None}, {"canary": False}):
        client.post(f"{url}/pause")
        told = client.post(f"{url}/resume", body).json()
        paces.append((told["rate"], told["canary"], told["max_failure_rate"]))

    assert paces == [(5, True, 0.05), (None, True, 0.05), (None, False, 0.05)]


def test_the_same_key_again_is_the_same_bulk_replay(test_topic: str) -> None:
    client = api()
    dead(test_topic, 3)
    body = {"topics": [test_topic], "rate": 1000}
    first = client.post("replays", body, Idempotency_Key="r-1")
    foreman = Foreman()

    def all_replayed() -> bool:
        foreman.round()  # at its rate a round in the same ms may do nothing
        return bool(bus.stats(test_topic)["replayed"] == 3)

    wait_until(all_replayed)
    again = client.post("replays", body, Idempotency_Key="r-1")
    other = client.post("replays", {**body, "rate": 5}, Idempotency_Key="r-1")

    assert (first.status_code, again.status_code) == (201, 200)
    conforms(again, "replays", "post")
    assert again.json()["id"] == first.json()["id"]
    assert again["Location"] == first["Location"]
    assert again.json()["counts"]["replayed"] == 3  # as it stands
    assert first.json()["id"] in problem(other, 409, "conflict")["detail"]
    assert [job.id for job in replays.list_jobs()] == [first.json()["id"]]
    assert bus.stats(test_topic)["replayed"] == 3
    details = models.AuditEntry.objects.order_by("pk").values_list("detail", flat=True)
    assert [detail.get("repeat", False) for detail in details] == [False, True]


def test_a_key_belongs_to_its_token(test_topic: str) -> None:
    dead(test_topic, 3)
    body = {"topics": [test_topic], "start": False}

    made = [
        client.post("replays", body, Idempotency_Key="r-1")
        for client in (api(), api("admin"))
    ]

    assert [response.status_code for response in made] == [201, 201]
    assert len({response.json()["id"] for response in made}) == 2


def test_they_are_listed_the_newest_first(test_topic: str) -> None:
    client = api()
    dead(test_topic, 2)
    made = [created(client, topics=[test_topic])["id"] for _ in range(3)]

    first = client.get("replays", count=2)
    second = client.get("replays", count=2, cursor=first.json()["next"]).json()

    conforms(first, "replays")
    found = [row["id"] for row in first.json()["replays"] + second["replays"]]
    assert found == made[::-1]
    assert second["next"] is None


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, "invalid_option"),
        ({"topics": "resize"}, "invalid"),
        ({"topics": ["UPPER"]}, "invalid_name"),
        ({"topics": ["nobody-knows"]}, "topic_not_found"),
        ({"ids": ["x"]}, "invalid_name"),
        ({"ids": [NOBODY], "error": "x"}, "invalid_option"),
        ({"ids": [NOBODY]}, "dead_letter_not_found"),
        ({"group": "(a+)+$"}, "invalid_option"),
        ({"error": "no", "rate": 0}, "invalid_option"),
        ({"error": "no", "rate": "5"}, "invalid"),
        ({"error": "no", "max_failure_rate": 2}, "invalid_option"),
        ({"error": "no", "canary": 1}, "invalid"),
        ({"error": "no", "since": "yesterday"}, "invalid"),
        ({"error": "no", "regex": "x"}, "invalid"),
        ({"error": "no", "dry_run": True, "start": True}, "invalid"),
    ],
)
def test_a_selection_that_is_none_is_told_which_error(
    test_topic: str, body: dict[str, Any], code: str, redis_client: redis.Redis
) -> None:
    before = keyspace(redis_client)

    refused = api().post("replays", body)

    problem(refused, 404 if code.endswith("not_found") else 422, code)
    assert keyspace(redis_client) == before


def test_unknown_ones_are_404(test_topic: str) -> None:
    client = api()
    for job_id in (NOBODY, "x", "(a+)+$"):
        problem(client.get(f"replays/{job_id}"), 404, "replay_not_found")
        problem(client.delete(f"replays/{job_id}"), 404, "replay_not_found")
        problem(client.post(f"replays/{job_id}/pause"), 404, "replay_not_found")


def test_roles_decide_who_may(test_topic: str) -> None:
    dead(test_topic, 1)
    made = created(api(), topics=[test_topic])
    viewer, body = api("viewer"), {"topics": [test_topic]}

    assert viewer.get(f"replays/{made['id']}").status_code == 200
    for refused in (
        viewer.post("replays", body),
        viewer.post("replays", {**body, "dry_run": True}),
        viewer.delete(f"replays/{made['id']}"),
        viewer.post(f"replays/{made['id']}/resume"),
        api("agent").get("replays"),
    ):
        problem(refused, 403, "permission_denied")
    problem(api(None).get("replays"), 401, "not_authenticated")


def test_a_token_of_some_topics_sees_and_replays_only_these(test_topic: str) -> None:
    other = f"{test_topic}-b"
    dead(other, 2, "no")
    bound = api("operator", (f"{test_topic}-a",))
    theirs = created(api(), topics=[other])

    problem(
        bound.post("replays", {"topics": [other], "dry_run": True}),
        403,
        "topic_not_allowed",
    )
    problem(bound.post("replays", {"error": "no"}), 404, "dead_letter_not_found")
    mine = bound.post("replays", {"error": "no", "dry_run": True}).json()
    assert mine["total"] == 0
    problem(bound.get(f"replays/{theirs['id']}"), 404, "replay_not_found")
    problem(bound.delete(f"replays/{theirs['id']}"), 404, "replay_not_found")
    assert bound.get("replays").json()["replays"] == []
