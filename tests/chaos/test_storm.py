"""Agents and server are killed, stopped and cut off under load: nothing is lost."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

import bus
from bus import connection
from bus.server import EmbeddedServer
from tests.support import storm
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

TASKS = int(os.environ.get("MESH_STORM_TASKS", "4000"))
SEED = int(os.environ.get("MESH_CHAOS_SEED", "0")) or random.randrange(1, 1_000_000)
AGENTS = 4
EVERY_S = 1.5
HAND_OVER_S = 5.0
# After the server was away nobody is judged for 3 s; a frozen one may hide a kill.
SETTLE_S = 3.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    with EmbeddedServer(tmp_path / "redis", port=0, debug_commands=True) as server:
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server
    connection.reset()


def _quiet() -> bool:
    try:
        return bool(bus.stats(storm.TOPIC)["backlog"] == 0)
    except bus.BusError:
        return False


@pytest.mark.timeout(900)
def test_nothing_is_lost_in_a_storm(
    server: EmbeddedServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = tmp_path / "executions"
    bus.set_limits(storm.TOPIC, results_keep=1_000_000)
    producers = storm.Producers(TASKS, threads=2, seed=SEED, pace_s=0.006)
    fleet = storm.Fleet(AGENTS, ledger)
    nemesis = storm.Nemesis(server, fleet, random.Random(SEED))
    try:
        producers.start()
        while producers.busy():
            time.sleep(EVERY_S)
            nemesis.strike()
            fleet.tend()
        wait_until(lambda: fleet.tend() or _quiet(), 90, f"all ended (seed {SEED})")
    finally:
        fleet.close()

    client = redis.Redis.from_url(server.url, decode_responses=True)
    report = storm.judge(client, producers, nemesis, ledger, SEED)
    client.close()
    with capsys.disabled():
        print(f"\n{report}")
    assert report.lost == report.double == report.invented == report.wrong == []
    assert report.wounds == []
    assert report.slowest_s < HAND_OVER_S + SETTLE_S
