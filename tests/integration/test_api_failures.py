"""What the API says when something is not there, not allowed, or broken."""

from __future__ import annotations

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import OperationalError
from django.test import Client

import bus
from bus import auditor, errors, keys, refusals, scripts
from bus.api.exceptions import problem_of
from bus.api.problems import KINDS, MEDIA_TYPE
from bus.api.problems import problem as document_of
from bus.api.views import health as health_view
from bus.server import EmbeddedServer
from tests.support.api import ROOT, Api, api, keyspace, problem
from tests.support.nemesis import FailureSimulator

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
TASK = {"topic": "failures", "task": 1}


@pytest.mark.parametrize(
    "path", ["/api/", "/api/v2/mesh/topics", f"{ROOT}/nothing", f"{ROOT}/enqueue/"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_an_unknown_call_is_a_problem(path: str, method: str) -> None:
    response = Client().generic(method, path)

    problem(response, 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("enqueue", {"POST", "OPTIONS"}),
        ("topics", {"GET", "HEAD", "OPTIONS"}),
        ("agents", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("tasks/x", {"GET", "HEAD", "OPTIONS"}),
    ],
)
@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "FOO"])
def test_another_method_is_405(path: str, allow: set[str], method: str) -> None:
    response = api().raw(path, b"", method=method)

    problem(response, 405, "method_not_allowed")
    assert set(response["Allow"].split(", ")) == allow


def test_options_tell_the_methods(redis_client: redis.Redis) -> None:
    response = api(None).raw("agents", b"", method="OPTIONS")

    assert (response.status_code, response.content) == (204, b"")
    assert set(response["Allow"].split(", ")) == {"GET", "HEAD", "POST", "OPTIONS"}


def test_head_is_get_without_its_body(redis_client: redis.Redis) -> None:
    response = api().raw("topics", b"", method="HEAD")

    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-Method-Override"])
def test_a_method_is_not_overridden(redis_client: redis.Redis, name: str) -> None:
    client = api()
    client.headers[name] = "DELETE"

    assert client.get("topics").status_code == 200


@pytest.mark.parametrize("accept", ["text/html", "application/xml", "image/*", ""])
def test_answers_are_json_whatever_is_accepted(
    redis_client: redis.Redis, accept: str
) -> None:
    client = api()
    client.headers["Accept"] = accept

    good = client.get("topics")
    bad = client.get("topics/nobody")

    assert good["Content-Type"] == "application/json"
    problem(bad, 404, "topic_not_found")


def test_another_host_is_refused() -> None:
    response = Client().get(f"{ROOT}/health/live", headers={"Host": "evil.example"})

    problem(response, 400, "bad_request")


def test_the_gateway_says_so_as_ollama_does_and_the_calls_about_it_do_not() -> None:
    told = {"Host": "evil.example"}
    gateway = Client().get(f"{ROOT}/ollama/api/tags", headers=told)
    about_it = Client().get(f"{ROOT}/ollama/generations", headers=told)

    assert (gateway.status_code, [*gateway.json()]) == (400, ["error"])
    problem(about_it, 400, "bad_request")


def test_a_forwarded_host_is_ignored(redis_client: redis.Redis) -> None:
    client = api()
    client.headers["X-Forwarded-Host"] = "evil.example"

    response = client.post("enqueue", TASK)

    assert "evil" not in response["Location"]


def test_no_cache_may_keep_an_answer(redis_client: redis.Redis) -> None:
    for path in ("topics", "topics/nobody"):
        assert api().get(path)["Cache-Control"] == "no-store"


def test_other_origins_get_no_leave(redis_client: redis.Redis) -> None:
    client = api()
    client.headers["Origin"] = "https://evil.example"

    for response in (
        client.get("topics"),
        client.raw("topics", b"", method="OPTIONS"),
    ):
        assert not [name for name in response.headers if "Access-Control" in name]


def test_a_bug_says_nothing_but_an_id_that_is_in_the_log(
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(names: list[str]) -> Any:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("bus.topics.stats_of", broken)
    client = api()

    with caplog.at_level(logging.ERROR):
        response = client.get("topics")

    document = problem(response, 500, "internal_error")
    assert b"secret" not in response.content and b"Traceback" not in response.content
    [record] = caplog.records
    assert document["id"] == response["X-Error-Id"]
    assert document["id"] and document["id"] in record.getMessage()
    assert "the secret of the house" in str(record.exc_info[1])  # type: ignore[index]


def test_a_bug_in_front_of_the_gateway_names_its_id(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret of the house")

    monkeypatch.setattr("bus.api.gateway.refusal", broken)

    response = Client(raise_request_exception=False).get(f"{ROOT}/ollama/api/tags")

    assert (response.status_code, [*response.json()]) == (500, ["error", "id"])
    assert response.json()["id"] == response["X-Error-Id"]


def test_a_bug_in_a_call_that_waits_is_the_same(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("the secret of the house")

    task_id = bus.enqueue_task("a", 1)
    monkeypatch.setattr("bus.lookup.task_of", broken)

    problem(api().get(f"tasks/{task_id}", wait=1), 500, "internal_error")


READS = ["topics", "tasks?topic=a", "results?topic=a", "dead", "agents", "health/ready"]


def test_without_redis_every_call_is_503(
    redis_client: redis.Redis, failure_simulator: FailureSimulator, settings: Any
) -> None:
    settings.MESH_SEND_RETRY_S = 0.2
    client = api("admin")
    failure_simulator.unreachable()

    for path in READS[:-1]:
        response = client.get(path)
        document = problem(response, 503, "bus_unavailable")
        assert "outcome" not in document
        assert response["Retry-After"] == "1"
        assert "127.0.0.1" not in response.content.decode()
    sent = client.post("enqueue", TASK)
    assert problem(sent, 503, "bus_unavailable")["outcome"] == "not_written"
    assert client.get("health/ready").status_code == 503
    assert client.get("health/live").status_code == 200


def test_a_server_that_hangs_is_told_soon_and_honestly(
    own_server: EmbeddedServer, settings: Any
) -> None:
    settings.MESH_SEND_RETRY_S = 0.2
    settings.MESH_SOCKET_TIMEOUT_S = 0.5
    health_view.forget()
    client = api("operator")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        ready, health = client.get("health/ready"), client.get("health")
        took_s = time.monotonic() - began
        read, sent = client.get("topics"), client.post("enqueue", TASK)
    finally:
        os.kill(own_server.pid, signal.SIGCONT)

    assert (ready.status_code, health.status_code) == (503, 503)
    assert took_s < 10
    assert "outcome" not in problem(read, 503, "bus_unavailable")
    # It did not get as far as the task: the rate limit had to be asked first.
    assert problem(sent, 503, "bus_unavailable")["outcome"] == "not_written"


def test_health_is_503_without_redis_only(
    redis_client: redis.Redis,
    failure_simulator: FailureSimulator,
) -> None:
    health_view.forget()
    degraded = api(None).get("health")  # no agent, no append-only file
    health_view.forget()
    failure_simulator.unreachable()
    down = api(None).get("health")

    assert degraded.status_code == 200
    assert (down.status_code, down.json()["status"]) == (503, "down")
    health_view.forget()


def test_a_lost_answer_names_the_task_to_send_again(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = api()

    run = scripts.run

    def lost(name: str, *args: Any, **given: Any) -> Any:
        if name == "enqueue":
            raise errors.OutcomeUnknown("redis://10.0.0.1 went away")
        return run(name, *args, **given)

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "run", lost)
        response = client.post("enqueue", TASK)
        batch = client.post("enqueue/batch", {"tasks": [TASK]})

    document = problem(response, 503, "outcome_unknown")
    assert document["outcome"] == "unknown"
    assert "10.0.0.1" not in response.content.decode()
    again = client.post("enqueue", {**TASK, "id": document["id"]})
    assert again.status_code == 201
    [row] = batch.json()["results"]
    assert (row["status"], row["error"]["outcome"]) == (503, "unknown")
    assert row["error"]["id"]


def test_a_full_server_refuses_whole(redis_client: redis.Redis) -> None:
    client = api()
    client.post("enqueue", TASK)
    before = keyspace(redis_client)
    redis_client.config_set("maxmemory", 1)

    response = client.post("enqueue", TASK)

    redis_client.config_set("maxmemory", 0)
    document = problem(response, 503, "memory_full")
    assert document["outcome"] == "not_written" and "memory" in document["detail"]
    assert keyspace(redis_client) == before


@pytest.mark.parametrize("name", ["tasks", "results", "dead", "delayed", "done"])
def test_a_key_that_somebody_damaged_is_503_and_named_until_it_is_mended(
    redis_client: redis.Redis, test_topic: str, name: str
) -> None:
    client = api()
    kept = bus.enqueue_task(test_topic, 1)
    key = keys.named(name, test_topic)
    redis_client.set(key, "not ours")

    answers = [
        client.get(f"topics/{test_topic}"),
        client.post("enqueue", {**TASK, "topic": test_topic, "delay_s": 60}),
        client.get("results", topic=test_topic),
        client.get("dead", topic=test_topic),
        client.get(f"tasks/{kept}", topic=test_topic),
        client.post(f"tasks/{kept}/cancel?topic={test_topic}"),
    ]

    refused = [answer for answer in answers if answer.status_code >= 500]
    told = [problem(answer, 503, "damaged_key")["detail"] for answer in refused]
    assert any(key in detail for detail in told)
    for answer in refused:
        reads = answer.wsgi_request.method == "GET"
        assert answer.json().get("outcome") == (None if reads else "not_written")
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
    auditor.audit(test_topic)
    assert client.get(f"tasks/{kept}", topic=test_topic).status_code == 200


def test_a_database_that_is_away_is_503_before_anything_is_done(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = api()

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("connection to 10.0.0.7 refused")

    with monkeypatch.context() as patch:
        patch.setattr("bus.accounts.principal_of", away)
        answer = client.post("enqueue", {**TASK, "topic": test_topic})

    assert problem(answer, 503, "database_unavailable")["outcome"] == "not_written"
    assert answer["Retry-After"] == "5" and b"10.0.0.7" not in answer.content
    assert bus.list_topics() == []
    assert "10.0.0.7" in caplog.text and "Traceback" not in caplog.text


def test_every_error_of_the_bus_that_a_call_can_raise_has_a_status() -> None:
    # What says that our own code or server is wrong, not the request: a 500.
    internal = {
        *("bus_error", "decode_error", "malformed", "handler_error"),
        *("server_error", "server_locked", "wrong_layout", "unfit_server"),
    }
    facts: dict[type[errors.BusError], dict[str, Any]] = {
        errors.RateLimited: {"retry_after_s": 1.0},
        refusals.DamagedKey: {"key": "mesh:{x}:tasks", "how": "torn"},
    }
    found_outside = {"ReplayNotFound", "SeveralTopics", "NotRunnable", "DamagedKey"}
    kinds: list[type[errors.BusError]] = [errors.BusError]
    for kind in kinds:
        kinds += kind.__subclasses__()

    ours = [kind for kind in kinds if kind.__module__.startswith("bus.")]
    for kind in ours:
        found = problem_of(kind(**facts.get(kind, {})))
        assert (None if found is None else found.code) == (
            None if kind.code in internal else kind.code
        )
    assert found_outside <= {kind.__name__ for kind in ours}


def test_the_guide_names_every_code_and_no_other() -> None:
    """Its table of errors says of each whether to retry, as the code does."""
    table = GUIDE.read_text().partition("| code | status | may I retry? |")[2]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]

    told = {row[1].strip(" `"): (row[2].strip(), row[3].strip()) for row in rows}

    assert len(told) == len(rows), "each stands there once"
    assert told == {
        code: (str(kind.status), kind.retry) for code, kind in KINDS.items()
    }
    assert all(row[4].strip() for row in rows), "and says when it comes"


def test_what_may_be_repeated_later_says_when() -> None:
    """Whoever is told to come back is told when: by `later`, with Retry-After."""
    for code, kind in KINDS.items():
        waits = kind.retry == "yes, after Retry-After"
        assert not waits or kind.status in (429, 503), code


def test_a_problem_keeps_its_standard_members() -> None:
    document = document_of(404, "not_found", "t", "d", status_="x", type_="y")

    assert (document["status"], document["code"]) == (404, "not_found")
    assert MEDIA_TYPE == "application/problem+json"


def test_what_a_task_says_stays_data(redis_client: redis.Redis) -> None:
    client: Api = api()
    text = "</script><script>alert(1)</script>"

    task_id = client.post("enqueue", {"topic": "x", "task": text}).json()["id"]
    response = client.get(f"tasks/{task_id}")

    assert response["Content-Type"] == "application/json"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response.json()["task"] == bus.get_task(task_id).payload == text
