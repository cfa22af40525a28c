"""A scripted model server, which does on request what a real one does by accident."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Self

Script = Callable[["Call"], Awaitable[None]]


@dataclass
class Call:
    """One request the stub got, with what a script needs to answer it."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    gone: bool = False  # the client went before the script ended

    async def head(
        self, status: int = 200, kind: str = "application/x-ndjson", **headers: str
    ) -> None:
        """Status line and headers of an answer that ends when the connection does."""
        fields = {"Content-Type": kind, "Connection": "close", **headers}
        lines = [f"HTTP/1.1 {status} Scripted"]
        lines += [f"{name.replace('_', '-')}: {text}" for name, text in fields.items()]
        await self.send("\r\n".join(lines) + "\r\n\r\n")

    async def send(self, text: str | bytes) -> None:
        """Bytes as they are."""
        self.writer.write(text.encode() if isinstance(text, str) else text)
        await self.writer.drain()

    async def piece(self, response: str, **more: Any) -> None:
        """One line of a generation."""
        line = {"model": self.body["model"], "response": response, "done": False}
        await self.send(json.dumps(line | more) + "\n")

    async def said(self, message: dict[str, Any], **more: Any) -> None:
        """One line of a chat."""
        line = {"model": self.body["model"], "created_at": "2026-11-24T10:00:00Z"}
        line["message"] = {"role": "assistant", "content": "", **message}
        await self.send(json.dumps({"done": False, **line, **more}) + "\n")

    async def last(self, **more: Any) -> None:
        """The line that ends a generation, with its metrics."""
        await self.piece("", done=True, done_reason="stop", eval_count=3, **more)

    async def until_gone(self) -> None:
        """Wait for the client to close the connection."""
        with contextlib.suppress(OSError):
            await self.reader.read()
        self.gone = True


def saying(*pieces: str) -> Script:
    """An ordinary generation of these pieces."""

    async def script(call: Call) -> None:
        await call.head()
        for piece in pieces:
            await call.piece(piece)
        await call.last()

    return script


SECRET_FILE = "/usr/share/ollama/blobs/sha256-abc"  # what no client is to be shown
_DETAILS = {
    **{"family": "tiny", "parameter_size": "1B", "quantization_level": "Q4_0"},
    "parent_model": SECRET_FILE,  # as of a model that was made from a file
}
_ROW = {
    "name": "tiny:1b",
    "model": "tiny:1b",
    "modified_at": "2026-11-24T10:00:00Z",
    "size": 1234,
    "digest": "abc",
    "details": _DETAILS,
    "remote_host": "http://10.0.0.7",
}
LOOKS: dict[str, dict[str, Any]] = {
    "/api/tags": {"models": [_ROW, {**_ROW, "name": "big:70b", "model": "big:70b"}]},
    "/api/ps": {"models": [{**_ROW, "size_vram": 99, "context_length": 4096}]},
    "/api/version": {"version": "0.12.3", "build": SECRET_FILE},
    "/api/show": {
        "modelfile": f"FROM {SECRET_FILE}",
        "template": "{{ .Prompt }}",
        "details": _DETAILS,
        "model_info": {"general.architecture": "tiny"},
        "capabilities": ["completion"],
    },
}


async def like_ollama(call: Call) -> None:
    """Every call of Ollama's own clients: text, a chat that calls a tool, looks."""
    if call.path in LOOKS:
        await call.head(kind="application/json")
        await call.send(json.dumps(LOOKS[call.path]))
        return
    await call.head()
    if call.path == "/api/generate":
        for piece in ("Hello", ", ", "world"):
            await call.piece(piece)
        await call.last()
        return
    for message in (
        {"thinking": "Well"},
        {"content": "Hel"},
        {"content": "lo"},
        {"tool_calls": [{"function": {"name": "now", "arguments": {}}}]},
    ):
        await call.said(message)
    await call.said({}, done=True, done_reason="stop", eval_count=3)


def refusing(status: int, text: str, **headers: str) -> Script:
    """An error before the first line, worded like Ollama's."""

    async def script(call: Call) -> None:
        await call.head(status, "application/json; charset=utf-8", **headers)
        await call.send(json.dumps({"error": text}))

    return script


def raw(*parts: str | bytes, kind: str = "application/x-ndjson") -> Script:
    """Status 200 and these bytes, whatever they are, then the end."""

    async def script(call: Call) -> None:
        await call.head(kind=kind)
        for part in parts:
            await call.send(part)

    return script


async def silent(call: Call) -> None:
    """Never answers."""
    await call.until_gone()


async def dropping(call: Call) -> None:
    """Closes the connection instead of answering."""


def stalling_after(*pieces: str) -> Script:
    """Begins a generation and never goes on."""

    async def script(call: Call) -> None:
        await call.head()
        for piece in pieces:
            await call.piece(piece)
        await call.until_gone()

    return script


def cut_after(*pieces: str) -> Script:
    """Promises more than it sends, then drops the connection."""

    async def script(call: Call) -> None:
        await call.head(Content_Length="100000")
        for piece in pieces:
            await call.piece(piece)

    return script


async def endless(call: Call) -> None:
    """A generation that never ends by itself."""
    await call.head()
    with contextlib.suppress(OSError):
        while not call.writer.is_closing():
            await call.piece("on and on " * 1000)
    call.gone = True


@dataclass
class Gate:
    """A generation whose pieces come when the test lets them."""

    pieces: list[str]
    _steps: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _loop: asyncio.AbstractEventLoop | None = None

    async def __call__(self, call: Call) -> None:
        self._loop = asyncio.get_running_loop()
        gone = asyncio.create_task(call.until_gone())
        await call.head()
        for piece in self.pieces:
            step = asyncio.create_task(self._steps.acquire())
            await asyncio.wait({step, gone}, return_when=asyncio.FIRST_COMPLETED)
            if gone.done():
                step.cancel()
                return
            await call.piece(piece)
        await call.last()
        gone.cancel()

    def open(self, steps: int = 1) -> None:
        """Let so many pieces through; from any thread."""
        assert self._loop is not None, "nobody called yet"
        for _ in range(steps):
            self._loop.call_soon_threadsafe(self._steps.release)


class Later:
    """Another script, once the test lets it."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self._go = threading.Event()

    async def __call__(self, call: Call) -> None:
        await asyncio.to_thread(self._go.wait, 60)
        await self._script(call)

    def open(self) -> None:
        """Begin; from any thread."""
        self._go.set()


class OllamaStub:
    """The server, on a port and a thread of its own; plays `script` for each call."""

    def __init__(self, script: Script | None = None) -> None:
        self.script = script or saying("Hello", ", ", "world")
        self.calls: list[Call] = []
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._running: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self._server, port = starting.result(5)
        self.url = f"http://127.0.0.1:{port}"
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _start(self) -> tuple[asyncio.Server, int]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return server, server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                call = await _request(reader, writer)
                self.calls.append(call)
                await self.script(call)
        except asyncio.CancelledError:
            pass  # the stub ends
        finally:
            self._running.discard(task)
            writer.close()
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await writer.wait_closed()


async def _request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *rest = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {
        name.lower(): text.strip()
        for name, _, text in (line.partition(":") for line in rest)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Call(method, path, headers, json.loads(body or b"null"), reader, writer)
