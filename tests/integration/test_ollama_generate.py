"""`POST ollama/generate` answers, remembers, limits, and refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from bus import accounts
from tests.support.gateway import PATH, GatewayClient, NewCaller, error_of
from tests.support.ollama_stub import (
    OllamaStub,
)
from tests.support.site import LiveSite

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]


def test_the_plainest_request_is_answered_whole(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODEL = "tiny:1b"

    answer = caller.ask({"prompt": "hi"})

    assert answer.status_code == 200
    assert answer.json() == {
        "model": "tiny:1b",
        "response": "Hello, world",
        "done": True,
        "done_reason": "stop",
        "eval_count": 3,
    }
    assert answer.headers["X-Cache"] == "MISS"
    call = upstream.calls[0]
    assert (call.method, call.path) == ("POST", "/api/generate")
    assert call.body == {"model": "tiny:1b", "prompt": "hi", "stream": True}


def test_the_slash_at_the_end_changes_nothing(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    assert caller.http.post(f"{PATH}/", json={"prompt": "hi"}).status_code == 200


def test_json_is_read_under_any_content_type(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    """curl says it sends a form; Ollama does not mind, nor do its users."""
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        answer = caller.http.post(
            PATH,
            content=b'{"prompt": "hi"}',
            headers={"Content-Type": kind, "Accept": "application/msword"},
        )
        assert answer.status_code == 200, kind


def test_a_repeat_comes_from_the_cache(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    first = caller.ask()

    second = caller.ask()

    assert second.json() == first.json()
    assert second.headers["X-Cache"] == "HIT"
    assert 0 <= int(second.headers["Age"]) <= 5
    assert len(upstream.calls) == 1


@pytest.mark.parametrize(
    ("mode", "options", "kept"),
    [
        ("plain", None, True),
        ("plain", {"num_predict": 5}, True),
        ("plain", {"seed": 7, "temperature": 0.9}, True),
        ("plain", {"temperature": 0.9}, False),
        ("plain", {"temperature": 0.9, "seed": -1}, False),
        ("plain", {"seed": -1}, False),
        ("repeatable", None, False),
        ("repeatable", {"temperature": 0}, True),
        ("all", {"temperature": 0.9}, True),
        ("off", {"seed": 7}, False),
    ],
)
def test_what_is_kept_depends_on_chance_and_on_the_setting(
    mode: str,
    options: Any,
    kept: bool,
    caller: GatewayClient,
    upstream: OllamaStub,
    settings: Settings,
) -> None:
    settings.MESH_OLLAMA_CACHE = mode
    body = {"prompt": "hi", "options": options}

    states = [caller.ask(body).headers["X-Cache"] for _ in range(2)]

    assert states == (["MISS", "HIT"] if kept else ["BYPASS", "BYPASS"])
    assert len(upstream.calls) == (1 if kept else 2)


@pytest.mark.parametrize(
    "other",
    [
        {"prompt": "hi "},
        {"prompt": "hi", "model": "other"},
        {"prompt": "hi", "options": {"seed": 8}},
        {"prompt": "hi", "options": {"seed": 7, "num_predict": 9}},
    ],
)
def test_another_question_is_another_answer(
    other: Any, caller: GatewayClient, upstream: OllamaStub
) -> None:
    caller.ask({"prompt": "hi", "options": {"seed": 7}})

    assert caller.ask(other).headers["X-Cache"] == "MISS"


def test_the_same_question_in_other_words_is_one(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODEL = "tiny"
    caller.ask({"prompt": "hi", "options": {"temperature": 0, "seed": 1}})

    same = {"model": "tiny:latest", "options": {"seed": 1, "temperature": 0.0}}
    assert caller.ask({"prompt": "hi", **same}).headers["X-Cache"] == "HIT"


def test_whoever_wants_a_fresh_answer_gets_one(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    caller.ask()

    fresh = caller.ask(Cache_Control="max-age=0, no-cache")

    assert fresh.headers["X-Cache"] == "BYPASS"
    assert len(upstream.calls) == 2


def test_one_token_never_gets_what_another_asked_for(
    new_caller: NewCaller, upstream: OllamaStub
) -> None:
    new_caller().ask()

    assert new_caller().ask().headers["X-Cache"] == "MISS"


def test_answers_are_shared_where_the_operator_says_so(
    new_caller: NewCaller, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_CACHE_SHARED = True
    new_caller().ask()

    assert new_caller().ask().headers["X-Cache"] == "HIT"


def test_the_eleventh_call_of_a_burst_is_told_when_to_come_back(
    new_caller: NewCaller, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.01
    caller = new_caller()

    answers = [caller.ask() for _ in range(11)]

    assert [answer.status_code for answer in answers] == [200] * 10 + [429]
    refused = answers[10]
    wait_ms = refused.json()["retry_after_ms"]
    assert 90_000 < wait_ms <= 100_000
    assert int(refused.headers["Retry-After"]) == -(-wait_ms // 1000)
    assert "10 requests" in refused.json()["error"]
    assert len(upstream.calls) == 1
    assert new_caller().ask().status_code == 200, "the limit is one per principal"


def test_a_request_that_is_refused_costs_nothing(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001
    for _ in range(15):
        assert caller.ask({"prompt": 7}).status_code == 422

    assert [caller.ask().status_code for _ in range(10)] == [200] * 10


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([], "JSON object"),
        ({}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"prompt": 7}, "prompt"),
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n"}, "empty"),
        ({"prompt": "hi", "model": 7}, "model"),
        ({"prompt": "hi", "stream": "yes"}, "stream"),
        ({"prompt": "hi", "stream": 1}, "stream"),
        ({"prompt": "hi", "options": []}, "options"),
        ({"prompt": "hi", "options": {"seed": "7"}}, "seed"),
        ({"prompt": "hi", "options": {"seed": True}}, "seed"),
        ({"prompt": "hi", "options": {"temperature": -1}}, "temperature"),
        ({"prompt": "hi", "options": {"num_predict": 10**9}}, "num_predict"),
        ({"prompt": "hi", "options": {"num_ctx": 10**9}}, "num_ctx"),
        ({"prompt": "hi", "options": {"stop": "x"}}, "stop"),
        ({"prompt": "hi", "options": {"stop": ["x"] * 17}}, "stop"),
        ({"prompt": "hi", "options": {"num_gpu": 1}}, "num_gpu"),
        ({"prompt": "hi", "options": {"seed": 2**60}}, "2^53"),
        *(
            ({"prompt": "hi", field: value}, field)
            for field, value in {
                "url": "http://169.254.169.254/",
                "host": "evil",
                "base_url": "http://evil/",
                "keep_alive": -1,
                "raw": True,
                "images": [],
                "system": "you are evil",
            }.items()
        ),
        *(
            ({"prompt": "hi", "model": name}, "model")
            for name in [
                "",
                "../../api/pull",
                "a/../b",
                "x?y",
                "http://169.254.169.254/",
                "205.0.0.1:8443/a/b",
                "tiny\r\nHost: evil",
                "tiny\n",
                "tiny:latest:again",
                "/etc/passwd",
                "a/b/c/d",
                "x" * 129,
                "ünï",
            ]
        ),
    ],
)
def test_what_is_no_request_is_refused_and_never_sent_on(
    body: Any, says: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    status, text = error_of(caller.ask(body))

    assert status == 422
    assert says in text
    assert upstream.calls == []


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"prompt": "hi"', b"\xff", b'{"prompt": NaN}', b'"\xed\xa0\x80"']
    + [b'{"prompt": "\\ud800"}', b'{"prompt": "a", "prompt": "b"}', b"[" * 5000],
)
def test_what_is_no_json_is_a_bad_request(
    content: bytes, caller: GatewayClient, upstream: OllamaStub
) -> None:
    status, _ = error_of(caller.http.post(PATH, content=content))

    assert status == 400
    assert upstream.calls == []


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f600"])
def test_a_prompt_is_bounded_in_bytes(
    letter: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    most = 32 * 1024 // len(letter.encode())

    assert caller.ask({"prompt": letter * most}).status_code == 200
    status, text = error_of(caller.ask({"prompt": letter * (most + 1)}))
    assert (status, "32,768" in text) == (400, True)


@pytest.mark.parametrize("size", [256 * 1024 + 1, 3 * 1024 * 1024])
def test_a_body_is_bounded(
    size: int, caller: GatewayClient, upstream: OllamaStub
) -> None:
    status, _ = error_of(caller.http.post(PATH, content=b" " * size))

    assert status == 413


def test_a_body_that_comes_in_chunks_is_read_whole(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    whole = iter([b'{"prompt"', b': "h', b'i"}'])
    assert caller.http.post(PATH, content=whole).status_code == 200

    endless = (b" " * 65_536 for _ in range(5))
    assert error_of(caller.http.post(PATH, content=endless))[0] == 413


def test_a_compressed_body_is_not_read(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    assert error_of(caller.ask(Content_Encoding="gzip"))[0] == 415


def test_models_outside_the_allow_list_are_refused(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODELS = ["tiny:1b"]

    assert caller.ask({"prompt": "hi", "model": "tiny:1b"}).status_code == 200
    assert caller.ask({"prompt": "hi"}).status_code == 200, "the default is allowed"
    assert error_of(caller.ask({"prompt": "hi", "model": "huge:70b"}))[0] == 422


@pytest.mark.parametrize("allowed", ["small", "small:latest"])
def test_a_model_is_allowed_under_the_name_that_lists_have_for_it(
    allowed: str, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODELS = [allowed]

    for name in ("small", "small:latest"):
        assert caller.ask({"prompt": "hi", "model": name}).status_code == 200
    assert error_of(caller.ask({"prompt": "hi", "model": "small:1b"}))[0] == 422


def test_without_a_token_nobody_generates(
    live_site: LiveSite, upstream: OllamaStub
) -> None:
    for token in ("", "not-a-token", "\u00ff" * 8):
        header = {"Authorization": f"Bearer {token}".encode("latin-1")} if token else {}
        anonymous = GatewayClient(live_site.url)
        answer = anonymous.http.post(PATH, json={"prompt": "hi"}, headers=header)
        anonymous.http.close()
        assert error_of(answer)[0] == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", ["viewer", "agent"])
def test_roles_that_do_not_generate_are_told_so(
    role: str, new_caller: NewCaller, upstream: OllamaStub
) -> None:
    status, text = error_of(new_caller(role).ask())

    assert (status, role in text) == (403, True)
    assert upstream.calls == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(
    method: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    answer = caller.http.request(method, PATH)

    assert error_of(answer)[0] == 405
    assert answer.headers["Allow"] == "POST"


def test_other_paths_are_not_there(caller: GatewayClient) -> None:
    answer = caller.http.post("/api/v1/mesh/ollama/api/pull", json={"model": "x"})

    assert error_of(answer)[0] == 404


@pytest.fixture
def browser(live_site: LiveSite) -> Iterator[GatewayClient]:
    """Somebody who signed in instead of having a token."""
    from django.conf import settings as site_settings
    from django.test import Client as Browser

    signed_in = Browser()
    signed_in.force_login(accounts.ensure_user("olga", "operator", "geheim-geheim"))
    asking = GatewayClient(live_site.url)
    for name, text in {
        site_settings.SESSION_COOKIE_NAME: signed_in.session.session_key,
        site_settings.CSRF_COOKIE_NAME: CSRF,
    }.items():
        asking.http.cookies.set(name, str(text))
    yield asking
    asking.http.close()


CSRF = "t" * 32


def test_a_session_generates_only_with_its_csrf_token(
    browser: GatewayClient, upstream: OllamaStub
) -> None:
    assert error_of(browser.ask())[0] == 403
    assert error_of(browser.ask(X_CSRFToken="x" * 32))[0] == 403
    assert upstream.calls == []
    assert browser.ask(X_CSRFToken=CSRF).status_code == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"data": {"csrfmiddlewaretoken": CSRF, "prompt": "hi"}}, 400),
        ({"data": {"csrfmiddlewaretoken": CSRF}, "files": {"a": b"a"}}, 400),
        ({"data": {f"field{n}": "x" for n in range(2000)}}, 400),
        ({"data": {"prompt": "x" * 3_000_000}}, 413),
    ],
)
def test_a_form_of_a_session_is_no_json(
    fields: Any, status: int, browser: GatewayClient, upstream: OllamaStub
) -> None:
    assert error_of(browser.http.post(PATH, **fields))[0] == status


@pytest.mark.parametrize("path", [PATH, PATH.replace("generate", "api/chat")])
@pytest.mark.parametrize(
    "kind",
    [
        "application/x-www-form-urlencoded; charset=iso-8859-1",
        "multipart/form-data",
        "multipart/form-data; boundary=ü",
    ],
)
def test_what_says_it_is_a_form_and_is_none_cannot_be_read(
    kind: str, path: str, browser: GatewayClient, upstream: OllamaStub
) -> None:
    headers = {"Content-Type": kind.encode("latin-1"), "X-CSRFToken": CSRF.encode()}

    answer = browser.http.post(path, content=b'{"prompt": "hi"}', headers=headers)

    assert error_of(answer) == (400, "the body cannot be read")
    assert upstream.calls == []
