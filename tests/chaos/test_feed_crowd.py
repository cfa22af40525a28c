"""A crowd on the feed of one web server: all is told, slow ones harm nobody (S11)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from websockets.asyncio.client import ClientConnection, connect

import bus
from bus import tasks
from bus.server import EmbeddedServer
from tests.support import chronicle
from tests.support.figures import Figures
from tests.support.sites import Folder, Site

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(300)]

# `make chaos` asks for the whole of it: 200 sockets, 20 s, 1,000 that only listen. What
# is told in 150 ms on a machine that does nothing else may take seconds beside attacks.
SOCKETS = int(os.environ.get("MESH_CROWD", "50"))
LASTING_S = int(os.environ.get("MESH_CROWD_S", "5"))
IDLE = int(os.environ.get("MESH_CROWD_IDLE", "200"))
P99_MS = float(os.environ.get("MESH_CROWD_P99_MS", "15000"))
PER_S = 50
IDLE_BYTES = 150_000  # of the server's memory, per socket
QUIET_S = 60.0  # nothing more comes, though there is more: then it is lost
TOPIC = "crowd"
SETTINGS = "tests.support.many_sockets"


@pytest.fixture
def folder(tmp_path: Path, own_server: EmbeddedServer) -> Folder:
    (tmp_path / "site").mkdir()
    return Folder(tmp_path / "site", own_server.url)


@pytest.fixture
def site(folder: Folder) -> Iterator[Site]:
    with folder.sites(1, DJANGO_SETTINGS_MODULE=SETTINGS) as [site]:
        yield site


@asynccontextmanager
async def listening(site: Site, token: str) -> AsyncIterator[ClientConnection]:
    """A socket that is told the results of the topic from here on."""
    url = site.url.replace("http", "ws", 1) + "/ws/feed"
    headers = {"Authorization": f"Bearer {token}"}
    async with connect(
        url, additional_headers=headers, compression=None, open_timeout=60
    ) as client:
        wish = {"op": "resume", "after": {}, "topics": [TOPIC], "regions": ["results"]}
        await client.send(json.dumps(wish))
        while json.loads(await client.recv())["op"] != "live":
            continue
        yield client


def deaf(site: Site, token: str) -> socket.socket:
    """A client that asks for all there is and never reads a byte."""
    place = urlsplit(site.url)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    client.connect((place.hostname, place.port))
    head = (
        f"GET /ws/feed HTTP/1.1\r\nHost: {place.netloc}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Sec-WebSocket-Version: 13\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
    client.sendall(head.encode())
    text = b'{"op":"resume","after":{},"topics":["crowd"],"regions":["results"]}'
    # A masked text frame; under a mask of zeros the text stays as it is.
    client.sendall(bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text)
    return client


async def publish(client: Any, count: int) -> None:
    """Results at an even pace; each says when it was written."""
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / PER_S - time.monotonic()))
        row = {"id": tasks.new_id(), "state": "done", "result": time.monotonic()}
        fields = {"id": row["id"], "json": json.dumps(row)}
        await client.xadd(bus.result_stream(TOPIC), fields)


async def follow(client: ClientConnection, count: int, late: Figures) -> int:
    """How many results a gap counted, once all `count` were told or counted."""
    told: set[str] = set()
    missed = 0
    while len(told) + missed < count:
        frame = json.loads(await asyncio.wait_for(client.recv(), QUIET_S))
        now = time.monotonic()
        if frame["op"] == "gap":
            missed += frame["missed"]
        for row in frame.get("rows", ()):
            assert row["id"] not in told, "told twice"
            told.add(row["id"])
            late.durations.append(now - row["result"])
    return missed


def resident(site: Site) -> int:
    """Bytes of memory that the web server holds."""
    status = Path(f"/proc/{site.process.pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) * 1024


def test_all_sockets_are_told_everything_beside_some_that_never_read(
    site: Site, folder: Folder, own_server: EmbeddedServer
) -> None:
    """Delivered once or counted in a gap, and soon, while three take not a byte."""
    count, late = PER_S * LASTING_S, Figures()
    bus.set_limits(TOPIC, results_keep=1_000_000)

    async def story() -> list[int]:
        writer = redis.asyncio.Redis.from_url(own_server.url)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(writer.aclose)
            for _ in range(3):
                stack.callback(deaf(site, folder.token).close)
            clients = [
                await stack.enter_async_context(listening(site, folder.token))
                for _ in range(SOCKETS)
            ]
            work = [follow(client, count, late) for client in clients]
            missed, _ = await asyncio.gather(
                asyncio.gather(*work), publish(writer, count)
            )
            return list(missed)

    missed = asyncio.run(story())

    p99_ms = late.percentile_s(0.99) * 1000
    print(f"{SOCKETS} sockets: p99 {p99_ms:.0f} ms, {sum(missed)} rows in gaps")
    assert p99_ms < P99_MS
    chronicle.record("S11 crowd", tasks=count, lost=0)


def test_sockets_that_only_listen_cost_little_memory(
    site: Site, folder: Folder
) -> None:
    bus.set_limits(TOPIC)

    async def story() -> tuple[int, int]:
        async with AsyncExitStack() as stack:
            # What the first ones need, all share.
            for _ in range(5):
                await stack.enter_async_context(listening(site, folder.token))
            before = resident(site)
            for _ in range(IDLE):
                await stack.enter_async_context(listening(site, folder.token))
            return before, resident(site)

    before, after = asyncio.run(story())

    print(f"{IDLE} idle sockets: {(after - before) / 2**20:.0f} MiB")
    assert after - before < IDLE * IDLE_BYTES
