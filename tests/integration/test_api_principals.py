"""Every call, whoever asks: 401 for who is nobody, 403 and 404 for who is bound, and
409 and 422 for what cannot be, in one table each."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

import bus
from bus import accounts, agents, models
from tests.integration.test_api_access import CALLS, ID
from tests.support.api import (
    ROOT,
    Api,
    a_dead_one,
    api,
    finish,
    keyspace,
    problem,
    send,
)
from tests.support.desk import Desk

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]

EVERY = [(method, path) for method, path, _ in CALLS]
OTHERS = "theirs"


def ask(client: Any, method: str, path: str, value: Any = None) -> Any:
    """Any call, with a JSON body where it takes one."""
    body = b"" if method in ("GET", "DELETE") else json.dumps(value or {}).encode()
    if isinstance(client, Api):
        return client.raw(path, body, method=method)
    return client.generic(method, f"{ROOT}/{path}", body, "application/json")


# --- 401: nobody


def _wrong() -> Api:
    return Api("0123456789abcdef" * 4)


def _ended() -> Api:
    token, text = accounts.create_token("ended", "admin")
    models.Token.objects.filter(pk=token.pk).update(expiry=timezone.now())
    return Api(text)


def _disabled() -> Api:
    token, text = accounts.create_token("disabled", "admin")
    get_user_model().objects.filter(pk=token.user.pk).update(is_active=False)
    return Api(text)


def _revoked() -> Api:
    token, text = accounts.create_token("revoked", "admin")
    assert Api(text).get("topics").status_code == 200
    accounts.revoke_token(token.token_key)
    return Api(text)


@pytest.mark.parametrize("somebody", [_wrong, _ended, _disabled, _revoked])
def test_a_token_that_opens_nothing_opens_nothing(
    redis_client: redis.Redis, somebody: Callable[[], Api], settings: Any
) -> None:
    settings.MESH_API_WRONG_TOKENS_PER_MINUTE = 1_000
    client, before = somebody(), keyspace(redis_client)

    for method, path in EVERY:
        response = ask(client, method, path)
        problem(response, 401, "invalid_token")
        assert response["WWW-Authenticate"] == "Bearer", path
    assert keyspace(redis_client) == before


# --- 403: people, by the same table as tokens


@pytest.mark.parametrize("role", ["viewer", "operator", "admin", "agent", ""])
def test_a_session_may_what_a_token_of_its_role_may(
    redis_client: redis.Redis, role: str
) -> None:
    users: Any = get_user_model().objects
    user = users.create_user("somebody", password="a long password")
    if role:
        user = accounts.ensure_user("somebody", role, "a long password")
    client = Client(raise_request_exception=False)
    client.force_login(user)

    for method, path, may in CALLS:
        if "stream" in path:
            continue  # it would not end
        response = ask(client, method, path)
        if role in may:
            assert response.status_code not in (401, 403, 500), (path, response.content)
        else:
            problem(response, 403, "permission_denied")


# --- 403 and 404: tokens that are bound to topics


@pytest.fixture
def bound() -> Api:
    return api("admin", ("mine",))


def test_topics_of_others_are_403_by_name_and_404_by_id(
    redis_client: redis.Redis, bound: Api
) -> None:
    free = api("admin")
    dead, waiting = a_dead_one(free, OTHERS), send(free, OTHERS)
    token = free.post("tokens", {"name": "x", "role": "viewer"}).json()["key"]
    bus.register_agent("an-agent", "x")
    mine = {"agent_id": "an-agent", "count": 1}
    before = keyspace(redis_client)
    outside = "topic_not_allowed"

    table: list[tuple[str, str, Any, int, str]] = [
        ("POST", "enqueue", {"topic": OTHERS, "task": 1}, 403, outside),
        ("GET", f"results?topic={OTHERS}", None, 403, outside),
        ("GET", f"results/stream?topic={OTHERS}", None, 403, outside),
        ("GET", f"tasks?topic={OTHERS}", None, 403, outside),
        ("GET", f"tasks/{waiting}?topic={OTHERS}", None, 403, outside),
        ("GET", f"tasks/{waiting}", None, 404, "task_not_found"),
        ("POST", f"tasks/{waiting}/cancel", None, 404, "task_not_found"),
        ("POST", f"tasks/{waiting}/run", None, 404, "task_not_found"),
        ("GET", f"topics/{OTHERS}", None, 403, outside),
        ("PATCH", f"topics/{OTHERS}", {"paused": True}, 403, outside),
        ("DELETE", f"topics/{OTHERS}", None, 403, outside),
        ("POST", f"topics/{OTHERS}/purge", None, 403, outside),
        ("POST", f"topics/{OTHERS}/settle", None, 403, outside),
        ("POST", f"topics/{OTHERS}/claim", mine, 403, outside),
        ("GET", f"dead?topic={OTHERS}", None, 403, outside),
        ("GET", f"dead/groups?topic={OTHERS}", None, 403, outside),
        ("GET", f"dead/{dead}", None, 404, "dead_letter_not_found"),
        ("DELETE", f"dead/{dead}", None, 404, "dead_letter_not_found"),
        ("POST", f"dead/{dead}/replay", None, 404, "dead_letter_not_found"),
        ("POST", f"dead/{dead}/undo", None, 404, "dead_letter_not_found"),
        ("GET", f"tokens/{token}", None, 404, "not_found"),
        ("DELETE", f"tokens/{token}", None, 404, "not_found"),
        ("POST", "tokens", {"name": "x", "role": "viewer"}, 403, outside),
    ]
    for method, path, value, status, code in table:
        document = problem(ask(bound, method, path, value), status, code)
        if status == 404:  # as if there were none: no word of where it is
            assert OTHERS not in json.dumps(document), path
    assert keyspace(redis_client) == before


def test_lists_leave_out_what_a_bound_token_does_not_reach(
    redis_client: redis.Redis, bound: Api
) -> None:
    free = api("admin")
    for topic in (OTHERS, "mine"):
        a_dead_one(free, topic)
        send(free, topic)
        finish(topic)
    about = {"agent_id": "both", "topics": [OTHERS, "mine", 7]}
    agents.register("both", "x", 60, about)
    free.raw(f"topics/{OTHERS}", b'{"paused": true}', method="PATCH")
    free.raw("topics/mine", b'{"paused": true}', method="PATCH")

    for path in ("topics", "dead", "dead/groups", "agents", "agents/both", "audit",
                 "tokens", "metrics", "health", "results?topic=mine"):  # fmt: skip
        response = bound.get(path)
        assert response.status_code == 200, path
        assert OTHERS not in response.content.decode(), path
        if path not in ("tokens", "health"):
            assert "mine" in response.content.decode(), path
    rows = [row["topics"] for row in bound.get("agents").json()["agents"]]
    assert rows == [["mine"]]
    assert OTHERS in str(free.get("agents").json())


# --- 404, 409


def test_what_is_not_there_is_404_under_its_own_code() -> None:
    admin = api("admin")

    table = [
        ("GET", f"tasks/{ID}", "task_not_found"),
        ("POST", f"tasks/{ID}/cancel", "task_not_found"),
        ("POST", f"tasks/{ID}/run", "task_not_found"),
        ("GET", "agents/a", "agent_not_found"),
        ("DELETE", "agents/a", "agent_not_found"),
        ("POST", "agents/a/heartbeat", "agent_not_found"),
        ("POST", "agents/a/drain", "agent_not_found"),
        ("GET", "topics/a", "topic_not_found"),
        ("DELETE", "topics/a", "topic_not_found"),
        ("POST", "topics/a/purge", "topic_not_found"),
        ("POST", "topics/a/settle", "topic_not_found"),
        ("GET", f"dead/{ID}", "dead_letter_not_found"),
        ("DELETE", f"dead/{ID}", "dead_letter_not_found"),
        ("POST", f"dead/{ID}/replay", "dead_letter_not_found"),
        ("POST", f"dead/{ID}/undo", "dead_letter_not_found"),
        ("GET", "tokens/abc", "not_found"),
        ("DELETE", "tokens/abc", "not_found"),
        ("GET", "nosuch", "not_found"),
    ]
    for method, path, code in table:
        problem(ask(admin, method, path), 404, code)


def test_what_its_state_does_not_allow_is_409(test_topic: str) -> None:
    admin = api("admin")
    ended, waiting = send(admin, test_topic), ""
    finish(test_topic)
    waiting = send(admin, test_topic, 2)
    token = {"name": "x", "role": "viewer"}
    admin.post("tokens", token, Idempotency_Key="k")

    problem(admin.post(f"tasks/{ended}/cancel"), 409, "not_cancellable")
    problem(admin.post(f"dead/{waiting}/replay"), 409, "not_dead")
    problem(admin.delete(f"dead/{waiting}"), 409, "not_dead")
    again = {"topic": test_topic, "task": 3, "id": waiting}
    problem(admin.post("enqueue", again), 409, "task_conflict")
    problem(admin.post("tokens", token, Idempotency_Key="k"), 409, "conflict")
    Desk(test_topic).one()
    problem(admin.delete(f"topics/{test_topic}"), 409, "topic_busy")


# --- 422


@pytest.mark.parametrize(("method", "path"), EVERY)
def test_a_parameter_that_a_call_does_not_have_is_422(
    redis_client: redis.Redis, method: str, path: str
) -> None:
    mark = "&" if "?" in path else "?"

    document = problem(
        ask(api("admin"), method, f"{path}{mark}nosuch=1"), 422, "invalid"
    )

    assert "?nosuch" in [row["pointer"] for row in document["errors"]]
    assert keyspace(redis_client) == {}


@pytest.mark.parametrize(
    ("method", "path"), [row for row in EVERY if row[0] in ("POST", "PATCH")]
)
def test_a_member_that_a_body_does_not_have_is_422(
    redis_client: redis.Redis, method: str, path: str
) -> None:
    admin = api("admin")
    if path.startswith("topics/a"):
        send(admin, "a")
    before = keyspace(redis_client)

    response = ask(admin, method, path, {"nosuch": 1})

    document = problem(response, 422, "invalid")
    assert "/nosuch" in [row["pointer"] for row in document["errors"]]
    assert keyspace(redis_client) == before
