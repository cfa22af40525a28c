"""The gateway's rows of the table of hostile inputs, by their numbers (47 to 53)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from pytest_django import Settings

from tests.support.gateway import PATH, GatewayClient, NewCaller
from tests.support.ollama_stub import (
    Call,
    OllamaStub,
    Script,
    endless,
    raw,
    refusing,
    silent,
    stalling_after,
)

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]


@pytest.fixture
def trap() -> Iterator[OllamaStub]:
    """A server nobody must ever call."""
    with OllamaStub() as stub:
        yield stub


ROW_47 = {
    "url": "http://169.254.169.254/",
    "host": "evil",
    "base_url": "http://evil/",
    "keep_alive": -1,
    "raw": True,
    "images": ["aGVsbG8="],
}


@pytest.mark.parametrize("field", ROW_47)
def test_row_47_a_field_that_means_more_than_a_prompt(
    field: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    answer = caller.ask({"prompt": "hi", field: ROW_47[field]})

    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    assert field in answer.json()["error"]
    assert upstream.calls == []


ROW_48 = [
    "../../api/pull",
    "x?y",
    "x#y",
    "http://169.254.169.254/",
    "205.0.0.1:8443/a/b",
    "tiny\r\nHost: evil",
    "%2e%2e/api/pull",
]


@pytest.mark.parametrize("model", ROW_48)
def test_row_48_a_model_that_would_be_an_address(
    model: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    answer = caller.ask({"prompt": "hi", "model": model})

    assert (answer.status_code, set(answer.json())) == (422, {"error"})
    assert upstream.calls == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [True, False])
def test_row_49_a_redirect_is_not_followed(
    status: int,
    stream: bool,
    caller: GatewayClient,
    upstream: OllamaStub,
    trap: OllamaStub,
) -> None:
    for place in (trap.url, "http://169.254.169.254/latest/", "file:///etc/passwd"):
        upstream.script = refusing(status, "moved", Location=place)
        answer = caller.ask({"prompt": "hi", "stream": stream})

        assert answer.status_code == 502
        assert answer.json() == {"error": "the model server failed"}
    assert len(upstream.calls) == 3
    assert trap.calls == []


async def _hundred_megabytes(call: Call) -> None:
    await call.head()
    for _ in range(100):
        await call.piece("x" * 2**20)
    await call.last()


async def _drop_by_drop(call: Call) -> None:
    """A line that never ends, although something always comes."""
    await call.head()
    while not call.writer.is_closing():
        await call.send(" ")
        await asyncio.sleep(0.02)


async def _refusing_without_end(call: Call) -> None:
    await call.head(404, "application/json", Content_Length="100")
    await call.send('{"error": "model')
    await call.until_gone()


DONE = '{"response": "", "done": true}\n'
PAGE = "<html><script>alert(document.cookie)</script>\n"
ROW_50: list[tuple[str, Script, int]] = [
    ("endless", endless, 502),
    ("100 MB", _hundred_megabytes, 502),
    ("silent", silent, 504),
    ("drop by drop", _drop_by_drop, 504),
    ("stuck", stalling_after("x"), 504),
    ("a refusal that does not end", _refusing_without_end, 404),
    ("no end of short lines", raw("{}\n" * 250_000, DONE), 502),
    ("no end of empty lines", raw("\n" * 250_000, DONE), 502),
    ("no JSON", raw("{'response': 1}\n"), 502),
    ("a page", raw(PAGE, kind="text/html"), 502),
    ("a page that says it is lines", raw(PAGE), 502),
]


@pytest.mark.parametrize(
    ("script", "status"), [row[1:] for row in ROW_50], ids=[row[0] for row in ROW_50]
)
def test_row_50_an_answer_that_is_none(
    script: Script,
    status: int,
    caller: GatewayClient,
    upstream: OllamaStub,
    settings: Settings,
) -> None:
    if status == 504:
        settings.MESH_OLLAMA_FIRST_LINE_S = settings.MESH_OLLAMA_BETWEEN_LINES_S = 1.0
    settings.MESH_OLLAMA_ANSWER_MAX_BYTES = 2**20
    upstream.script = script

    whole = caller.ask()
    with closing(caller.open({"prompt": "hi"})) as streamed:
        last = json.loads(streamed.read().splitlines()[-1])

    assert whole.status_code == status
    assert set(whole.json()) == set(last) == {"error"}
    assert whole.headers["Content-Type"] == "application/json"
    assert "script" not in whole.text + last["error"]
    assert len(upstream.calls) <= 2, "nothing was asked again"


def test_row_51_one_prompt_of_two_tokens(
    new_caller: NewCaller, upstream: OllamaStub
) -> None:
    body = {"prompt": "hi", "options": {"seed": 7}}
    states = [new_caller().ask(body).headers["X-Cache"] for _ in range(2)]

    assert states == ["MISS", "MISS"]
    assert len(upstream.calls) == 2


ROW_52: list[tuple[Any, int]] = [
    ({"prompt": "x" * 2**20}, 413),
    ({"prompt": "hi", "options": {"num_predict": 10**9}}, 422),
    ({"prompt": "hi", "options": {"num_predict": 1e9}}, 422),
    (b'{"prompt": "hi", "options": {"temperature": NaN}}', 400),
    (b'{"prompt": "hi", "options": {"temperature": 1e999}}', 400),
]


@pytest.mark.parametrize(("body", "status"), ROW_52)
def test_row_52_numbers_and_sizes_without_sense(
    body: Any, status: int, caller: GatewayClient, upstream: OllamaStub
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()

    answer = caller.http.post(PATH, content=content)

    assert (answer.status_code, set(answer.json())) == (status, {"error"})
    assert upstream.calls == []


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_row_53_a_proxy_of_the_environment(
    name: str,
    caller: GatewayClient,
    upstream: OllamaStub,
    trap: OllamaStub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(name, trap.url)

    assert caller.ask().status_code == 200
    assert trap.calls == []
    assert len(upstream.calls) == 1
