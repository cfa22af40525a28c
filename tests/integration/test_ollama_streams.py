"""Streams pass line by line; equal requests share a call; whoever leaves, leaves."""

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

from bus import cache
from tests.support.gateway import GatewayClient
from tests.support.nemesis import FailureSimulator
from tests.support.ollama_stub import (
    Gate,
    OllamaStub,
    cut_after,
    endless,
    raw,
    refusing,
    saying,
    silent,
    stalling_after,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]


def _pieces(lines: Iterator[str] | list[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines]


def _streamed(asking: GatewayClient, body: Any) -> tuple[str, list[str]]:
    """X-Cache and the lines of one streamed answer."""
    with closing(asking.open(body)) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["X-Accel-Buffering"] == "no", "proxies pass lines on"
        return answer.headers["X-Cache"], list(answer.iter_lines())


def test_each_line_arrives_while_the_next_is_still_being_made(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    gate = upstream.script = Gate(["one", "two", "three"])
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(caller.open, {"prompt": "hi"})
        wait_until(lambda: upstream.calls)
        gate.open()
        answer = opened.result(5)
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = answer.iter_lines()

        assert json.loads(next(lines))["response"] == "one"
        gate.open()
        assert json.loads(next(lines))["response"] == "two"
        gate.open()
        rest = _pieces(lines)
        answer.close()

    assert [piece["response"] for piece in rest] == ["three", ""]
    assert rest[-1]["done"] is True


def test_a_streamed_repeat_has_the_very_same_lines(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    first = _streamed(caller, {"prompt": "hi"})
    second = _streamed(caller, {"prompt": "hi"})

    assert (first[0], second[0]) == ("MISS", "HIT")
    assert second[1] == first[1]
    assert len(upstream.calls) == 1


def test_a_whole_answer_and_a_stream_serve_each_other(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    whole = caller.ask({"prompt": "a"}).json()
    how, lines = _streamed(caller, {"prompt": "a"})
    text = "".join(piece["response"] for piece in _pieces(lines))
    assert (how, text) == ("HIT", whole["response"])

    _, lines = _streamed(caller, {"prompt": "b"})
    again = caller.ask({"prompt": "b"})
    assert again.headers["X-Cache"] == "HIT"
    assert again.json()["response"] == text


def test_equal_requests_at_once_share_one_call(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 100
    gate = upstream.script = Gate(["one", "two"])
    with ThreadPoolExecutor(30) as threads:
        asked = [threads.submit(caller.ask) for _ in range(30)]
        wait_until(lambda: upstream.calls)
        gate.open(2)
        answers = [each.result(10) for each in asked]

    assert len(upstream.calls) == 1
    assert {answer.json()["response"] for answer in answers} == {"onetwo"}
    states = sorted(answer.headers["X-Cache"] for answer in answers)
    assert states.count("MISS") == 1
    assert set(states) <= {"MISS", "JOIN", "HIT"}


def test_requests_that_leave_things_to_chance_do_not_share(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    body = {"prompt": "hi", "options": {"temperature": 1}}
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda _: caller.ask(body), range(3)))

    assert len(upstream.calls) == 3


def test_who_joined_gets_everything_when_the_first_caller_leaves(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    gate = upstream.script = Gate(["one", "two", "three"])
    with ThreadPoolExecutor(2) as threads:
        opened = threads.submit(caller.open, {"prompt": "hi"})
        wait_until(lambda: upstream.calls)
        gate.open()
        first = opened.result(5)
        joined = threads.submit(caller.ask)
        second = threads.submit(caller.open, {"prompt": "hi"}).result(5)
        assert second.headers["X-Cache"] == "JOIN"

        first.close()
        second.close()
        gate.open(2)

        answer = joined.result(5)
    assert answer.json()["response"] == "onetwothree"
    assert caller.ask().headers["X-Cache"] in ("JOIN", "HIT"), "it is kept, too"
    assert len(upstream.calls) == 1
    assert not upstream.calls[0].gone


@pytest.mark.parametrize("script", [stalling_after("one"), endless])
def test_the_call_ends_when_the_last_reader_leaves(
    script: Any, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_ANSWER_MAX_BYTES = 2**40
    upstream.script = script
    with closing(caller.open({"prompt": "hi"})) as answer:
        next(answer.iter_lines())

    wait_until(lambda: upstream.calls[0].gone, 2)


@pytest.mark.parametrize("stream", [True, False])
def test_the_call_ends_when_the_caller_leaves_before_the_first_line(
    stream: bool, caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = silent
    with pytest.raises(httpx2.ReadTimeout):
        caller.http.post(
            "/api/v1/mesh/ollama/generate",
            json={"prompt": "hi", "stream": stream},
            timeout=1.5,  # by then the upstream has been called
        )

    wait_until(lambda: upstream.calls and upstream.calls[0].gone, 5)


def test_who_asks_after_a_call_was_given_up_gets_a_new_one(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = stalling_after("half")
    with closing(caller.open({"prompt": "hi"})) as answer:
        next(answer.iter_lines())
    wait_until(lambda: upstream.calls[0].gone, 2)

    upstream.script = saying("all of it")

    assert caller.ask().json()["response"] == "all of it"


SECRET = "secret at http://10.0.0.7:11434"


@pytest.mark.parametrize(
    "script",
    [
        raw('{"response": "x"}\n{"error": "' + SECRET + '"}\n'),
        raw('{"response": "x"}\n{"respon'),
        raw('{"response": "x"}\nnot json\n'),
        raw('{"response": "x"}\n'),
        cut_after("x"),
        stalling_after("x"),
    ],
)
def test_a_fault_midway_is_the_last_line_and_nothing_is_kept(
    script: Any, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_BETWEEN_LINES_S = 0.2
    upstream.script = script

    _, lines = _streamed(caller, {"prompt": "hi"})

    first, last = _pieces(lines)
    assert first["response"] == "x"
    assert set(last) == {"error"}
    assert "10.0.0.7" not in last["error"]
    upstream.script = saying("well again")
    assert caller.ask().headers["X-Cache"] == "MISS"


def test_a_fault_before_the_first_line_has_its_status_in_a_stream_too(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = refusing(404, "model not found")

    with closing(caller.open({"prompt": "hi"})) as answer:
        assert answer.status_code == 404
        assert set(json.loads(answer.read())) == {"error"}


def test_a_line_cut_into_bytes_arrives_in_one_piece(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    text = '{"response": "k\u00e4tzchen"}\r\n\n{"response": "!", "done": true}\n'
    upstream.script = raw(*(bytes([each]) for each in text.encode()))

    _, lines = _streamed(caller, {"prompt": "hi"})

    assert [piece["response"] for piece in _pieces(lines)] == ["k\u00e4tzchen", "!"]


def test_calls_beyond_the_places_wait_and_beyond_the_queue_are_refused(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_CONCURRENCY = 2
    settings.MESH_OLLAMA_QUEUE = 1
    gate = upstream.script = Gate(["done"])
    with ThreadPoolExecutor(6) as threads:
        asked = [
            threads.submit(caller.ask, {"prompt": f"question {n}"}) for n in range(6)
        ]
        wait_until(lambda: sum(each.done() for each in asked) == 3)
        assert len(upstream.calls) == 2

        refused = [each.result() for each in asked if each.done()]
        gate.open(3)
        served = [each.result(5) for each in asked if each.result(5) not in refused]

    assert [answer.status_code for answer in refused] == [503] * 3
    assert {answer.json()["position"] for answer in refused} == {2}
    assert all("Retry-After" in answer.headers for answer in refused)
    assert [answer.status_code for answer in served] == [200] * 3
    assert len(upstream.calls) == 3


def test_an_answer_from_the_cache_needs_no_place(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    caller.ask({"prompt": "known"})
    settings.MESH_OLLAMA_CONCURRENCY = 1
    settings.MESH_OLLAMA_QUEUE = 0
    gate = upstream.script = Gate(["one"])
    # The places were counted when the first request came.
    with ThreadPoolExecutor(5) as threads:
        asked = [threads.submit(caller.ask, {"prompt": f"{n}"}) for n in range(4)]
        wait_until(lambda: len(upstream.calls) == 5)

        assert caller.ask({"prompt": "new"}).status_code == 503
        assert caller.ask({"prompt": "known"}).headers["X-Cache"] == "HIT"
        gate.open(4)
        assert [each.result(5).status_code for each in asked] == [200] * 4


def test_without_redis_nothing_is_generated(
    caller: GatewayClient, upstream: OllamaStub, failure_simulator: FailureSimulator
) -> None:
    """A limit that cannot be counted is none: better closed than open."""
    failure_simulator.unreachable()

    answer = caller.ask()

    assert answer.status_code == 503
    assert answer.headers["Retry-After"]
    assert "redis://" not in answer.json()["error"]
    assert upstream.calls == []


def test_without_its_cache_everything_is_generated(
    caller: GatewayClient, upstream: OllamaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise redis.ConnectionError("away")

    monkeypatch.setattr(cache.Connections, "connect", refuse)

    states = [caller.ask().headers["X-Cache"] for _ in range(2)]

    assert states == ["MISS", "MISS"]


def test_at_maxmemory_answers_come_and_are_not_kept(
    caller: GatewayClient, upstream: OllamaStub, redis_client: redis.Redis
) -> None:
    redis_client.config_set("maxmemory", 1)

    assert caller.ask().status_code == 200
    assert caller.ask().headers["X-Cache"] == "MISS"


def test_garbage_in_the_cache_is_no_answer(
    caller: GatewayClient, upstream: OllamaStub, redis_client: redis.Redis
) -> None:
    caller.ask()
    (key,) = redis_client.scan_iter("mesh-cache:*")
    for garbage in ("", "7", "garbage", "[1]", '{"digest": 1}'):
        redis_client.set(key, garbage, ex=60)

        assert caller.ask().headers["X-Cache"] == "MISS", garbage


def test_the_cache_has_so_many_slots_and_no_more(
    caller: GatewayClient,
    upstream: OllamaStub,
    redis_client: redis.Redis,
    settings: Settings,
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 100
    settings.MESH_OLLAMA_CACHE_SLOTS = 3
    for n in range(20):
        caller.ask({"prompt": f"question {n}"})

    kept = list(redis_client.scan_iter("mesh-cache:*"))

    assert len(kept) == 3
    assert all(0 < redis_client.ttl(key) <= 1800 for key in kept)
    assert caller.ask({"prompt": "question 19"}).headers["X-Cache"] == "HIT"


def test_clearing_the_cache_leaves_the_tasks_alone(redis_client: redis.Redis) -> None:
    from django.core.cache import cache as site_cache

    redis_client.set("mesh:{somebody}:tasks", "precious", ex=60)
    site_cache.set("ollama:1", {"a": 1})
    site_cache.set("ollama:2", {"a": 1}, version=7)

    site_cache.clear()

    assert list(redis_client.scan_iter()) == ["mesh:{somebody}:tasks"]
    assert site_cache.get("ollama:1") is None
