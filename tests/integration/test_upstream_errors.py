"""Each way in which a model server fails is an error of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pytest_django import Settings

from bus import errors
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
    ("script", "kind", "sentence"),
    [
        (refusing(404, "no"), errors.ModelNotFound, "model 'tiny:1b' not found"),
        (refusing(400, "no"), errors.UpstreamRefused, "does not accept this request"),
        (refusing(503, "no"), errors.UpstreamBusy, "is busy, please try again"),
        (refusing(504, "no"), errors.UpstreamTimeout, "took too long"),
        (refusing(500, "no"), errors.UpstreamError, "the model server failed"),
        (dropping, errors.UpstreamError, "connection to the model server broke"),
        (cut_after("x"), errors.UpstreamError, "connection to the model server broke"),
        (raw("nonsense\n"), errors.UpstreamError, "answer is not usable"),
        (raw('{"done": false}\n'), errors.UpstreamError, "ended its answer midway"),
    ],
)
def test_what_it_says_is_told_apart_in_our_words(
    upstream: OllamaStub, script: Any, kind: type[errors.BusError], sentence: str
) -> None:
    upstream.script = script

    with pytest.raises(errors.UpstreamError, match=sentence) as caught:
        generated()

    assert type(caught.value) is kind


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
