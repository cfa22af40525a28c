"""A demo upstream: llama.cpp with a tiny model, asked as Ollama is asked.

    python -m examples.llm_demo.upstream --port 11435

It is no Ollama. It answers what the gateway asks: `/api/generate`, `/api/chat`, `tags`,
`ps`, `show`, `version`. For this machine alone: it listens on loopback.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import importlib
import json
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from examples.llm_demo import tiny

MODEL: Final = "noise:latest"
READY: Final = "demo upstream at "
_CONTEXT: Final = 1024  # tokens, of two generations at once
_TOKENS: Final = 64  # where a request does not say how many
_BODY_MOST: Final = 1024 * 1024
_OPTIONS: Final = ("temperature", "seed", "top_k", "top_p", "min_p", "stop")
_DETAILS: Final = {
    "format": "gguf",
    "family": "llama",
    "parameter_size": "118K",
    "quantization_level": "F32",
}
_SHOWN: Final = {
    "details": _DETAILS,
    "capabilities": ["completion"],
    "model_info": {"general.architecture": "llama"},
}


def main() -> None:
    """Serve until interrupted; the first line says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    port = parser.parse_args().port
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "noise.gguf"
        tiny.write(path)
        engine = _engine(path)
        Door.engine = urlsplit(engine.listening_address).netloc
        Door.size = path.stat().st_size
        with ThreadingHTTPServer(("127.0.0.1", port), Door) as server:
            print(f"{READY}http://127.0.0.1:{server.server_port}", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()


def _engine(path: Path) -> Any:
    """llama.cpp's own server, on a port of its own; it ends with the process."""
    xllamacpp = importlib.import_module("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx, params.n_parallel = _CONTEXT, 2
    params.cpuparams.n_threads = 1
    params.port = 0
    return xllamacpp.Server(params)


class Door(BaseHTTPRequestHandler):
    """One request, in the words of Ollama's API."""

    engine = ""
    size = 0

    def do_GET(self) -> None:
        """Looks."""
        row = {
            **{"name": MODEL, "model": MODEL, "size": self.size, "digest": "0"},
            **{"details": _DETAILS, "modified_at": _now()},
        }
        looks: dict[str, dict[str, Any]] = {
            "/api/tags": {"models": [row]},
            "/api/ps": {"models": [row | {"context_length": _CONTEXT // 2}]},
            "/api/version": {"version": "0.0.0-demo"},
        }
        look = looks.get(self.path)
        if look is None:
            self._say(404, {"error": "no such path"})
        else:
            self._say(200, look)

    def do_POST(self) -> None:
        """Generations, and what describes the model."""
        try:
            size = int(self.headers.get("Content-Length", "0"))
            if not 0 < size <= _BODY_MOST:
                raise ValueError("no body, or too much of it")
            body = json.loads(self.rfile.read(size))
            name = str(body["model"])
        except (ValueError, KeyError, TypeError) as exc:
            self._say(400, {"error": f"not a request: {exc}"})
            return
        if name not in (MODEL, MODEL.removesuffix(":latest")):
            self._say(404, {"error": f"model '{name}' not found"})
        elif self.path == "/api/show":
            self._say(200, _SHOWN)
        elif self.path in ("/api/generate", "/api/chat"):
            self._generate(body)
        else:
            self._say(404, {"error": "no such path"})

    def _generate(self, body: dict[str, Any]) -> None:
        chat = self.path == "/api/chat"
        prompt = body.get("prompt", "")
        if chat:
            said = (f"{m['role']}: {m['content']}" for m in body.get("messages", ()))
            prompt = "\n".join(said)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.end_headers()
        # Closing what the engine streams ends its work, also where a client went.
        with contextlib.suppress(ConnectionError):
            for piece in _pieces(self.engine, prompt, body.get("options") or {}):
                text = piece.pop("text")
                told = {"message": {"role": "assistant", "content": text}}
                line = {"model": body["model"], "created_at": _now()}
                line |= (told if chat else {"response": text}) | piece
                self.wfile.write(json.dumps(line).encode() + b"\n")

    def _say(self, status: int, what: dict[str, Any]) -> None:
        said = json.dumps(what).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the gateway has a log of its own."""


def _pieces(engine: str, prompt: str, options: dict[str, Any]) -> Iterator[Any]:
    """What the engine says, as `{text, done, …}`; the last one has the metrics."""
    if not prompt:
        yield {"text": "", "done": True, "done_reason": "load"}
        return
    asked = {name: options[name] for name in _OPTIONS if name in options}
    asked |= {"prompt": prompt, "stream": True}
    asked["n_predict"] = options.get("num_predict", _TOKENS)
    link = http.client.HTTPConnection(engine, timeout=60)
    with contextlib.closing(link):
        link.request("POST", "/completion", json.dumps(asked))
        for line in link.getresponse():
            kind, _, text = line.partition(b": ")
            if kind != b"data":
                continue
            said = json.loads(text)
            if not said.get("stop"):
                yield {"text": said["content"], "done": False}
                continue
            pace = said["timings"]
            yield {
                "text": said["content"],
                "done": True,
                "done_reason": "length" if said["stop_type"] == "limit" else "stop",
                "prompt_eval_count": pace["prompt_n"],
                "eval_count": pace["predicted_n"],
                "eval_duration": int(pace["predicted_ms"] * 1e6),
            }
            return


def _now() -> str:
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


if __name__ == "__main__":
    main()
