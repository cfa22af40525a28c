"""What the gateway does is counted for all processes, and can be ended from any."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import redis
from pytest_django import Settings

from bus import errors, ollama
from bus.gateway import keys, relay
from tests.support.gateway import GatewayClient
from tests.support.ollama_stub import (
    OllamaStub,
    Script,
    refusing,
    saying,
    stalling_after,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)

PATIENCE_S = 30


@pytest.fixture(autouse=True)
def nothing_told(cleanup_test_data: None, redis_client: redis.Redis) -> Iterator[None]:
    """As if nobody had ever asked the gateway, and no trace of what a test wrote."""
    redis_client.delete(keys.FIGURES, keys.RUNNING)
    yield
    redis_client.delete(keys.FIGURES, keys.RUNNING)


def counted(**wanted: int) -> Callable[[], bool]:
    """Whether exactly this was counted, and nothing else."""

    def is_so() -> bool:
        counts = ollama.figures().counts
        found = {name: counts[name] for name in counts if not name.startswith("tokens")}
        return {name: n for name, n in found.items() if n} == wanted

    return is_so


def test_every_way_to_an_answer_is_counted(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    caller.ask()
    caller.ask()
    caller.ask({"prompt": "hi", "options": {"temperature": 1}})
    upstream.script = refusing(404, "no")
    caller.ask({"prompt": "other"})

    wait_until(counted(miss=1, hit=1, bypass=1, failed=1), PATIENCE_S)
    figures = ollama.figures()
    assert figures.spared == pytest.approx(1 / 3)
    assert figures.first.total() == figures.whole.total() == 2
    first_ms, whole_ms = figures.first_ms(0.5), figures.whole_ms(0.95)
    assert first_ms is not None and whole_ms is not None and first_ms <= whole_ms


def test_who_is_refused_by_the_limit_is_counted(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001

    statuses = [caller.ask().status_code for _ in range(3)]

    assert statuses == [200, 429, 429]
    wait_until(counted(miss=1, limited=2), PATIENCE_S)


def test_who_is_refused_after_the_kept_answer_was_there_is_no_hit(
    caller: GatewayClient,
    upstream: OllamaStub,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001
    pay = ollama._pay

    async def slowly(owner: str) -> float:
        await asyncio.sleep(1)
        return await pay(owner)

    monkeypatch.setattr(ollama, "_pay", slowly)

    statuses = [caller.ask().status_code for _ in range(3)]

    assert statuses == [200, 429, 429]
    wait_until(counted(miss=1, limited=2), PATIENCE_S)


@pytest.mark.parametrize("leaves_after_s", [0, 1])
def test_who_is_refused_by_the_limit_leaves_nobody_waiting(
    caller: GatewayClient,
    upstream: OllamaStub,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    leaves_after_s: float,
) -> None:
    # For so long a lead that the refused one left behind would be followed in vain.
    monkeypatch.setattr(relay, "_LEASE_MS", 600_000)
    abandon = relay.Lead.abandon

    async def slowly(lead: relay.Lead) -> bool:
        await asyncio.sleep(leaves_after_s)
        return await abandon(lead)

    monkeypatch.setattr(relay.Lead, "abandon", slowly)
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001
    assert caller.ask({"prompt": "first"}).status_code == 200
    assert caller.ask({"prompt": "second"}).status_code == 429

    settings.MESH_OLLAMA_RATE_CAPACITY = 100
    answer = caller.ask({"prompt": "second"})

    assert (answer.status_code, answer.headers["X-Cache"]) == (200, "MISS")
    assert [call.body["prompt"] for call in upstream.calls] == ["first", "second"]


def test_the_models_pace_is_what_its_server_says(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    async def timed(call: Any) -> None:
        await call.head()
        await call.piece("", done=True, eval_count=30, eval_duration=2_000_000_000)

    upstream.script = timed
    caller.ask()

    wait_until(lambda: ollama.figures().tokens_per_s == 15, PATIENCE_S)


@pytest.mark.parametrize(
    "told",
    [
        {"eval_count": "many", "eval_duration": 1},
        {"eval_count": 3, "eval_duration": -1},
        {"eval_count": True, "eval_duration": 10**30},
    ],
    ids=["text", "negative", "huge"],
)
def test_a_pace_that_makes_no_sense_is_left_out(
    caller: GatewayClient, upstream: OllamaStub, told: dict[str, Any]
) -> None:
    async def odd(call: Any) -> None:
        await call.head()
        await call.piece("", done=True, **told)

    upstream.script = odd
    assert caller.ask().status_code == 200

    wait_until(counted(miss=1), PATIENCE_S)
    assert ollama.figures().tokens_per_s is None


def test_what_runs_is_told_with_whose_it_is_and_no_word_of_the_prompt(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = stalling_after("one", "two")
    with closing(caller.open({"prompt": "a secret", "model": "tiny:1b"})):
        wait_until(lambda: ollama.running() != [], PATIENCE_S)
        [row] = ollama.running()

    assert (row["model"], row["lines"], row["waiting"]) == ("tiny:1b", 2, 1)
    assert row["owner"].startswith("client") and row["ending"] is False
    assert "secret" not in json.dumps(row)
    wait_until(lambda: ollama.running() == [], PATIENCE_S)
    wait_until(counted(left=1), PATIENCE_S)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("cached", [True, False])
def test_one_that_is_ended_ends_upstream_and_for_all_who_wait(
    caller: GatewayClient, upstream: OllamaStub, stream: bool, cached: bool
) -> None:
    upstream.script = stalling_after("one")
    body: dict[str, Any] = {"prompt": "hi", "stream": stream}
    if not cached:
        body["options"] = {"temperature": 1}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(caller.ask, body)
        wait_until(lambda: ollama.running() != [], PATIENCE_S)
        [row] = ollama.running()

        assert ollama.stop(row["id"])
        answer = asked.result(PATIENCE_S)

    assert answer.status_code == (200 if stream else 502)
    said = json.loads(answer.text.splitlines()[-1])
    assert said == {"error": "an operator ended the generation"}
    wait_until(lambda: upstream.calls[0].gone, PATIENCE_S)
    wait_until(counted(ended=1), PATIENCE_S)
    assert not ollama.stop(row["id"])
    upstream.script = saying("well")
    assert caller.ask({"prompt": "hi"}).json()["response"] == "well"


def test_what_does_not_run_cannot_be_ended(redis_client: redis.Redis) -> None:
    redis_client.hset(keys.RUNNING, mapping={"old": "1|0|{}", "odd": "what"})

    assert [ollama.stop(each) for each in ("never", "old", "odd", "")] == [False] * 4


def test_rows_by_hand_confuse_nobody(
    redis_client: redis.Redis, caller: GatewayClient, upstream: OllamaStub
) -> None:
    far = 10**13
    odd = {"a": "", "b": f"{far}|0|no JSON", "c": f"{far}|0|[1]", "d": "x|1|{}"}
    redis_client.hset(keys.RUNNING, mapping=odd)
    redis_client.hset(keys.FIGURES, mapping={"1": "", "2": "x y", "3": "1 2 3"})
    minute = int(redis_client.time()[0]) // 60  # type: ignore[index]
    redis_client.hset(keys.FIGURES, str(minute % 60), f"{minute} 5")

    assert ollama.running() == []
    assert ollama.figures().answered == 0
    caller.ask()
    wait_until(lambda: ollama.figures().answered >= 1, PATIENCE_S)


def test_figures_of_more_than_an_hour_ago_do_not_count(
    redis_client: redis.Redis, caller: GatewayClient, upstream: OllamaStub
) -> None:
    caller.ask()
    wait_until(counted(miss=1), PATIENCE_S)
    [(slot, row)] = redis_client.hgetall(keys.FIGURES).items()  # type: ignore[union-attr]
    minute, _, counts = row.partition(" ")
    redis_client.hset(keys.FIGURES, slot, f"{int(minute) - 60} {counts}")

    assert ollama.figures().answered == 0


@pytest.mark.parametrize(
    ("script", "status"), [(saying("a"), 200), (refusing(500, "no"), 502)]
)
def test_without_a_place_to_count_answers_are_the_same(
    redis_client: redis.Redis,
    caller: GatewayClient,
    upstream: OllamaStub,
    script: Script,
    status: int,
) -> None:
    upstream.script = script
    redis_client.set(keys.FIGURES, "damaged")

    assert caller.ask().status_code == status

    with pytest.raises(errors.BusError):
        ollama.figures()


def test_neither_key_grows_or_stays(
    redis_client: redis.Redis, caller: GatewayClient, upstream: OllamaStub
) -> None:
    for n in range(5):
        caller.ask({"prompt": f"{n}"})

    wait_until(counted(miss=5), PATIENCE_S)
    assert redis_client.hlen(keys.FIGURES) <= 2  # minutes that it took
    assert 0 < redis_client.ttl(keys.FIGURES) <= 7200
    assert redis_client.exists(keys.RUNNING) == 0
