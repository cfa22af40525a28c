"""A power cut, and a disk that hangs: each level keeps what it says, and no more."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

import bus
from bus import connection, errors, levels
from bus.home import syncing
from bus.server import EmbeddedServer
from tests.support.disk import Disk

pytestmark = pytest.mark.chaos

TOPIC = "demo"


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk(tmp_path, monkeypatch)
    yield disk
    disk.go_on()


@pytest.fixture
def server(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: Settings
) -> Iterator[EmbeddedServer]:
    """A server on that disk."""
    settings.MESH_SEND_RETRY_S = 0.1
    server = EmbeddedServer(tmp_path / "redis", port=0)
    disk.start(server)
    monkeypatch.setenv("REDIS_URL", server.url)
    levels.forget()
    yield server
    disk.go_on()
    server.stop()
    connection.reset()
    levels.forget()


def known(task_id: str) -> bool:
    try:
        return bus.get_task(task_id, TOPIC).state == "waiting"
    except errors.TaskNotFound:
        return False


def test_g2_a_power_cut_takes_nothing_that_was_synced(
    disk: Disk, server: EmbeddedServer
) -> None:
    bus.get_redis().config_set("appendfsync", "always")
    ids = [bus.enqueue_task(TOPIC, n, durability="fsync") for n in range(50)]
    ids += bus.enqueue_many(TOPIC, range(500), durability="fsync")

    disk.cut_power(server)
    disk.start(server)

    assert [each for each in ids if not known(each)] == []
    assert bus.stats(TOPIC)["ledger"]["drift"] == 0


def test_a_power_cut_takes_the_last_second_of_a_file(
    disk: Disk, server: EmbeddedServer
) -> None:
    """Without this the test above could not fail. What is left is whole."""
    ids = []
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        ids.append(bus.enqueue_task(TOPIC, len(ids), durability="aof"))

    disk.cut_power(server)
    disk.start(server)

    kept = [known(each) for each in ids]
    lost = kept.count(False)
    assert 0 < lost < len(ids)
    assert kept == [True] * (len(ids) - lost) + [False] * lost
    assert bus.stats(TOPIC)["ledger"]["drift"] == 0


def test_the_server_says_too_early_that_it_has_synced(
    disk: Disk, server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Why `fsync` does not ask WAITAOF; once this fails, it may be asked again."""
    monkeypatch.setattr(syncing, "_sync", os.fdatasync)  # of ours nothing is noted
    client = bus.get_redis()
    version = client.info("server")["redis_version"]
    if tuple(map(int, version.split(".")[:2])) < (7, 2):
        pytest.skip(f"Redis {version} has no WAITAOF, which came with 7.2")
    client.config_set("appendfsync", "everysec")
    client.set("a", 1)
    lies = 0
    for n in range(20):
        with client.client() as one:
            one.set("a", n)
            told = one.execute_command("WAITAOF", 1, 0, 2_000)
            [file] = (server.directory / "appendonlydir").glob("*.incr.aof")
            lies += told[0] == 1 and disk.synced < file.stat().st_size

    assert lies > 0


@pytest.mark.parametrize("everysec", [False, True])
def test_kill_9_takes_nothing_from_our_server_though_its_disk_hangs(
    disk: Disk, server: EmbeddedServer, everysec: bool
) -> None:
    """A server that syncs by itself each second puts its writes off meanwhile."""
    if everysec:
        bus.get_redis().config_set("appendfsync", "everysec")
    first = bus.enqueue_task(TOPIC, "first", durability="aof")
    disk.hang()
    ids = []
    until = time.monotonic() + 1.6  # a sync begins within a second, and hangs
    while time.monotonic() < until:
        ids.append(bus.enqueue_task(TOPIC, len(ids), durability="aof"))
        time.sleep(0.005)

    disk.kill(server)
    disk.go_on()
    disk.start(server)

    assert known(first)
    assert any(not known(each) for each in ids) == everysec


def test_a_disk_that_hangs_holds_back_what_is_to_be_synced(
    disk: Disk, server: EmbeddedServer, settings: Settings
) -> None:
    settings.MESH_SOCKET_TIMEOUT_S = 0.3
    settings.MESH_DURABILITY_TIMEOUT_S = 0.1
    bus.get_redis().config_set("appendfsync", "always")
    safe = bus.enqueue_task(TOPIC, "safe", durability="fsync")
    disk.hang()
    said: list[str] = []

    def send() -> None:
        try:
            said.append(bus.enqueue_task(TOPIC, "late", durability="fsync"))
        except errors.BusUnavailable as exc:
            said.append(exc.outcome)

    thread = threading.Thread(target=send)
    thread.start()
    thread.join()
    disk.cut_power(server)
    disk.go_on()
    disk.start(server)

    assert said == ["unknown"]
    assert known(safe)
