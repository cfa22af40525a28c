"""Ollama's own clients work with the mesh as their host, and see what they may."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from pytest_django import Settings

from bus import accounts
from bus.gateway import mirrored
from bus.ollama import figures
from tests.support import machine
from tests.support.gateway import GatewayClient, NewCaller
from tests.support.ollama_stub import (
    SECRET_FILE,
    OllamaStub,
    like_ollama,
    raw,
    refusing,
)
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

if not TYPE_CHECKING and not machine.IN_CI:
    pytest.importorskip("ollama", reason="pip install -r tests/requirements.txt")
import ollama

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]

HOST = "/api/v1/mesh/ollama"


@pytest.fixture
def model(upstream: OllamaStub, settings: Settings) -> OllamaStub:
    """A server that answers every call of Ollama's clients."""
    settings.MESH_OLLAMA_RATE_CAPACITY = 1000
    upstream.script = like_ollama
    return upstream


def _client(site: LiveSite, token: str) -> ollama.Client:
    return ollama.Client(
        host=f"{site.url}{HOST}",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )


@pytest.fixture
def client(live_site: LiveSite) -> Iterator[ollama.Client]:
    """The official client, as its users set it up."""
    made = _client(live_site, accounts.create_token("official", "operator")[1])
    yield made
    made._client.close()


CHAT = [{"role": "user", "content": "What time is it?"}]


def test_the_official_client_generates_chats_and_looks(
    client: ollama.Client, model: OllamaStub
) -> None:
    whole = client.generate("tiny:1b", "hi", system="Be brief.")
    pieces = [each.response for each in client.generate("tiny:1b", "ho", stream=True)]
    chat = client.chat("tiny:1b", CHAT, tools=[], think=True, format="json")
    streamed = list(client.chat("tiny:1b", CHAT, stream=True))

    assert (whole.response, whole.done, whole.eval_count) == ("Hello, world", True, 3)
    assert pieces == ["Hello", ", ", "world", ""]
    assert (chat.message.content, chat.message.thinking) == ("Hello", "Well")
    assert chat.message.tool_calls is not None
    assert chat.message.tool_calls[0].function.name == "now"
    assert "".join(each.message.content or "" for each in streamed) == "Hello"
    assert streamed[-1].done is True
    assert [row.model for row in client.list().models] == ["tiny:1b", "big:70b"]
    assert client.ps().models[0].size_vram == 99
    shown = client.show("tiny:1b")
    assert shown.modelinfo == {"general.architecture": "tiny"}
    generated, _, chatted, *_ = (call.body for call in model.calls)
    assert generated["system"] == "Be brief."
    assert (chatted["messages"], chatted["think"]) == (CHAT, True)
    assert chatted["format"] == "json"


def test_a_chat_is_kept_and_replayed_in_either_form(
    client: ollama.Client, model: OllamaStub, caller: GatewayClient
) -> None:
    body = {"model": "tiny:1b", "messages": CHAT}
    states, texts = [], []
    for stream in (True, False, True):
        answer = caller.http.post(f"{HOST}/api/chat/", json={**body, "stream": stream})
        pieces = [json.loads(line) for line in answer.text.splitlines()]
        states.append(answer.headers["X-Cache"])
        texts.append("".join(piece["message"]["content"] for piece in pieces))

    assert states == ["MISS", "HIT", "HIT"]
    assert texts == ["Hello"] * 3
    assert len(model.calls) == 1


SCHEMA = {"reasoning": {"type": "string"}, "answer": {"type": "string"}}


def _formatted(*names: str) -> Any:
    properties = {name: SCHEMA[name] for name in names}
    return {"format": {"type": "object", "properties": properties}}


def _with_tool(*names: str) -> Any:
    parameters = _formatted(*names)["format"]
    function = {"name": "tell", "parameters": parameters}
    return {"tools": [{"type": "function", "function": function}]}


@pytest.mark.parametrize("asking", [_formatted, _with_tool])
def test_another_order_of_properties_is_another_question(
    asking: Any, caller: GatewayClient, model: OllamaStub
) -> None:
    """A model reasons before it answers, or behind it, as the schema has them."""
    orders = [("reasoning", "answer"), ("answer", "reasoning"), ("reasoning", "answer")]
    states = []
    for names in orders:
        body = {"model": "tiny:1b", "messages": CHAT, **asking(*names)}
        answer = caller.http.post(f"{HOST}/api/chat", json=body)
        states.append(answer.headers["X-Cache"])

    assert states == ["MISS", "MISS", "HIT"]
    assert len(model.calls) == 2


def test_the_order_of_fields_and_options_means_nothing(
    caller: GatewayClient, model: OllamaStub
) -> None:
    options = {"seed": 1, "num_predict": 9, "stop": ["a", "b"]}
    body = {"options": options, "think": True, "format": "json", "prompt": "hi"}
    turned = {name: body[name] for name in reversed(body)}
    turned["options"] = {name: options[name] for name in reversed(options)}

    answers = [caller.http.post(f"{HOST}/api/generate", json=b) for b in (body, turned)]

    assert [each.headers["X-Cache"] for each in answers] == ["MISS", "HIT"]


# What Ollama's package for Go sends of a request that has nothing else to say.
FROM_GO: list[tuple[str, Any]] = [
    ("generate", {"prompt": "hi", "suffix": "", "system": "", "template": ""}),
    ("generate", {"prompt": "hi", "format": "", "options": None, "context": None}),
    ("generate", {"prompt": "hi", "raw": False, "images": [], "keep_alive": None}),
    ("chat", {"messages": CHAT, "format": "", "options": None, "keep_alive": None}),
    ("chat", {"messages": [{**CHAT[0], "images": None}], "tools": None}),
    ("chat", {"messages": [{**CHAT[0], "images": []}]}),
    ("show", {"system": "", "template": "", "options": None, "name": ""}),
]


@pytest.mark.parametrize(("path", "fields"), FROM_GO)
def test_a_field_that_says_nothing_is_no_field(
    path: str, fields: Any, caller: GatewayClient, model: OllamaStub
) -> None:
    body = {"model": "tiny:1b", **fields}

    answer = caller.http.post(f"{HOST}/api/{path}", json=body)

    assert answer.status_code == 200, answer.text
    [call] = model.calls
    kept = {"generate": {"prompt"}, "chat": {"messages"}}.get(path, set())
    assert set(call.body) == {"model", *kept} | ({"stream"} if kept else set())
    assert "images" not in str(call.body)


def test_an_older_client_names_the_model_it_looks_at_name(
    caller: GatewayClient, model: OllamaStub
) -> None:
    for body in ({"name": "big:70b"}, {"model": "", "name": "big:70b"}):
        assert caller.http.post(f"{HOST}/api/show", json=body).status_code == 200

    assert [call.body for call in model.calls] == [{"model": "big:70b"}] * 2


EMBEDDED = json.dumps(
    {"model": "tiny:1b", "embeddings": [[0.25, -0.5], [1.0, 0.0]], "load_duration": 7}
)


def test_the_official_client_embeds(
    client: ollama.Client, upstream: OllamaStub
) -> None:
    upstream.script = raw(EMBEDDED, kind="application/json; charset=utf-8")

    said = client.embed("tiny:1b", ["a", "b"], truncate=False, dimensions=2)

    assert said.embeddings == [[0.25, -0.5], [1.0, 0.0]]
    [call] = upstream.calls
    assert call.path == "/api/embed"
    asked = {"model": "tiny:1b", "input": ["a", "b"], "truncate": False}
    assert call.body == {**asked, "dimensions": 2}


def test_an_embedding_is_answered_whole_and_kept(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_CACHE = "repeatable"
    upstream.script = raw(EMBEDDED, kind="application/json; charset=utf-8")
    path, body = f"{HOST}/api/embed", {"model": "tiny:1b", "input": "a"}

    first, second = (caller.http.post(path, json=body) for _ in range(2))
    other = caller.http.post(f"{path}/", json={**body, "input": "b"})
    loaded = caller.http.post(path, json={"model": "tiny:1b"})

    assert first.json() == second.json() == json.loads(EMBEDDED)
    answers = (first, second, other, loaded)
    states = [each.headers["X-Cache"] for each in answers]
    assert states == ["MISS", "HIT", "MISS", "BYPASS"]
    assert len(upstream.calls) == 3


def test_embedding_is_limited_and_counted_as_generating_is(
    caller: GatewayClient, upstream: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_RATE_CAPACITY = 1
    settings.MESH_OLLAMA_RATE_REFILL_PER_S = 0.001
    upstream.script = raw(EMBEDDED, kind="application/json")

    body = {"input": "a"}
    answers = [caller.http.post(f"{HOST}/api/embed", json=body) for _ in range(2)]

    assert [each.status_code for each in answers] == [200, 429]

    def is_counted() -> bool:
        counts = figures().counts
        return (counts["miss"], counts["limited"]) == (1, 1)

    wait_until(is_counted, 30)


@pytest.mark.parametrize("role", ["viewer", "agent"])
def test_roles_that_do_not_generate_do_not_embed(
    role: str, new_caller: NewCaller, upstream: OllamaStub
) -> None:
    answer = new_caller(role).http.post(f"{HOST}/api/embed", json={"input": "a"})

    assert answer.status_code == 403
    assert upstream.calls == []


def test_null_is_nothing_as_some_servers_say_it(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    said = {"role": "assistant", "content": "Hello", "tool_calls": None}
    lines: list[dict[str, Any]] = [
        {"message": said, "response": None, "error": None, "done": None},
        {"message": None, "logprobs": None, "done": True},
    ]
    upstream.script = raw("\n".join(map(json.dumps, lines)))

    for stream in (True, False):
        body = {"messages": CHAT, "stream": stream}
        answer = caller.http.post(f"{HOST}/api/chat", json=body)
        assert answer.status_code == 200, answer.text
        told = json.loads(answer.text.splitlines()[0])
        assert told["message"]["content"] == "Hello"


def test_it_streams_unless_told_otherwise(
    caller: GatewayClient, model: OllamaStub
) -> None:
    answer = caller.http.post(f"{HOST}/api/generate", json={"prompt": "hi"})

    assert answer.headers["Content-Type"] == "application/x-ndjson"
    assert len(answer.text.splitlines()) == 4


@pytest.mark.parametrize("path", ["tags", "ps", "version", "show"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_looks_tell_nothing_of_the_server_itself(
    path: str, slash: str, caller: GatewayClient, model: OllamaStub
) -> None:
    body = {"json": {"model": "tiny:1b"}} if path == "show" else {}
    method = "POST" if path == "show" else "GET"

    answer = caller.http.request(method, f"{HOST}/api/{path}{slash}", **body)  # type: ignore[arg-type]

    assert answer.status_code == 200, answer.text
    assert answer.json()
    for secret in (SECRET_FILE, "10.0.0.7", "modelfile", "build"):
        assert secret not in answer.text


PATHS = [SECRET_FILE, "~/models/a", "./a", "../a", "file:///a", "C:\\a", "d:/a", "a\\b"]
NAMES = ["", "tiny:1b", "hf.co/org/model:tag", "registry:5000/a/b:c", "c:latest", ".a"]


@pytest.mark.parametrize("parent", [*PATHS, *NAMES])
def test_a_model_is_told_from_which_other_it_is_but_from_no_file(parent: str) -> None:
    told = "" if parent in PATHS else parent
    details = {"family": "tiny", "parent_model": parent, "of": [{"parent": parent}]}
    expected = {"family": "tiny", "parent_model": told, "of": [{"parent": told}]}
    row = {"name": "tiny:1b", "details": details}
    shown = {"template": "{{ .Prompt }}\\n", "license": "/* MIT */", "details": details}
    info = {"general.file": parent, "tokenizer.chat_template": "{{ '\\n' }}"}
    words = {"tokenizer.ggml.tokens": [parent] * 101}

    listed = mirrored.models({"models": [row]})["models"]
    answer = mirrored.shown({**shown, "model_info": {**info, **words}})

    assert listed == [{"name": "tiny:1b", "details": expected}]
    assert answer == {
        **shown,
        "details": expected,
        "model_info": {**info, "general.file": told, **words},
    }


def test_a_server_gone_mad_is_read_no_deeper_than_a_model_is() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]

    told = mirrored.shown({"details": {"deep": deep}})

    assert json.dumps(told).count("[") < 10


def test_models_that_are_not_allowed_are_not_shown(
    client: ollama.Client, model: OllamaStub, settings: Settings
) -> None:
    settings.MESH_OLLAMA_MODELS = ["tiny:1b"]

    assert [row.model for row in client.list().models] == ["tiny:1b"]
    with pytest.raises(ollama.ResponseError) as refused:
        client.show("big:70b")
    assert refused.value.status_code == 422


def test_without_a_prompt_the_model_is_loaded_and_nothing_kept(
    caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = raw(
        '{"response": "", "done": true, "done_reason": "load"}', kind="application/json"
    )
    for _ in range(2):
        answer = caller.http.post(f"{HOST}/api/generate", json={"model": "tiny"})
        assert answer.json()["done_reason"] == "load"
        assert answer.headers["X-Cache"] == "BYPASS"

    assert len(upstream.calls) == 2


def test_errors_reach_the_official_client_as_its_own(
    client: ollama.Client, upstream: OllamaStub, live_site: LiveSite
) -> None:
    upstream.script = refusing(404, "model not found")
    with pytest.raises(ollama.ResponseError, match="not found") as missing:
        client.generate("nope", "hi")
    assert missing.value.status_code == 404

    upstream.script = raw('{"response": "x", "done": false}\n{"error": "secret"}\n')
    with pytest.raises(ollama.ResponseError, match="broke off"):
        list(client.generate("tiny", "hi", stream=True))

    stranger = _client(live_site, "nobody")
    with pytest.raises(ollama.ResponseError) as unknown:
        stranger.list()
    stranger._client.close()
    assert unknown.value.status_code == 401


ODD: list[tuple[str, Any, str]] = [
    ("generate", {"prompt": "hi", "keep_alive": -1}, "keep_alive"),
    ("generate", {"prompt": "hi", "raw": True}, "raw"),
    ("generate", {"prompt": "hi", "images": ["aGk="]}, "images"),
    ("generate", {"prompt": "hi", "context": [1]}, "context"),
    ("generate", {"prompt": "hi", "system": 7}, "system"),
    ("generate", {"prompt": "hi", "format": "xml"}, "format"),
    ("generate", {"prompt": "hi", "think": "hard"}, "think"),
    ("generate", {"prompt": "hi", "model": "../../api/pull"}, "model"),
    ("generate", [], "object"),
    ("chat", {"messages": "hi"}, "messages"),
    ("chat", {"messages": ["hi"]}, "messages"),
    ("chat", {"messages": [{"role": "root", "content": "hi"}]}, "role"),
    ("chat", {"messages": [{"role": "user", "content": 7}]}, "content"),
    ("chat", {"messages": [{"role": "user", "images": ["aGk="]}]}, "images"),
    ("chat", {"messages": [{"role": "user"}] * 1001}, "1,000"),
    ("chat", {"messages": [], "tools": {}}, "tools"),
    ("embed", {"input": 7}, "input"),
    ("embed", {"input": ["hi", 7]}, "input"),
    ("embed", {"input": ["hi"] * 1001}, "1,000"),
    ("embed", {"input": "hi", "truncate": "no"}, "truncate"),
    ("embed", {"input": "hi", "dimensions": "2"}, "dimensions"),
    ("embed", {"input": "hi", "dimensions": False}, "dimensions"),
    ("embed", {"input": "hi", "dimensions": -1}, "dimensions"),
    ("embed", {"input": "hi", "keep_alive": 0}, "keep_alive"),
    ("embed", {"input": "hi", "options": {"num_gpu": 1}}, "num_gpu"),
    ("embed", {"input": "hi", "stream": True}, "stream"),
    ("show", {"model": ""}, "model"),
    ("show", {"model": "x?y"}, "model"),
    ("show", {"model": "tiny", "verbose": "very"}, "verbose"),
]


def test_what_is_not_for_callers_is_refused_and_never_sent_on(
    caller: GatewayClient, model: OllamaStub
) -> None:
    for path, body, word in ODD:
        answer = caller.http.post(f"{HOST}/api/{path}", json=body)

        assert answer.status_code == 422, (path, body)
        assert word in answer.json()["error"], (path, body)
    for text in ("x" * 40_000, "\u00e4" * 20_000):
        chat = {"messages": [{"role": "user", "content": text}]}
        texts = ("generate", {"prompt": text}), ("embed", {"input": [text, "hi"]})
        for path, body in (*texts, ("chat", chat)):
            answer = caller.http.post(f"{HOST}/api/{path}", json=body)
            assert answer.status_code == 400, path
    assert model.calls == []


def test_what_manages_the_server_is_not_there(
    caller: GatewayClient, model: OllamaStub
) -> None:
    for path in ("api/pull", "api/push", "api/create", "api/delete", "api/copy", "v1"):
        answer = caller.http.post(f"{HOST}/{path}", json={"model": "tiny"})
        assert (answer.status_code, set(answer.json())) == (404, {"error"})
    wrong = caller.http.get(f"{HOST}/api/chat")

    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    assert caller.http.get(f"{HOST}/").text == "Ollama is running"
    assert model.calls == []


@pytest.mark.parametrize(
    ("script", "status"),
    [
        (refusing(500, SECRET_FILE), 502),
        (refusing(503, SECRET_FILE), 503),
        (raw("[]", kind="application/json"), 502),
        (raw('{"models": [' + "[" * 900 + "]" * 900 + "]}"), 502),
        (raw("nonsense " + SECRET_FILE, kind="application/json"), 502),
    ],
)
def test_a_look_that_fails_says_so_and_no_more(
    script: Any, status: int, caller: GatewayClient, upstream: OllamaStub
) -> None:
    upstream.script = script

    answer = caller.http.get(f"{HOST}/api/tags")

    assert (answer.status_code, set(answer.json()) - {"retry_after_ms"}) == (
        status,
        {"error"},
    )
    assert SECRET_FILE not in answer.text
