"""A real engine behind the gateway: Ollama's own client generates, chats, streams."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pytest_django import Settings

from bus import accounts
from examples.llm_demo.upstream import MODEL, READY
from tests.support.processes import ROOT
from tests.support.site import LiveSite

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
    pytest.mark.skipif(
        not all(map(importlib.util.find_spec, ("xllamacpp", "ollama"))),
        reason="needs pip install -r examples/llm_demo/requirements.txt",
    ),
]

FIXED = {"num_predict": 8, "temperature": 0, "seed": 1}


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
