"""What goes wrong behind `POST ollama/generate` has a status, and tells no secrets."""

from __future__ import annotations

from typing import Any

import pytest
from pytest_django import Settings

from bus.gateway import prompts
from tests.support.gateway import GatewayClient, error_of
from tests.support.ollama_stub import (
    OllamaStub,
    cut_after,
    dropping,
    raw,
    refusing,
    saying,
    silent,
    stalling_after,
)

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]


SECRET = "secret at http://10.0.0.7:11434/var/lib"
# It can be read, and not be written as a part of a whole answer.
DEEP = '{"response": "x", "done": true, "deep": ' + "[" * 900 + "]" * 900 + "}\n"


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (refusing(404, "model 'x' not found"), 404),
        (refusing(400, SECRET), 400),
        (refusing(401, SECRET), 502),
        (refusing(403, SECRET), 502),
        (refusing(429, SECRET), 503),
        (refusing(499, SECRET), 502),
        (refusing(500, SECRET), 502),
        (refusing(502, SECRET), 502),
        (refusing(503, SECRET), 503),
        (refusing(504, SECRET), 504),
        (refusing(302, SECRET, Location="http://169.254.169.254/"), 502),
        (refusing(307, SECRET, Location="file:///etc/passwd"), 502),
        (refusing(204, ""), 502),
        (dropping, 502),
        (cut_after("Hel"), 502),
        (raw(), 502),
        (raw("not json\n"), 502),
        (raw("[]\n"), 502),
        (raw('{"response": 7, "done": true}\n'), 502),
        (raw('{"response": "x"}\n{"respon'), 502),
        (raw('{"response": "x", "done": false}\n'), 502),
        (raw('{"error": "' + SECRET + '"}\n'), 502),
        (raw('{"response": "x"}\n{"error": "' + SECRET + '"}\n'), 502),
        (raw("<script>alert(1)</script>", kind="text/html"), 502),
        (raw(b"\xff\xfe\n"), 502),
        (raw(DEEP), 502),
        (raw(DEEP, kind="application/json"), 502),
    ],
)
def test_upstream_faults_have_a_status_and_tell_no_secrets(
    script: Any, status: int, caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = script

    answer = caller.ask()

    got, text = error_of(answer)
    assert got == status
    for word in ("10.0.0.7", "secret", "169.254", "passwd", "Traceback", upstream.url):
        assert word not in text
    assert ("Retry-After" in answer.headers) == (status == 503)
    assert len(upstream.calls) == 1, "no redirect was followed, nothing sent again"

    upstream.script = saying("well", " again")
    assert caller.ask().json()["response"] == "well again", "no fault is ever kept"


def test_the_wait_of_a_busy_upstream_is_passed_on(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = refusing(503, "server busy", Retry_After="7")

    answer = caller.ask()

    assert answer.headers["Retry-After"] == "7"
    assert answer.json()["retry_after_ms"] == 7000


def test_an_upstream_that_is_down_is_a_bad_gateway(
    caller: GatewayClient,
    settings: Settings,
    unused_tcp_port: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings.MESH_OLLAMA_BASE_URL = f"http://me:word@127.0.0.1:{unused_tcp_port}"

    status, text = error_of(caller.ask())

    assert status == 502
    assert str(unused_tcp_port) not in text
    assert f"nothing answers at 127.0.0.1:{unused_tcp_port} " in caplog.text
    assert "word" not in caplog.text


@pytest.mark.parametrize("url", ["", "not a url", "ftp://127.0.0.1/", "http://"])
def test_an_address_that_is_none_is_a_bad_gateway(
    url: str, caller: GatewayClient, settings: Settings
) -> None:
    settings.MESH_OLLAMA_BASE_URL = url

    assert error_of(caller.ask())[0] == 502


@pytest.mark.parametrize(
    ("script", "setting"),
    [
        (silent, "MESH_OLLAMA_FIRST_LINE_S"),
        (stalling_after("Hel"), "MESH_OLLAMA_BETWEEN_LINES_S"),
        (stalling_after("Hel"), "MESH_OLLAMA_TOTAL_S"),
    ],
)
def test_an_upstream_that_stalls_is_a_timeout(
    script: Any,
    setting: str,
    caller: GatewayClient,
    upstream: OllamaStub,
    settings: Settings,
) -> None:
    setattr(settings, setting, 0.2)
    upstream.script = script

    assert error_of(caller.ask())[0] == 504


def test_a_whole_object_counts_as_an_answer(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    """Some servers of this shape do not stream, and print what they answer nicely."""
    upstream.script = raw(
        '{\n  "model": "m",\n  "response": "all at once"\n}', kind="application/json"
    )

    assert caller.ask().json()["response"] == "all at once"


def test_an_answer_too_long_is_cut_off(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_ANSWER_MAX_BYTES = 10_000
    upstream.script = saying("x" * 20_000)

    assert error_of(caller.ask())[0] == 502


def test_a_line_of_a_megabyte_passes_and_is_not_kept(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = saying("x" * 1_000_000)

    answers = [caller.ask() for _ in range(2)]

    assert [len(answer.json()["response"]) for answer in answers] == [1_000_000] * 2
    assert [answer.headers["X-Cache"] for answer in answers] == ["MISS", "MISS"]


def test_a_proxy_of_the_environment_is_not_used(
    caller: GatewayClient, upstream: OllamaStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9/")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9/")

    assert caller.ask().status_code == 200


def test_a_bug_says_nothing_but_where_it_is_in_the_log(
    caller: GatewayClient,
    upstream: OllamaStub,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(body: Any) -> Any:
        raise RuntimeError("the deliberate bug")

    monkeypatch.setattr(prompts, "parse", broken)

    status, text = error_of(caller.ask())

    assert status == 500
    assert "deliberate" not in text
    assert text.split()[-1] in caplog.text
    assert "the deliberate bug" in caplog.text
