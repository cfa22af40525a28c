"""A server that cannot write its file refuses, and goes on once there is room."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors
from bus.home import binary
from bus.server import EmbeddedServer
from tests.support import agents, chronicle, work
from tests.support.keyspace import wounds
from tests.support.processes import script
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

TOPIC = "disk"
ROOM_KB = 512
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture
def server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> Iterator[EmbeddedServer]:
    """A server whose file must not grow beyond ROOM_KB.

    What the kernel refuses to write beyond that looks to the server as a full disk
    does: an error, and fewer bytes than asked for. It needs no right to mount.
    """
    program = binary.find().path
    limited = script(
        tmp_path / "limited-server",
        # Without the trap the first write beyond the limit would end the process.
        f"trap '' XFSZ; ulimit -S -f {ROOM_KB * 2}; exec {program} \"$@\"",
    )
    settings.MESH_REDIS_BIN = str(limited)
    with EmbeddedServer(tmp_path / "redis", port=0) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server
    connection.reset()


def make_room(server: EmbeddedServer) -> None:
    assert server.pid is not None
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, UNLIMITED)


def test_a_full_disk_refuses_work_and_loses_none(
    server: EmbeddedServer, settings: Settings
) -> None:
    settings.MESH_SEND_RETRY_S = 0.2
    accepted: list[str] = []
    with agents.running(TOPIC, work.echo):
        with pytest.raises(errors.BusUnavailable, match="disk") as refusal:
            for number in range(20_000):
                accepted.append(bus.enqueue_task(TOPIC, f"{number:200}"))
        assert refusal.value.outcome == "not_written"

        with redis.Redis.from_url(server.url, decode_responses=True) as client:
            live = bus.stats(TOPIC)["backlog"]
            with pytest.raises(errors.BusUnavailable):
                bus.enqueue_many(TOPIC, range(300))
            assert bus.stats(TOPIC)["backlog"] <= live
            assert bus.stats(TOPIC)["accepted"] == len(accepted)

            make_room(server)
            more = wait_until(lambda: _taken("welcome"), 10, "room is noticed")
            wait_until(lambda: bus.stats(TOPIC)["backlog"] == 0, 20, "all has ended")

            stats = bus.stats(TOPIC)
            assert stats["done"] == len(accepted) + 1
            assert wounds(client, TOPIC) == []
    assert bus.get_task(more, TOPIC).state == "done"
    chronicle.record(
        "S6 bounds", tasks=len(accepted) + 1, lost=0, double=0, faults={"full disk": 1}
    )


def _taken(payload: str) -> str:
    try:
        return bus.enqueue_task(TOPIC, payload)
    except errors.BusUnavailable:
        return ""
