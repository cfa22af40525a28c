"""A real engine behind the gateway: Ollama's own clients generate, chat, stream."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

from bus import accounts
from examples.llm_demo.__main__ import paste
from examples.llm_demo.upstream import MODEL, READY
from tests.support import machine
from tests.support.processes import ROOT
from tests.support.site import LiveSite

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("xllamacpp", "ollama")))
        and not machine.IN_CI,
        reason="needs pip install -r examples/llm_demo/requirements.txt",
    ),
]

FIXED = {"num_predict": 8, "temperature": 0, "seed": 1}
JS = Path(__file__).parent / "ollama_js"
INSTALL = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")


@pytest.fixture
def engine(settings: Settings) -> Iterator[str]:
    """The demo upstream, which the gateway is pointed at."""
    process = subprocess.Popen(
        [sys.executable, "-m", "examples.llm_demo.upstream"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        line = next(line for line in process.stdout if READY in line)
        settings.MESH_OLLAMA_BASE_URL = line.partition(READY)[2].strip()
        settings.MESH_OLLAMA_MODEL = MODEL
        yield settings.MESH_OLLAMA_BASE_URL
    finally:
        process.terminate()
        process.wait(30)
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def client(live_site: LiveSite, engine: str) -> Iterator[Any]:
    """Ollama's own client, with the mesh as its host."""
    import ollama

    _, token = accounts.create_token("client", "operator")
    made = ollama.Client(
        host=f"{live_site.url}/api/v1/mesh/ollama",
        headers={"Authorization": f"Bearer {token}"},
        timeout=60,
        trust_env=False,
    )
    yield made
    made._client.close()


def test_the_official_client_generates_chats_and_streams(client: Any) -> None:
    whole = client.generate(MODEL, "hello", options=FIXED)
    pieces = list(client.generate(MODEL, "hello", options=FIXED, stream=True))
    talk = [{"role": "user", "content": "hello"}]
    chat = client.chat("noise", talk, options=FIXED)
    told = list(client.chat("noise", talk, options=FIXED, stream=True))

    assert whole.done_reason == "length" and whole.eval_count == 8
    # One generation: the streamed one comes from the cache, piece by piece.
    assert "".join(piece.response for piece in pieces) == whole.response != ""
    assert "".join(piece.message.content for piece in told) == chat.message.content
    assert [model.model for model in client.list().models] == [MODEL]
    assert client.show(MODEL).capabilities == ["completion"]


def test_a_model_that_the_engine_does_not_have_is_404(client: Any) -> None:
    import ollama

    with pytest.raises(ollama.ResponseError) as refused:
        client.generate("llama3.2", "hello")

    assert refused.value.status_code == 404


@pytest.fixture
def js_client(tmp_path: Path) -> Path:
    """A folder with Ollama's client for JavaScript, of the versions in its lock."""
    if not (shutil.which("node") and shutil.which("npm")):
        machine.lacks("no node or npm: install Node.js 18 or later")
    folder = shutil.copytree(JS, tmp_path / "js")
    done = subprocess.run(INSTALL, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        machine.lacks(f"npm could not install the client: {done.stderr}")
    return folder


def test_the_official_js_client_generates_chats_and_streams(
    live_site: LiveSite, engine: str, js_client: Path
) -> None:
    _, token = accounts.create_token("client", "operator")
    env = {**os.environ, "MESH": live_site.url, "TOKEN": token, "MODEL": MODEL}

    ran = subprocess.run(
        ["node", "client.mjs"], cwd=js_client, env=env, capture_output=True, text=True
    )

    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout)
    whole, chat = told["whole"], told["chat"]
    assert whole["done_reason"] == "length" and whole["eval_count"] == 8
    assert len(told["streamed"]) > 1 and told["streamed"][-1]["done"] is True
    text = "".join(piece["response"] for piece in told["streamed"])
    assert text == whole["response"] != ""
    text = "".join(piece["message"]["content"] for piece in told["spoken"])
    assert text == chat["message"]["content"] != ""
    assert told["models"] == [MODEL]
    assert told["capabilities"] == ["completion"]
    assert told["unknown"] == {"status": 404, "error": "model 'llama3.2' not found"}
    assert told["odd"]["status"] == 422 and "keep_alive" in told["odd"]["error"]


def test_the_line_that_the_demo_prints_works_when_it_is_pasted(
    live_site: LiveSite, engine: str, tmp_path: Path
) -> None:
    _, token = accounts.create_token("client", "operator")
    kept = tmp_path / "a folder" / "credentials.json"
    kept.parent.mkdir()
    kept.write_text(json.dumps({"url": live_site.url, "token": token}, indent=2))

    pasted = subprocess.run(paste(kept), shell=True, capture_output=True, text=True)

    assert pasted.returncode == 0, pasted.stderr
    lines = [json.loads(line) for line in pasted.stdout.splitlines()]
    assert len(lines) > 1 and lines[-1]["done"] is True
