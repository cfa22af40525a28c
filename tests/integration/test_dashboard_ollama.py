"""The gateway's page: what it shows, and what may be done there by whom."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from pytest_django import Settings

from bus import models, ollama, scripts
from bus.gateway import keys
from tests.support.ollama_stub import (
    SECRET_FILE,
    OllamaStub,
    like_ollama,
    refusing,
    saying,
    silent,
)
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db

ASK = {"prompt": "Why?", "model": "tiny:1b", "tokens": "9"}
ROW = {
    "host": "box",
    "pid": 7,
    "owner": "<b>ada</b>",
    "model": "tiny:1b",
    "size": 12,
    "lines": 3,
    "waiting": 2,
    "s": 1.5,
}


@pytest.fixture(autouse=True)
def nothing_told(redis_client: redis.Redis) -> Iterator[None]:
    """As if nobody had ever asked the gateway."""
    redis_client.delete(keys.FIGURES, keys.RUNNING)
    yield
    redis_client.delete(keys.FIGURES, keys.RUNNING)


@pytest.fixture
def generation() -> str:
    """One that another process says it runs."""
    args = [60_000, "g1", json.dumps(ROW)]
    scripts.run("generating", "", args, [keys.RUNNING])
    return "g1"


def ended(client: Any, generation: str) -> Any:
    """The page that comes after the click."""
    response = client.post(f"/ollama/generations/{generation}/end")
    assert response.status_code == 303
    return client.get(response["Location"])


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_whoever_reads_sees_models_limits_and_how_to_point_a_client(
    role: str, upstream: OllamaStub
) -> None:
    upstream.script = like_ollama

    seen = looked_at(signed_in(role).get("/ollama/"))

    assert seen.wrong == []
    for words in ("tiny:1b", "big:70b", "Q4_0", "loaded", "on disk", "Limits"):
        assert words in seen.text
    assert "OLLAMA_HOST=http://testserver/api/v1/mesh/ollama" in seen.text
    assert SECRET_FILE not in seen.text and "10.0.0.7" not in seen.text
    assert ("Try it" in seen.text) == (role != "viewer")


def test_an_hour_without_requests_has_no_figures_rather_than_zeros(
    upstream: OllamaStub,
) -> None:
    upstream.script = like_ollama

    context = signed_in("viewer").get("/ollama/").context

    assert context["figures"].spared is None
    assert context["first"] == context["whole"] == {"p50": None, "p95": None}


def test_figures_are_those_of_all_processes(upstream: OllamaStub) -> None:
    upstream.script = like_ollama
    buckets = [0] * 44
    buckets[7], buckets[22 + 10] = 4, 4
    counts = [3, 4, 2, 0, 1, 0, 0, 5, 90, 3_000]  # as `reports.COUNTS` has them
    args = ["", *counts, *buckets]
    for _ in range(2):  # two processes
        scripts.run("generated", "", args, [keys.FIGURES, keys.RUNNING])

    text = looked_at(signed_in("viewer").get("/ollama/")).text

    words = " ".join(text.split())
    for said in ("2 failed", "55.6 %", "6 from the cache, 4 joined, of 18"):
        assert said in words
    for said in ("128 ms", "1.0 s", "180 generated"):
        assert said in words


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (refusing(500, "disk /dev/sda is full"), "The model server failed"),
        (silent, "did not answer within 2 s"),
    ],
    ids=["fails", "hangs"],
)
def test_without_a_model_server_the_page_says_how_to_have_one(
    upstream: OllamaStub, script: Any, says: str
) -> None:
    upstream.script = script

    response = signed_in("viewer").get("/ollama/")

    seen = looked_at(response)
    assert (response.status_code, seen.wrong) == (200, [])
    assert says in seen.text and "OLLAMA_BASE_URL=" in seen.text
    assert "/dev/sda" not in seen.text


def test_odd_answers_of_a_model_server_make_no_odd_page(upstream: OllamaStub) -> None:
    odd = [
        {"name": "<script>x</script>", "details": "none", "size": "big"},
        {"name": 7, "details": {"parameter_size": ["x"]}, "expires_at": "soon"},
        {},
    ]

    async def script(call: Any) -> None:
        await call.head(kind="application/json")
        await call.send(json.dumps({"models": odd}))

    upstream.script = script

    response = signed_in("viewer").get("/ollama/")

    assert response.status_code == 200
    assert looked_at(response).wrong == []
    assert b"<script>x" not in response.content


def test_the_form_generates_and_shows_the_answer(upstream: OllamaStub) -> None:
    upstream.script = saying("Be", "cause <b>")

    response = signed_in("operator").post("/ollama/ask", ASK)

    seen = looked_at(response)
    assert (response.status_code, seen.wrong) == (200, [])
    assert "Because <b>" in seen.text and "MISS" in seen.text
    call = next(call for call in upstream.calls if call.path == "/api/generate")
    assert call.body["model"] == "tiny:1b"
    assert call.body["options"] == {"num_predict": 9}
    entry = models.AuditEntry.objects.get()
    assert (entry.verb, entry.target) == ("generate", "tiny:1b")
    assert "Why?" not in json.dumps(entry.detail)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"prompt": " "}, "Prompt must not be empty"),
        ({"prompt": "x" * 40_000}, "Prompt has more than 32,768 bytes"),
        ({"model": "../x"}, "Model is not a model&#x27;s name"),
        ({"tokens": "many"}, "must be a whole number"),
        ({"tokens": "999999999"}, "Option num_predict must be a whole number"),
    ],
    ids=["empty", "long", "model", "no-number", "too-many"],
)
def test_a_mistake_is_told_beside_the_form_which_keeps_what_was_typed(
    upstream: OllamaStub, wrong: dict[str, str], says: str
) -> None:
    response = signed_in("operator").post("/ollama/ask", {**ASK, **wrong})

    assert response.status_code == 422
    assert says in response.content.decode()
    for name in ("model", "tokens"):
        assert response.context["draft"][name] == {**ASK, **wrong}[name]
    assert "/api/generate" not in {call.path for call in upstream.calls}


@pytest.mark.parametrize(
    ("script", "status", "says"),
    [
        (refusing(404, "no"), 404, "Model &#x27;tiny:1b&#x27; not found"),
        (refusing(400, "no"), 400, "does not accept this request"),
        (refusing(503, "no"), 503, "busy"),
        (refusing(500, "at 10.0.0.7"), 502, "The model server failed"),
    ],
)
def test_what_the_model_server_does_wrong_is_told_as_the_api_tells_it(
    upstream: OllamaStub, script: Any, status: int, says: str
) -> None:
    upstream.script = script

    response = signed_in("operator").post("/ollama/ask", ASK)

    assert response.status_code == status
    assert says in response.content.decode()
    assert b"10.0.0.7" not in response.content


def test_the_form_pays_like_the_api(upstream: OllamaStub, settings: Settings) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001
    client = signed_in("operator")

    assert client.post("/ollama/ask", ASK).status_code == 200
    refused = client.post("/ollama/ask", ASK)

    assert refused.status_code == 429
    assert b"More than 1 requests at once" in refused.content


def test_what_runs_is_shown_and_ended_by_an_operator(
    upstream: OllamaStub, generation: str
) -> None:
    upstream.script = like_ollama
    client = signed_in("operator")

    seen = looked_at(client.get("/ollama/"))
    assert seen.wrong == [] and "1 under way" in seen.title
    assert "<b>ada</b>" in seen.text and "box 7" in seen.text
    told = looked_at(ended(client, generation))
    again = looked_at(ended(client, generation))

    assert "The generation of tiny:1b ends" in told.text and "ending" in told.text
    assert "ends;" not in again.text  # the second click
    [row] = ollama.running()
    assert row["ending"] is True
    entry = models.AuditEntry.objects.get()
    assert (entry.verb, entry.target) == ("end generation", generation)
    assert entry.detail == {"model": "tiny:1b", "owner": "<b>ada</b>"}


@pytest.mark.parametrize("which", ["g2", "x" * 300, "%00"])
def test_what_does_not_run_cannot_be_ended(upstream: OllamaStub, which: str) -> None:
    upstream.script = like_ollama

    assert "It had ended before" in looked_at(ended(signed_in("operator"), which)).text
    assert not models.AuditEntry.objects.exists()


@pytest.mark.parametrize("path", ["/ollama/ask", "/ollama/generations/g1/end"])
def test_a_viewer_a_stranger_and_a_forged_form_do_nothing(
    upstream: OllamaStub, generation: str, path: str
) -> None:
    upstream.script = like_ollama

    viewer = signed_in("viewer").post(path, ASK)
    forged = signed_in("operator", enforce_csrf_checks=True).post(path, ASK)
    read = signed_in("operator").get(path)

    assert (viewer.status_code, forged.status_code) == (403, 403)
    assert read.status_code == 405
    [row] = ollama.running()
    assert row["ending"] is False and upstream.calls == []
    assert "End" not in looked_at(signed_in("viewer").get("/ollama/")).text.split()
    assert signed_in("").post(path, ASK).status_code == 403


def test_without_redis_it_says_so(failure_simulator: Any, upstream: OllamaStub) -> None:
    failure_simulator.unreachable()

    assert signed_in("viewer").get("/ollama/").status_code == 503
