"""Who may do what over HTTP: tokens, roles, topics, sessions, rates."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import redis
from django.contrib.auth import get_user_model
from django.test import Client
from django.utils import timezone

import bus
from bus import accounts, models, ratelimit
from tests.support.api import ROOT, Api, a_dead_one, api, keyspace, problem, send
from tests.support.desk import Desk

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]

ID = "0198c0de-0000-7000-8000-00000000abcd"
AGENT = {"agent_id": "a", "agent_type": "b"}

# Every call, with the roles that may make it.
ALL = {"viewer", "operator", "admin", "agent"}
READERS = {"viewer", "operator", "admin"}
SENDERS = {"operator", "admin"}
SERVERS = {"agent", "admin"}
ADMINS = {"admin"}
CALLS: list[tuple[str, str, set[str]]] = [
    ("POST", "enqueue", SENDERS),
    ("POST", "enqueue/batch", SENDERS),
    ("GET", "results?topic=a", READERS),
    ("GET", "results/stream?topic=a", READERS),
    ("GET", "tasks?topic=a", READERS),
    ("GET", f"tasks/{ID}", READERS),
    ("POST", f"tasks/{ID}/cancel", SENDERS),
    ("POST", f"tasks/{ID}/run", SENDERS),
    ("GET", "agents", READERS),
    ("POST", "agents", SERVERS),
    ("GET", "agents/a", ALL),
    ("DELETE", "agents/a", SERVERS),
    ("POST", "agents/a/heartbeat", SERVERS),
    ("POST", "agents/a/drain", SENDERS),
    ("POST", "topics/a/claim", SERVERS),
    ("POST", "deliveries/complete", SERVERS),
    ("POST", "deliveries/fail", SERVERS),
    ("POST", "deliveries/extend", SERVERS),
    ("POST", "deliveries/release", SERVERS),
    ("GET", "topics", READERS),
    ("GET", "topics/a", READERS),
    ("PATCH", "topics/a", SENDERS),
    ("DELETE", "topics/a", ADMINS),
    ("POST", "topics/a/purge", ADMINS),
    ("POST", "topics/a/settle", ADMINS),
    ("GET", "dead", READERS),
    ("GET", "dead/groups", READERS),
    ("GET", f"dead/{ID}", READERS),
    ("DELETE", f"dead/{ID}", SENDERS),
    ("POST", f"dead/{ID}/replay", SENDERS),
    ("POST", f"dead/{ID}/undo", SENDERS),
    ("GET", "replays", READERS),
    ("POST", "replays", SENDERS),
    ("GET", f"replays/{ID}", READERS),
    ("DELETE", f"replays/{ID}", SENDERS),
    ("POST", f"replays/{ID}/pause", SENDERS),
    ("POST", f"replays/{ID}/resume", SENDERS),
    ("GET", "tokens", ADMINS),
    ("POST", "tokens", ADMINS),
    ("GET", "tokens/abc", ADMINS),
    ("DELETE", "tokens/abc", ADMINS),
    ("GET", "audit", SENDERS),
    ("GET", "ollama/generations", READERS),
    ("DELETE", "ollama/generations/x", SENDERS),
    ("GET", "schema", ALL),
]
# Metrics are open on this machine only; test_metrics.py has who else.
OPEN = ["health", "health/live", "health/ready", "metrics"]


def call(client: Api, method: str, path: str) -> Any:
    return client.raw(path, b"{}" if method == "POST" else b"", method=method)


@pytest.mark.parametrize(("method", "path", "may"), CALLS)
def test_each_role_may_do_what_it_may(method: str, path: str, may: set[str]) -> None:
    for role in sorted(ALL):
        response = call(api(role), method, path)

        if role in may:
            assert response.status_code not in (401, 403, 500), (role, response.content)
        else:
            problem(response, 403, "permission_denied")


@pytest.mark.parametrize(("method", "path", "may"), CALLS)
def test_nobody_may_do_anything(
    redis_client: redis.Redis, method: str, path: str, may: set[str]
) -> None:
    response = call(api(None), method, path)

    problem(response, 401, "not_authenticated")
    assert response["WWW-Authenticate"] == "Bearer"
    assert keyspace(redis_client) == {}


def test_the_table_above_names_every_call() -> None:
    from bus.api.views.docs import description

    def plain(path: str) -> str:
        path = path.partition("?")[0].replace(ID, "{task_id}")
        path = path.replace("agents/a", "agents/{agent_id}")
        path = path.replace("generations/x", "generations/{generation_id}")
        path = path.replace("tokens/abc", "tokens/{key}")
        path = path.replace("replays/{task_id}", "replays/{job_id}")
        return path.replace("topics/a", "topics/{topic}")

    described = {
        (method.upper(), path.removeprefix(f"{ROOT}/"))
        for path, calls in description()["paths"].items()
        for method in calls
        if not path.endswith("ollama/generate")
    }

    tested = {(method, plain(path)) for method, path, _ in CALLS}
    assert tested | {("GET", path) for path in OPEN} == described


BAD_TOKENS = [
    *("Bearer", "Bearer ", "Bearer nonsense", "Bearer a b", "bearer x" * 2000),
    *("Bearer \xff\xfe", "Bearer ünïcode"),
]


@pytest.mark.parametrize("header", BAD_TOKENS)
def test_a_bad_token_is_401(redis_client: redis.Redis, header: str) -> None:
    response = Client().get(f"{ROOT}/topics", headers={"Authorization": header})

    assert response.status_code == 401
    assert response["WWW-Authenticate"] == "Bearer"
    assert response.json()["code"] in ("invalid_token", "not_authenticated")


@pytest.mark.parametrize("header", ["Token x", "Basic eDp5", ""])
def test_another_scheme_is_nobody(redis_client: redis.Redis, header: str) -> None:
    headers = {"Authorization": header}
    response = Client().get(f"{ROOT}/topics", headers=headers)
    asked = Client().post(f"{ROOT}/ollama/generate", headers=headers)

    said = problem(response, 401, "not_authenticated")["detail"]
    assert "Authorization: Bearer" in said
    assert (asked.status_code, asked.json()) == (401, {"error": said})


def test_a_token_ends_at_once(redis_client: redis.Redis) -> None:
    token, text = accounts.create_token("t", "viewer")
    client = Api(text)
    assert client.get("topics").status_code == 200
    right_beginning = Api(text[:-1] + ("0" if text[-1] != "0" else "1"))

    problem(right_beginning.get("topics"), 401, "invalid_token")
    token.expiry = timezone.now()
    token.save()
    problem(client.get("topics"), 401, "invalid_token")


def test_a_token_of_a_disabled_account_is_401(redis_client: redis.Redis) -> None:
    client = api("viewer")
    get_user_model().objects.update(is_active=False)

    problem(client.get("topics"), 401, "invalid_token")


def test_wrong_tokens_are_counted_whatever_the_headers_say(
    redis_client: redis.Redis, settings: Any
) -> None:
    settings.MESH_API_WRONG_TOKENS_PER_MINUTE = 5

    answers = [
        Client().get(
            f"{ROOT}/topics",
            headers={"Authorization": "Bearer x", "X-Forwarded-For": f"10.0.0.{n}"},
        )
        for n in range(7)
    ]

    assert [each.status_code for each in answers[:6]] == [401] * 5 + [429]
    assert int(answers[5]["Retry-After"]) >= 1
    assert api("viewer").get("topics").status_code == 200


def test_last_use_is_written_once_a_minute(redis_client: redis.Redis) -> None:
    token, text = accounts.create_token("t", "viewer")
    client = Api(text)

    client.get("topics")
    token.refresh_from_db()
    first = token.last_used
    client.get("topics")
    token.refresh_from_db()

    assert first is not None and token.last_used == first
    token.last_used = first - timezone.timedelta(minutes=2)
    token.save()
    client.get("topics")
    token.refresh_from_db()
    assert token.last_used >= first


# --- topics of a token


@pytest.fixture
def bound() -> Api:
    """Calls with a token that reaches topics `mine…` only."""
    return api("operator", ("mine",))


def dead_one(topic: str) -> str:
    task_id = bus.enqueue_task(topic, 1)
    desk = Desk(topic)
    desk.fail(desk.one(), final=True)
    return task_id


def test_a_bound_token_names_its_own_topics_only(
    redis_client: redis.Redis, bound: Api
) -> None:
    for topic in ("mine", "mine-2"):
        assert bound.post("enqueue", {"topic": topic, "task": 1}).status_code == 201

    problem(bound.post("enqueue", {"topic": "b", "task": 1}), 403, "topic_not_allowed")
    for path in ("results", "tasks", "dead", "dead/groups", f"tasks/{ID}"):
        problem(bound.get(path, topic="b"), 403, "topic_not_allowed")
    batch = {"tasks": [{"topic": "mine", "task": 1}, {"topic": "b", "task": 1}]}
    rows = bound.post("enqueue/batch", batch).json()["results"]
    assert [row["status"] for row in rows] == [201, 403]
    assert bus.list_topics() == ["mine", "mine-2"]


def test_what_a_bound_token_does_not_reach_is_not_there(
    redis_client: redis.Redis, bound: Api
) -> None:
    theirs, waiting = dead_one("theirs"), bus.enqueue_task("theirs", 2)
    mine = dead_one("mine")
    before = keyspace(redis_client)

    problem(bound.get(f"tasks/{waiting}"), 404, "task_not_found")
    problem(bound.post(f"tasks/{waiting}/cancel"), 404, "task_not_found")
    problem(bound.get(f"dead/{theirs}"), 404, "dead_letter_not_found")
    problem(bound.post(f"dead/{theirs}/replay"), 404, "dead_letter_not_found")
    problem(bound.delete(f"dead/{theirs}"), 404, "dead_letter_not_found")
    problem(bound.get("topics/theirs"), 403, "topic_not_allowed")
    assert [row["topic"] for row in bound.get("topics").json()["topics"]] == ["mine"]
    assert [row["id"] for row in bound.get("dead").json()["dead"]] == [mine]
    groups = bound.get("dead/groups").json()["groups"]
    assert [row["topic"] for row in groups] == ["mine"]
    assert keyspace(redis_client) == before
    bus.discard(theirs, "theirs")
    problem(bound.post(f"dead/{theirs}/undo"), 404, "dead_letter_not_found")
    assert bus.get_task(theirs, "theirs").state == "discarded"


CHANGES = [
    ("POST", "tasks/{}/cancel"),
    ("POST", "tasks/{}/run"),
    ("POST", "dead/{}/replay"),
    ("DELETE", "dead/{}"),
    ("POST", "dead/{}/undo"),
]


@pytest.mark.parametrize(("method", "path"), CHANGES)
def test_an_id_that_is_dead_in_several_topics_is_changed_in_none(
    redis_client: redis.Redis, method: str, path: str
) -> None:
    for topic in ("a", "b"):
        if path.endswith("cancel"):
            send(api(), topic, delay_s=600, id=ID)
        else:
            a_dead_one(api(), topic, id=ID)
    before = keyspace(redis_client)

    told = problem(
        api().raw(path.format(ID), b"", method=method), 409, "several_topics"
    )

    assert told["topics"] == ["a", "b"]
    assert keyspace(redis_client) == before


def test_a_bound_token_hears_of_its_own_topics_alone_where_others_have_the_id(
    redis_client: redis.Redis, bound: Api
) -> None:
    a_dead_one(api(), "mine", id=ID)
    send(api(), "theirs", id=ID)

    assert bound.get(f"tasks/{ID}").json()["topic"] == "mine"
    assert bound.get(f"dead/{ID}").json()["topic"] == "mine"
    assert problem(bound.post(f"tasks/{ID}/cancel"), 409, "not_cancellable")
    assert bound.post(f"dead/{ID}/replay").json()["topic"] == "mine"
    for _ in range(2):
        assert bound.post(f"tasks/{ID}/cancel").json()["topic"] == "mine"
    assert bus.get_task(ID, "theirs").state == "waiting"


# --- sessions


def signed_in(role: str, **more: Any) -> Client:
    accounts.ensure_user(f"a-{role}", role, "a long password")
    client = Client(raise_request_exception=False, **more)
    assert client.login(username=f"a-{role}", password="a long password")
    return client


def test_a_session_reads(redis_client: redis.Redis) -> None:
    assert signed_in("viewer").get(f"{ROOT}/topics").status_code == 200


def test_a_session_writes_with_its_csrf_token_only(redis_client: redis.Redis) -> None:
    client = signed_in("operator", enforce_csrf_checks=True)
    page = client.get(f"{ROOT}/docs")
    token = page.content.decode().split('csrf-token" content="')[1].split('"')[0]
    task = {"topic": "a", "task": 1}

    def sent(**headers: str) -> Any:
        return client.post(
            f"{ROOT}/enqueue", task, content_type="application/json", headers=headers
        )

    for headers in ({}, {"X-CSRFToken": "x" * 32}):
        problem(sent(**headers), 403, "csrf_failed")
    assert keyspace(redis_client) == {}
    assert sent(**{"X-CSRFToken": token}).status_code == 201


@pytest.mark.parametrize("extra", [{}, {"file": b"x"}])
def test_a_form_is_no_way_around(redis_client: redis.Redis, extra: Any) -> None:
    client = signed_in("operator", enforce_csrf_checks=True)
    page = client.get(f"{ROOT}/docs").content.decode()
    token = page.split('csrf-token" content="')[1].split('"')[0]
    form = {"csrfmiddlewaretoken": token, "topic": "a", "task": "1", **extra}

    for path in ("enqueue", f"dead/{ID}/replay"):
        response = client.post(f"{ROOT}/{path}", form)  # multipart
        problem(response, 415, "unsupported_media_type")
    assert keyspace(redis_client) == {}


def test_a_user_without_a_role_may_nothing(redis_client: redis.Redis) -> None:
    user = get_user_model().objects.create_user("nobody", password="a long password")
    client = Client()
    client.force_login(user)

    problem(client.get(f"{ROOT}/topics"), 403, "permission_denied")


def test_what_people_do_is_in_the_audit_trail(redis_client: redis.Redis) -> None:
    task_id = dead_one("audited")

    signed_in("operator").post(
        f"{ROOT}/dead/{task_id}/replay", content_type="application/json"
    )

    entry = models.AuditEntry.objects.get()
    assert (entry.who, entry.role, entry.verb) == ("a-operator", "operator", "replay")
    assert (entry.topic, entry.target) == ("audited", task_id)


# --- rates


def test_calls_of_a_token_are_limited_by_kind(
    redis_client: redis.Redis, settings: Any
) -> None:
    settings.MESH_API_CALLS_PER_MINUTE = 3
    settings.MESH_API_HOT_CALLS_PER_MINUTE = 5
    client, task = api(), {"topic": "limited", "task": 1}

    reads = [client.get("topics") for _ in range(4)]
    hot = [client.post("enqueue", task) for _ in range(6)]

    assert [each.status_code for each in reads[:3]] == [200] * 3
    document = problem(reads[3], 429, "rate_limited")
    assert int(reads[3]["Retry-After"]) >= 1 and document["retry_after_ms"] > 0
    assert [each.status_code for each in hot[:5]] == [201] * 5
    problem(hot[5], 429, "rate_limited")
    assert bus.stats("limited")["backlog"] == 5
    assert api().get("topics").status_code == 200  # another token has its own
    assert client.get("health").status_code == 200


def test_exactly_as_many_pass_at_once_as_may(redis_client: redis.Redis) -> None:
    passed: list[float] = []

    def take() -> None:
        passed.append(ratelimit.take("calls:test", 10, 10 / 60))

    threads = [threading.Thread(target=take) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert passed.count(0.0) == 10
