"""Letters that somebody wrote by hand: opened, replayed and put away like others."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
import redis

import bus
from bus import auditor, keys
from tests.support.api import api

pytestmark = pytest.mark.django_db

SHAPES: dict[str, tuple[dict[str, str], Any]] = {
    "payload": ({"payload": '{"a":1}'}, {"a": 1}),
    "payload with one inside": ({"payload": '{"payload":1}'}, {"payload": 1}),
    "payload that is no JSON": ({"payload": "h\u00e9, no JSON"}, "h\u00e9, no JSON"),
    "fields of its own": ({"to": "ann", "error": "no"}, {"to": "ann"}),
    "an empty json": ({"json": "", "payload": "7"}, 7),
    "json and payload": ({"json": '{"payload":1}', "payload": "2"}, 1),
}


@pytest.fixture
def letter(
    test_topic: str, redis_client: redis.Redis, request: pytest.FixtureRequest
) -> tuple[str, Any]:
    """The task id of a letter in this shape that the audit has seen; its payload."""
    fields, payload = SHAPES[request.param]
    task_id = str(uuid.uuid4())
    both: Any = {"id": task_id, **fields}
    redis_client.xadd(keys.dead_stream(test_topic), both)
    audited(test_topic)
    return task_id, payload


def audited(topic: str) -> None:
    auditor.audit(topic)


every_shape = pytest.mark.parametrize("letter", SHAPES, indirect=True)


@every_shape
def test_what_it_holds_is_shown_and_run(
    test_topic: str, letter: tuple[str, Any]
) -> None:
    task_id, payload = letter
    shown = api().get(f"dead/{task_id}?topic={test_topic}").json()

    replayed = api().post(f"dead/{task_id}/replay?topic={test_topic}")

    assert (shown["task"], replayed.status_code) == (payload, 200)
    [(_, fields)] = bus.read_group(test_topic, "hands", "me", block_ms=0)
    assert (fields["id"], fields["payload"]) == (task_id, payload)


@every_shape
def test_it_comes_back_from_the_bin_as_it_was(
    test_topic: str, letter: tuple[str, Any]
) -> None:
    task_id, payload = letter
    before = bus.get_dead(task_id, test_topic)

    for _ in range(2):
        bus.discard(task_id, test_topic)
        bus.undo(task_id, test_topic)

    after = bus.get_dead(task_id, test_topic)
    assert (before.payload, after.payload) == (payload, payload)
    assert after.died_at == before.died_at
    assert json.dumps(after.error) == json.dumps(before.error)
