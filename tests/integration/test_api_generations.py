"""Over the API it is seen what the gateway generates, in any process, and ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx2
import pytest
import redis
from pytest_django import Settings

from bus import accounts, models
from bus.api.problems import MEDIA_TYPE
from bus.api.views.docs import description
from bus.gateway import keys
from tests.support.api import ROOT, Api, api, problem
from tests.support.described import checking
from tests.support.gateway import GatewayClient, NewCaller
from tests.support.ollama_stub import OllamaStub, stalling_after
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)

PATIENCE_S = 30
HERE = f"{ROOT}/ollama/generations"
FAR = 10**13  # ms; a sign of life that holds


@pytest.fixture(autouse=True)
def nothing_told(cleanup_test_data: None, redis_client: redis.Redis) -> Iterator[None]:
    redis_client.delete(keys.FIGURES, keys.RUNNING)
    yield
    redis_client.delete(keys.FIGURES, keys.RUNNING)


def told(caller: GatewayClient) -> list[dict[str, Any]]:
    answer = caller.http.get(HERE)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["generations"]
    return found


def ended(caller: GatewayClient, generation: str) -> httpx2.Response:
    return caller.http.delete(f"{HERE}/{generation}")


def by_hand(redis_client: redis.Redis, **rows: dict[str, Any]) -> None:
    """Rows as a process tells them."""
    marked = {name: f"{FAR}|0|{json.dumps(row)}" for name, row in rows.items()}
    redis_client.hset(keys.RUNNING, mapping=marked)


def test_what_one_asks_another_sees_and_ends(
    new_caller: NewCaller, upstream: OllamaStub
) -> None:
    upstream.script = stalling_after("one", "two")
    asking, operator = new_caller(), new_caller()
    body = {"prompt": "a secret", "model": "tiny:1b"}
    with closing(asking.open(body)) as answer:
        [row] = wait_until(lambda: told(operator), PATIENCE_S)

        response = ended(operator, row["id"])
        said = json.loads(answer.read().splitlines()[-1])

    assert (row["model"], row["owner"], row["lines"]) == ("tiny:1b", "client 0", 2)
    assert (row["waiting"], row["ending"], row["running_s"] > 0) == (1, False, True)
    assert "secret" not in json.dumps(row)
    assert (response.status_code, response.json()) == (202, {**row, "ending": True})
    assert said == {"error": "an operator ended the generation"}
    wait_until(lambda: upstream.calls[0].gone, PATIENCE_S)
    wait_until(lambda: told(operator) == [], PATIENCE_S)
    assert ended(operator, row["id"]).json()["code"] == "not_found"
    entry = models.AuditEntry.objects.get(verb="end generation")
    assert (entry.who, entry.target) == ("client 1", row["id"])
    assert entry.detail == {"model": "tiny:1b", "owner": "client 0"}
    assert entry.request_id == response.headers["X-Request-ID"]


def test_what_waits_for_a_place_is_told_as_queued_and_ended_too(
    new_caller: NewCaller, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_CONCURRENCY = 1
    upstream.script = stalling_after("one")
    asking, operator = new_caller(), new_caller()
    with (
        ThreadPoolExecutor(1) as threads,
        closing(asking.open({"prompt": "first"})),
    ):
        wait_until(lambda: told(operator), PATIENCE_S)
        second = threads.submit(asking.ask, {"prompt": "second"})
        rows = wait_until(
            lambda: len(found := told(operator)) == 2 and found, PATIENCE_S
        )
        response = ended(operator, rows[1]["id"])
        answer = second.result(PATIENCE_S)

        assert [row["state"] for row in rows] == ["running", "queued"]
        assert rows[0]["queued_s"] is rows[1]["running_s"] is None
        assert rows[0]["running_s"] > 0 and rows[1]["queued_s"] > 0
        assert response.status_code == 202
        assert answer.status_code == 502
        assert "an operator ended" in answer.json()["error"]
        assert len(upstream.calls) == 1


def test_the_list_is_as_it_is_described(redis_client: redis.Redis) -> None:
    by_hand(redis_client, g1={"owner": "ada", "model": "tiny", "lines": 3, "s": 1.5})
    told = description()
    call = told["paths"][HERE]["get"]["responses"]["200"]["content"]
    schema = {
        **call["application/json"]["schema"],
        "components": told["components"],
    }

    answer = api("viewer").get("ollama/generations").json()

    checking(schema).validate(answer)
    assert [row["id"] for row in answer["generations"]] == ["g1"]


def test_a_repeat_while_it_ends_is_answered_alike_and_written_down_once(
    redis_client: redis.Redis,
) -> None:
    by_hand(redis_client, g1={"model": "tiny", "owner": "ada"})
    client = api("operator")

    both = [client.delete("ollama/generations/g1") for _ in range(2)]

    assert [each.status_code for each in both] == [202, 202]
    assert both[0].json() == both[1].json()
    assert models.AuditEntry.objects.filter(verb="end generation").count() == 1


@pytest.mark.parametrize("which", ["g2", "old", "odd", "x" * 300, "%00", "..", "%F0"])
def test_what_does_not_run_is_not_there(redis_client: redis.Redis, which: str) -> None:
    redis_client.hset(keys.RUNNING, mapping={"old": "1|0|{}", "odd": "what"})

    problem(api("operator").delete(f"ollama/generations/{which}"), 404, "not_found")
    assert not models.AuditEntry.objects.filter(verb="end generation").exists()


def test_a_token_bound_to_topics_sees_and_ends_its_own(
    redis_client: redis.Redis,
) -> None:
    by_hand(redis_client, mine={"owner": "bound"}, theirs={"owner": "other"})
    _, text = accounts.create_token("bound", "operator", topics=["mail"])
    client = Api(text)

    rows = client.get("ollama/generations").json()["generations"]
    other = client.delete("ollama/generations/theirs")
    own = client.delete("ollama/generations/mine")

    assert [row["id"] for row in rows] == ["mine"]
    problem(other, 404, "not_found")
    assert own.status_code == 202


def test_rows_by_hand_are_told_as_what_they_are_described_to_be(
    redis_client: redis.Redis,
) -> None:
    odd = {"owner": ["x"], "model": "m" * 900, "lines": "many", "s": "long", "pid": 1.5}
    by_hand(redis_client, odd=odd, empty={})

    answer = api("viewer").get("ollama/generations").json()

    rows = {row["id"]: row for row in answer["generations"]}
    assert (answer["next"], set(rows)) == (None, {"odd", "empty"})
    assert (rows["odd"]["owner"], rows["odd"]["model"]) == ("['x']", "m" * 200)
    for row in rows.values():
        assert row["lines"] is row["running_s"] is row["pid"] is row["waiting"] is None


def test_nothing_but_the_id_says_which(redis_client: redis.Redis) -> None:
    by_hand(redis_client, g1={})
    client = api("admin")

    problem(client.get("ollama/generations?topic=a"), 422, "invalid")
    problem(client.delete("ollama/generations/g1?force=true"), 422, "invalid")
    body = client.raw("ollama/generations/g1", b'{"all": true}', method="DELETE")

    problem(body, 422, "invalid")
    [row] = client.get("ollama/generations").json()["generations"]
    assert row["ending"] is False


def test_a_body_over_the_limit_is_refused_as_in_all_calls_of_the_api(
    caller: GatewayClient,
) -> None:
    answer = caller.http.request("DELETE", f"{HERE}/g1", content=b" " * 2_000_000)

    assert answer.headers["Content-Type"] == MEDIA_TYPE
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_without_redis_both_say_so(failure_simulator: Any) -> None:
    failure_simulator.unreachable()
    client = api("operator")

    problem(client.get("ollama/generations"), 503, "bus_unavailable")
    problem(client.delete("ollama/generations/g1"), 503, "bus_unavailable")
