"""In front of Django and in it the gateway says the same; only the speed differs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx2
import pytest
from pytest_django import Settings

from bus.api import gateway_door
from tests.support.gateway import PATH, GatewayClient, NewCaller
from tests.support.keeping_model import KeepingModel
from tests.support.ollama_stub import (
    Gate,
    OllamaStub,
    refusing,
    saying,
    stalling_after,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]

ROOT = PATH.removesuffix("/generate")
CASES: list[tuple[str, str, Any, dict[str, str]]] = [
    ("POST", "generate", {"prompt": "hi"}, {}),
    ("POST", "generate/", {"prompt": "hi", "stream": True}, {}),
    ("POST", "generate", {"prompt": "hi"}, {"Cache-Control": "no-cache"}),
    ("POST", "generate", {"prompt": "hi"}, {"X-Request-ID": "mine"}),
    ("POST", "generate", {"prompt": "hi", "raw": True}, {}),
    ("POST", "generate", {"prompt": "x" * 40_000}, {}),
    ("POST", "generate", {"prompt": "hi"}, {"Content-Encoding": "gzip"}),
    ("POST", "api/generate", {"prompt": "hi"}, {}),
    ("GET", "api/chat", None, {}),
    ("POST", "api/pull", {"model": "x"}, {}),
    ("POST", "nowhere", None, {}),
    ("GET", "", None, {}),
    ("POST", "generate?stream=true", {"prompt": "hi"}, {}),
    ("GET", "api/tags?x=", None, {}),
]
# Of each answer its own; Django alone varies by cookie, which the lane never reads.
UNEQUAL = {"date", "x-request-id", "vary", "connection", "transfer-encoding", "age"}


def _all_said(caller: GatewayClient) -> list[Any]:
    said = []
    for method, path, body, headers in CASES:
        url = f"{ROOT}/{path}"
        answer = caller.http.request(method, url, json=body, headers=headers)
        told = {
            name: text for name, text in answer.headers.items() if name not in UNEQUAL
        }
        told.pop("content-length" if "stream" in (body or {}) else "", None)
        mark = answer.headers["X-Request-ID"]
        mine = mark == headers.get("X-Request-ID", mark)
        said.append((method, path, answer.status_code, told, answer.text, mine))
    return said


def test_both_doors_say_the_same(
    new_caller: NewCaller, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 100
    said = []
    for lane in (True, False):
        settings.MESH_EXPRESS_LANE = lane
        caller = new_caller()
        caller.http.get(f"{ROOT}/")  # from here on the token is known
        said.append(_all_said(caller))

    for fast, slow in zip(*said, strict=True):
        assert fast == slow
    assert "?stream is unknown" in said[0][-2][4]
    assert [row[2] for row in said[0]] == [
        *(200, 200, 200, 200, 422, 400, 415, 200, 405, 404, 404, 200, 422, 422)
    ]


def test_the_calls_of_a_known_token_do_not_reach_django(
    caller: GatewayClient, upstream: OllamaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.ask()

    def never(*_: Any) -> Any:
        raise AssertionError("the call came to Django")

    monkeypatch.setattr(gateway_door.auth, "aauthenticate", never)

    assert caller.ask().headers["X-Cache"] == "HIT"
    with closing(caller.open({"prompt": "ho"})) as answer:
        assert len(list(answer.iter_lines())) == 4
    upstream.script = refusing(404, "no")
    assert caller.ask({"prompt": "other"}).status_code == 404


@pytest.mark.parametrize("lane", [True, False])
def test_through_either_door_who_leaves_ends_the_call(
    lane: bool, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_EXPRESS_LANE = lane
    caller.ask()
    upstream.script = stalling_after("one")
    with closing(caller.open({"prompt": "ho"})) as answer:
        next(answer.iter_lines())

    wait_until(lambda: upstream.calls[1].gone, 30)
    upstream.script = saying("well")
    assert caller.ask({"prompt": "ho"}).json()["response"] == "well"


@pytest.mark.parametrize("lane", [True, False])
def test_through_either_door_who_leaves_before_the_first_line_ends_the_call(
    lane: bool, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_EXPRESS_LANE = lane
    caller.ask()
    upstream.script = stalling_after()

    with pytest.raises(httpx2.ReadTimeout):
        caller.http.post(PATH, json={"prompt": "ho"}, timeout=3)

    wait_until(lambda: upstream.calls[1].gone, 30)


def test_through_the_lane_a_line_leaves_before_the_next_is_made(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    caller.ask()
    gate = upstream.script = Gate(["one", "two"])
    with ThreadPoolExecutor(1) as threads:
        opened = threads.submit(caller.open, {"prompt": "ho"})
        wait_until(lambda: len(upstream.calls) == 2, 30)
        gate.open()
        with closing(opened.result(30)) as answer:
            lines = answer.iter_lines()
            assert '"one"' in next(lines)
            gate.open()
            assert '"two"' in next(lines)


def test_generations_one_after_the_other_share_a_connection(
    caller: GatewayClient, settings: Settings
) -> None:
    with KeepingModel() as model:
        settings.MESH_OLLAMA_BASE_URL = model.url
        for n in range(3):
            answer = caller.ask({"prompt": f"question {n}"})
            assert answer.json()["response"] == "kept", answer.text

    assert model.answers == 3
    # Where the end of an answer comes late, its connection is not waited for.
    assert model.connections < 3
