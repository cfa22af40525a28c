"""Requests as bytes through one of the doors to the API, and what comes back."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.support.api import ROOT

Pair = tuple[str, str]
_ID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_ENTRY = re.compile(r"\b\d{13}-\d+(\.\d+)?")
_WAIT = re.compile(r'"retry_after_ms":\d+')
# Of the connection and of the moment; the length follows from the body.
_PASSING = frozenset({"date", "connection", "transfer-encoding", "content-length"})

_OF_THE_MOMENT = frozenset({"x-request-id", "retry-after"})


@dataclass(frozen=True)
class Reply:
    """What a server said."""

    status: int
    headers: list[Pair]
    body: bytes

    def header(self, name: str) -> str | None:
        """The one header of this name."""
        found = [text for key, text in self.headers if key == name.lower()]
        assert len(found) < 2, f"{name} is said twice: {found}"
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)

    def comparable(self) -> tuple[int, list[Pair], str]:
        """The same for the same question, whenever and under whichever id."""
        body = _WAIT.sub('"retry_after_ms":"…"', _ID.sub("id", self.body.decode()))
        body = _ENTRY.sub("entry", body)
        headers = [
            (name, "…" if name in _OF_THE_MOMENT else _ID.sub("id", text))
            for name, text in self.headers
            if name not in _PASSING
        ]
        return self.status, sorted(headers), body


@dataclass
class Door:
    """Asks the site; `in_the_lane` counts what the express lane answered."""

    url: str
    tokens: dict[str, str]
    in_the_lane: int = 0

    def ask(
        self,
        path: str,
        body: bytes = b"",
        headers: Sequence[tuple[str, str | bytes]] = (),
        *,
        method: str = "POST",
        token: str | None = "operator",
        content_type: str | None = "application/json",
        chunked: bool = False,
    ) -> Reply:
        """One request with exactly these bytes, on a connection of its own."""
        host, port = self.url.removeprefix("http://").split(":")
        given = {name.lower() for name, _ in headers}
        lines: list[bytes] = [f"{method} {ROOT}/{path} HTTP/1.1".encode()]
        usual: list[tuple[str, str | bytes]] = [("Connection", "close")]
        if "host" not in given:
            usual.append(("Host", f"{host}:{port}"))
        if token is not None:
            usual.append(("Authorization", f"Bearer {self.tokens.get(token, token)}"))
        if content_type is not None:
            usual.append(("Content-Type", content_type))
        if chunked:
            usual.append(("Transfer-Encoding", "chunked"))
            half = len(body) // 2
            parts = (part for part in (body[:half], body[half:]) if part)
            body = b"".join(b"%x\r\n%b\r\n" % (len(x), x) for x in parts)
            body += b"0\r\n\r\n"
        elif "content-length" not in given:
            usual.append(("Content-Length", str(len(body))))
        for name, text in [*usual, *headers]:
            raw = text if isinstance(text, bytes) else text.encode()
            lines.append(name.encode() + b": " + raw)
        with socket.create_connection((host, int(port)), timeout=60) as line:
            line.sendall(b"\r\n".join([*lines, b"", b""]) + body)
            said = b""
            while part := line.recv(65536):
                said += part
        return _read(said)


def _read(said: bytes) -> Reply:
    head, _, body = said.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 100 "):
        return _read(body)
    first, *rest = head.decode("latin-1").split("\r\n")
    pairs = [line.partition(":") for line in rest]
    headers = [(name.lower(), text.strip()) for name, _, text in pairs]
    if ("transfer-encoding", "chunked") in headers:
        whole = b""
        while body:
            size, _, body = body.partition(b"\r\n")
            whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
        body = whole
    return Reply(int(first.split()[1]), headers, body)
