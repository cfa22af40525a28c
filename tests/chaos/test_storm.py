"""Agents, web and server are killed, stopped, cut off under load: nothing is lost."""

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
from tests.support import chronicle, transitions
from tests.support.storm import TOPIC, Fleet, Web
from tests.support.storm_faults import Nemesis
from tests.support.storm_senders import Operators, Senders
from tests.support.storm_verdict import judge
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

# `make chaos` asks for the whole of it: 20,000 tasks, 4 minutes, a fault every 3 s.
TASKS = int(os.environ.get("MESH_STORM_TASKS", "3000"))
LASTING_S = float(os.environ.get("MESH_STORM_S", "20"))
EVERY_S = float(os.environ.get("MESH_STORM_EVERY_S", "1.5"))
POISON = max(1, TASKS // 2_000)
AGENTS = 4
HAND_OVER_S = 5.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    with (
        transitions.logged(monkeypatch),
        EmbeddedServer(tmp_path / "redis", port=0, debug_commands=True) as server,
    ):
        monkeypatch.setenv("REDIS_URL", server.url)
        yield server
    connection.reset()


def _quiet() -> bool:
    try:
        stats = bus.stats(TOPIC)
    except bus.BusError:
        return False
    return stats["backlog"] == 0 and not any(
        letter.payload["kind"] == "second" for letter in bus.list_dead(TOPIC, 10_000)
    )


@pytest.mark.timeout(900)
def test_nothing_is_lost_in_a_storm(server: EmbeddedServer, tmp_path: Path) -> None:
    seed = chronicle.seed()
    ledger = tmp_path / "executions"
    bus.set_limits(TOPIC, results_keep=1_000_000)
    web = Web(tmp_path / "var", server.url)
    fleet = Fleet(AGENTS, ledger)
    nemesis = Nemesis(server, fleet, web, random.Random(seed))
    senders = Senders(web, TASKS, POISON, seed, LASTING_S)
    operators = Operators(senders)
    try:
        senders.start()
        operators.start()
        while senders.busy():
            time.sleep(EVERY_S)
            nemesis.strike()
        nemesis.close()
        senders.join()
        wait_until(_quiet, 120, "all ended")
    finally:
        nemesis.close()
        senders.join()
        operators.close()
        fleet.close()
        web.close()

    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        report = judge(client, senders, operators, fleet, nemesis, ledger, seed)
        strange = transitions.faults(client, TOPIC)
    report.tell("S5 storm")
    assert report.lost == report.double == report.broken == [], report
    assert report.repaired == 0, report
    assert strange == [], "transitions that are no edge of the state diagram"
    assert report.tasks > 0.99 * TASKS, "most senders were never answered"
    assert report.refused > report.tasks, "hardly anything was sent twice"
    assert report.slowest_s < HAND_OVER_S, report
