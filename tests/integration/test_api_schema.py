"""The description of the API is valid, complete, and what the API really answers."""

from __future__ import annotations

import importlib.util
import io
import json
from contextlib import redirect_stderr
from typing import Any

import pytest
import redis
from django.core.management import call_command

import bus
from bus.api.views.docs import description
from tests.support import machine
from tests.support.api import ROOT, api
from tests.support.described import checking
from tests.support.desk import Desk


@pytest.mark.skipif(
    not importlib.util.find_spec("openapi_spec_validator") and not machine.IN_CI,
    reason="openapi-spec-validator comes with tests/requirements.txt",
)
def test_it_is_valid_openapi_3_1() -> None:
    from openapi_spec_validator import OpenAPIV31SpecValidator

    document = json.loads(json.dumps(description()))

    assert document["openapi"].startswith("3.1")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_it_is_made_without_a_warning() -> None:
    said = io.StringIO()

    with redirect_stderr(said):
        call_command("spectacular", "--validate", "--fail-on-warn", stdout=said)

    assert "openapi: 3.1" in said.getvalue()


def test_every_call_tells_what_it_is_and_how_it_fails() -> None:
    for path, calls in description()["paths"].items():
        for method, call in calls.items():
            where = f"{method} {path}"
            assert call["summary"] and call["tags"], where
            assert call["responses"]["default"], where
            good = [status for status in call["responses"] if status < "3"]
            assert good, where


def test_every_body_has_an_example_to_paste() -> None:
    """Without one Swagger UI makes up "string" where ids and fences are meant."""
    for path, calls in description()["paths"].items():
        for call in calls.values():
            if "requestBody" in call:
                [told] = call["requestBody"]["content"].values()
                assert told.get("examples") or told["schema"].get("example"), path


def conforms(response: Any, path: str, method: str = "get") -> None:
    """The body is as the description says for this call and status."""
    document = description()
    told = document["paths"][f"{ROOT}/{path}"][method]["responses"]
    content = told[str(response.status_code)]["content"]
    media = response["Content-Type"].partition(";")[0]
    schema = {**content[media]["schema"], "components": document["components"]}
    checking(schema).validate(response.json())
    names = set(response.json())
    known = _known(content[media]["schema"], document["components"]["schemas"])
    assert not known or names <= known, names - known


def _known(schema: dict[str, Any], components: dict[str, Any]) -> set[str]:
    """The members a schema describes; of several kinds, those of any."""
    if ref := schema.get("$ref"):
        schema = components[ref.rpartition("/")[2]]
    members = set(schema.get("properties", {}))
    return members.union(
        *(_known(each, components) for each in schema.get("oneOf", ()))
    )


@pytest.mark.django_db
def test_answers_are_what_it_says(test_topic: str, redis_client: redis.Redis) -> None:
    client, admin = api(), api("admin")
    made = client.post("enqueue", {"topic": test_topic, "task": {"n": 1}})
    task_id = made.json()["id"]
    dead_id = bus.enqueue_task(test_topic, None)
    desk = Desk(test_topic)
    first, second = desk.claim(2)
    desk.complete(first)
    desk.fail(second, final=True)
    later_id = bus.enqueue_task(test_topic, 1, delay_s=60, timeout_s=5)
    agent = {"agent_id": "a", "agent_type": "b", "meta": {"x": [1]}}

    conforms(made, "enqueue", "post")
    batch = {"tasks": [{"topic": test_topic, "task": 1}, {"topic": "NO"}]}
    conforms(client.post("enqueue/batch", batch), "enqueue/batch", "post")
    for each in (task_id, dead_id, later_id):
        conforms(client.get(f"tasks/{each}"), "tasks/{task_id}")
    conforms(client.get("tasks", topic=test_topic), "tasks")
    conforms(client.get("results", topic=test_topic), "results")
    conforms(client.get("dead"), "dead")
    conforms(client.get("dead/groups"), "dead/groups")
    conforms(client.get(f"dead/{dead_id}"), "dead/{task_id}")
    replayed = client.post(f"dead/{dead_id}/replay")
    conforms(replayed, "dead/{task_id}/replay", "post")
    cancelled = client.post(f"tasks/{later_id}/cancel")
    conforms(cancelled, "tasks/{task_id}/cancel", "post")
    conforms(admin.post("agents", agent), "agents", "post")
    beat = admin.post("agents/a/heartbeat", {})
    conforms(beat, "agents/{agent_id}/heartbeat", "post")
    leased = bus.enqueue_many(test_topic, range(2))
    claimed = admin.post(f"topics/{test_topic}/claim", {"agent_id": "a", "count": 9})
    conforms(claimed, "topics/{topic}/claim", "post")
    names = ("topic", "id", "fence")
    held = [
        {name: each[name] for name in names} for each in claimed.json()["deliveries"]
    ]
    assert {each["id"] for each in held} >= set(leased)
    done = {"deliveries": [{**held[0], "result": [1]}]}
    failed = {"deliveries": [{**held[1], "error": {"type": "T", "message": "m"}}]}
    for verb, body in (
        ("extend", {"deliveries": held}),
        ("complete", done),
        ("fail", failed),
        ("release", {"deliveries": held}),
    ):
        told = admin.post(f"deliveries/{verb}", body)
        conforms(told, f"deliveries/{verb}", "post")
    conforms(client.post("agents/a/drain"), "agents/{agent_id}/drain", "post")
    conforms(client.get("agents"), "agents")
    conforms(client.get("agents/a"), "agents/{agent_id}")
    conforms(client.get("topics"), "topics")
    conforms(client.get(f"topics/{test_topic}"), "topics/{topic}")
    changed = client.raw(f"topics/{test_topic}", b'{"paused": true}', method="PATCH")
    conforms(changed, "topics/{topic}", "patch")
    purged = admin.post(f"topics/{test_topic}/purge")
    conforms(purged, "topics/{topic}/purge", "post")
    settled = admin.post(f"topics/{test_topic}/settle")
    conforms(settled, "topics/{topic}/settle", "post")
    gone = admin.delete(f"topics/{test_topic}")
    conforms(gone, "topics/{topic}", "delete")
    conforms(client.get("health"), "health")
    conforms(client.get("health/ready"), "health/ready")


@pytest.mark.django_db
def test_errors_are_what_it_says(redis_client: redis.Redis) -> None:
    client = api()

    conforms(client.post("enqueue", {"topic": 1}), "enqueue", "post")
    conforms(client.get("tasks"), "tasks")
    conforms(client.get("tasks/x"), "tasks/{task_id}")
    conforms(api(None).get("topics"), "topics")
    conforms(api("agent").get("topics"), "topics")
