"""Each way in which a model server fails is an error of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import redis
from pytest_django import Settings

from bus import errors, ollama
from bus.gateway import prompts
from bus.gateway import upstream as server
from tests.support.ollama_stub import (
    OllamaStub,
    cut_after,
    dropping,
    raw,
    refusing,
    silent,
)


def generated() -> list[bytes]:
    async def ask() -> list[bytes]:
        body: dict[str, Any] = {"model": "tiny:1b", "prompt": "hi"}
        try:
            return [line async for line in server.generate("/api/generate", body)]
        finally:
            await server.aclose()

    return asyncio.run(ask())


def test_a_generation_ends_with_its_last_line(upstream: OllamaStub) -> None:
    assert b'"done": true' in generated()[-1]


@pytest.mark.parametrize(
    ("script", "code", "sentence"),
    [
        (refusing(404, "no"), "model_not_found", "model 'tiny:1b' not found"),
        (refusing(400, "no"), "upstream_refused", "does not accept this request"),
        (refusing(503, "no"), "upstream_busy", "is busy, please try again"),
        (refusing(504, "no"), "upstream_timeout", "took too long"),
        (refusing(500, "no"), "upstream_error", "the model server failed"),
        (dropping, "upstream_error", "connection to the model server broke"),
        (cut_after("x"), "upstream_error", "connection to the model server broke"),
        (raw("nonsense\n"), "upstream_error", "answer is not usable"),
        (raw('{"done": false}\n'), "upstream_error", "ended its answer midway"),
    ],
)
def test_what_it_says_is_told_apart_in_our_words(
    upstream: OllamaStub, script: Any, code: str, sentence: str
) -> None:
    upstream.script = script

    with pytest.raises(errors.UpstreamError, match=sentence) as caught:
        generated()

    assert caught.value.code == code


def test_one_principal_that_asks_too_often_is_told_when_to_come_back(
    upstream: OllamaStub, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.1

    async def ask_twice() -> None:
        prompt = prompts.parse({"prompt": "hi"})
        try:
            for _ in range(2):
                await ollama.whole(await ollama.generate("me", prompt))
        finally:
            await ollama.aclose()

    with pytest.raises(errors.RateLimited, match="more than 1 requests") as caught:
        asyncio.run(ask_twice())

    assert caught.value.code == "rate_limited"
    assert 0 < caught.value.retry_after_s <= 10
    assert len(upstream.calls) == 1


def test_one_that_is_silent_took_too_long(
    upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_FIRST_LINE_S = 0.1
    upstream.script = silent

    with pytest.raises(errors.UpstreamTimeout):
        generated()


def test_one_that_says_when_to_come_back_is_believed(upstream: OllamaStub) -> None:
    upstream.script = refusing(429, "no", Retry_After="7")

    with pytest.raises(errors.UpstreamBusy) as caught:
        generated()

    assert caught.value.retry_after_s == 7.0


def test_one_that_is_not_there_is_named_in_the_log_alone(
    settings: Settings, caplog: pytest.LogCaptureFixture, unused_tcp_port: int
) -> None:
    settings.MESH_OLLAMA_BASE_URL = f"http://127.0.0.1:{unused_tcp_port}"

    with pytest.raises(errors.UpstreamError, match="cannot be reached") as caught:
        generated()

    assert "127.0.0.1" not in str(caught.value)
    assert f"127.0.0.1:{unused_tcp_port} (OLLAMA_BASE_URL)" in caplog.text


def test_one_whose_address_is_none_is_not_asked(settings: Settings) -> None:
    settings.MESH_OLLAMA_BASE_URL = "ftp://127.0.0.1"

    with pytest.raises(errors.UpstreamError, match="not usable"):
        generated()
