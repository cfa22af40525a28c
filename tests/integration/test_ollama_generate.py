"""`POST ollama/generate` answers, remembers, limits, and tells errors apart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from bus import accounts
from bus.gateway import prompts
from tests.support.gateway import PATH, GatewayClient, NewCaller
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
from tests.support.site import LiveSite

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]


def _error(answer: Any) -> tuple[int, str]:
    """Status and text of an error, which has no other shape."""
    body = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert set(body) <= {"error", "retry_after_ms", "outcome"}
    return answer.status_code, body["error"]


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
    status, text = _error(caller.ask(body))

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
    status, _ = _error(caller.http.post(PATH, content=content))

    assert status == 400
    assert upstream.calls == []


@pytest.mark.parametrize("letter", ["x", "ä", "\U0001f600"])
def test_a_prompt_is_bounded_in_bytes(
    letter: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    most = 32 * 1024 // len(letter.encode())

    assert caller.ask({"prompt": letter * most}).status_code == 200
    status, text = _error(caller.ask({"prompt": letter * (most + 1)}))
    assert (status, "32,768" in text) == (400, True)


@pytest.mark.parametrize("size", [256 * 1024 + 1, 3 * 1024 * 1024])
def test_a_body_is_bounded(
    size: int, caller: GatewayClient, upstream: OllamaStub
) -> None:
    status, _ = _error(caller.http.post(PATH, content=b" " * size))

    assert status == 413


def test_a_body_that_comes_in_chunks_is_read_whole(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    whole = iter([b'{"prompt"', b': "h', b'i"}'])
    assert caller.http.post(PATH, content=whole).status_code == 200

    endless = (b" " * 65_536 for _ in range(5))
    assert _error(caller.http.post(PATH, content=endless))[0] == 413


def test_a_compressed_body_is_not_read(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    assert _error(caller.ask(Content_Encoding="gzip"))[0] == 415


def test_models_outside_the_allow_list_are_refused(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODELS = ["tiny:1b"]

    assert caller.ask({"prompt": "hi", "model": "tiny:1b"}).status_code == 200
    assert caller.ask({"prompt": "hi"}).status_code == 200, "the default is allowed"
    assert _error(caller.ask({"prompt": "hi", "model": "huge:70b"}))[0] == 422


@pytest.mark.parametrize("allowed", ["small", "small:latest"])
def test_a_model_is_allowed_under_the_name_that_lists_have_for_it(
    allowed: str, caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODELS = [allowed]

    for name in ("small", "small:latest"):
        assert caller.ask({"prompt": "hi", "model": name}).status_code == 200
    assert _error(caller.ask({"prompt": "hi", "model": "small:1b"}))[0] == 422


def test_without_a_token_nobody_generates(
    live_site: LiveSite, upstream: OllamaStub
) -> None:
    for token in ("", "not-a-token", "\u00ff" * 8):
        header = {"Authorization": f"Bearer {token}".encode("latin-1")} if token else {}
        anonymous = GatewayClient(live_site.url)
        answer = anonymous.http.post(PATH, json={"prompt": "hi"}, headers=header)
        anonymous.http.close()
        assert _error(answer)[0] == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("role", ["viewer", "agent"])
def test_roles_that_do_not_generate_are_told_so(
    role: str, new_caller: NewCaller, upstream: OllamaStub
) -> None:
    status, text = _error(new_caller(role).ask())

    assert (status, role in text) == (403, True)
    assert upstream.calls == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
def test_other_methods_are_refused(
    method: str, caller: GatewayClient, upstream: OllamaStub
) -> None:
    answer = caller.http.request(method, PATH)

    assert _error(answer)[0] == 405
    assert answer.headers["Allow"] == "POST"


def test_other_paths_are_not_there(caller: GatewayClient) -> None:
    answer = caller.http.post("/api/v1/mesh/ollama/api/pull", json={"model": "x"})

    assert _error(answer)[0] == 404


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
    assert _error(browser.ask())[0] == 403
    assert _error(browser.ask(X_CSRFToken="x" * 32))[0] == 403
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
    assert _error(browser.http.post(PATH, **fields))[0] == status


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

    assert _error(answer) == (400, "the body cannot be read")
    assert upstream.calls == []


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

    got, text = _error(answer)
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

    status, text = _error(caller.ask())

    assert status == 502
    assert str(unused_tcp_port) not in text
    assert f"nothing answers at 127.0.0.1:{unused_tcp_port} " in caplog.text
    assert "word" not in caplog.text


@pytest.mark.parametrize("url", ["", "not a url", "ftp://127.0.0.1/", "http://"])
def test_an_address_that_is_none_is_a_bad_gateway(
    url: str, caller: GatewayClient, settings: Settings
) -> None:
    settings.MESH_OLLAMA_BASE_URL = url

    assert _error(caller.ask())[0] == 502


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

    assert _error(caller.ask())[0] == 504


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

    assert _error(caller.ask())[0] == 502


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

    status, text = _error(caller.ask())

    assert status == 500
    assert "deliberate" not in text
    assert text.split()[-1] in caplog.text
    assert "the deliberate bug" in caplog.text
