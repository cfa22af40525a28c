"""A load generator for machines without wrk: `python -m bench.http.generator`.

A process of its own, so that it takes nothing from the interpreter that is measured;
one request at a time on each connection, as wrk has it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from bench.report import percentile

_LAST_S: Final = 5.0  # for the answers that are out when time is up


class Connection(asyncio.Protocol):
    """Sends the request again for each answer, until it is told to stop."""

    def __init__(self, request: bytes) -> None:
        self.took_s: list[float] = []
        self.failed = 0
        self.ended = asyncio.get_running_loop().create_future()
        self.stop = False
        self._request, self._answer, self._began = request, b"", 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < length_of(head):
            return
        self.took_s.append(time.perf_counter() - self._began)
        self.failed += not head.startswith(b"HTTP/1.1 2")
        self._answer = b""
        if self.stop:
            self._transport.close()
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self.failed += not self.stop
        if not self.ended.done():
            self.ended.set_result(None)

    def _send(self) -> None:
        self._began = time.perf_counter()
        self._transport.write(self._request)


def length_of(head: bytes) -> int:
    """The length of a body as its head says it."""
    value = head.lower().partition(b"\r\ncontent-length:")[2]
    return int(value.partition(b"\r\n")[0] or 0)


async def load(
    url: str, seconds: float, connections: int, token: str, body: bytes
) -> dict[str, float]:
    """The figures of a load, as `load.Load` has them."""
    parts = urlsplit(url)
    assert parts.hostname and parts.port
    place = parts.hostname, parts.port
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
        f"Authorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    request = head.encode() + body
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    made = []
    for _ in range(connections):
        _, one = await loop.create_connection(lambda: Connection(request), *place)
        made.append(one)
    await asyncio.sleep(seconds)
    for one in made:
        one.stop = True
    await asyncio.wait([one.ended for one in made], timeout=_LAST_S)
    took_s = time.perf_counter() - began
    times = [each for one in made for each in one.took_s]
    late = sum(not one.ended.done() for one in made)
    return {
        "calls": len(times),
        "took_s": took_s,
        "failed": sum(one.failed for one in made) + late,
        "p50_ms": percentile(times, 0.5) * 1000 if times else 0.0,
        "p99_ms": percentile(times, 0.99) * 1000 if times else 0.0,
    }


if __name__ == "__main__":
    _url, _seconds, _connections, _token, _file = sys.argv[1:]
    _body = Path(_file).read_bytes()
    told = asyncio.run(load(_url, float(_seconds), int(_connections), _token, _body))
    print(json.dumps(told))
