"""A server that is away for 10 s, frozen or dead, robs no agent that lives."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from bus import connection, keys
from bus.server import EmbeddedServer
from tests.support import agents, chronicle, transitions
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

TOPIC = "outage"
AWAY_S = 10.0
AGENTS = 3
TASKS = 90
# Beyond the moment at which everybody would be judged dead, were it not for the rule
# that a judge must have been connected for a while himself.
SETTLE_S = 6.0


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """A server of its own for each test, which writes down all transitions."""
    with (
        transitions.logged(monkeypatch),
        EmbeddedServer(tmp_path / "redis", port=0) as server,
    ):
        monkeypatch.setenv("REDIS_URL", server.url)
        connection.reset()
        yield server
    connection.reset()


@contextmanager
def frozen(server: EmbeddedServer) -> Iterator[None]:
    """It answers nobody, and knows of no time that passes."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


@contextmanager
def dead(server: EmbeddedServer) -> Iterator[None]:
    """It is killed, and started again on its data."""
    assert server.pid is not None
    os.kill(server.pid, signal.SIGKILL)
    wait_until(lambda: not server.alive(), 5, "the server is dead")
    yield
    server.start()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("outage", [frozen, dead], ids=["frozen", "dead"])
def test_ten_seconds_without_a_server_rob_nobody(
    server: EmbeddedServer,
    tmp_path: Path,
    outage: Callable[[EmbeddedServer], Any],
) -> None:
    ledger = tmp_path / "executions"
    env = {"MESH_WRECK_LEDGER": str(ledger)}
    handler = "tests.support.wreck_work:run"
    payloads = [
        # Some end before the server goes, most while it is away, some after it is back.
        {"kind": "flaky" if n % 10 == 0 else "good", "ms": 140 * n, "n": n}
        for n in range(TASKS)
    ]
    client = redis.Redis.from_url(server.url, decode_responses=True)
    fleet = [
        agents.process(TOPIC, handler, "--agent-id", f"steady-{n}", env=env)
        for n in range(AGENTS)
    ]
    with fleet[0], fleet[1], fleet[2]:
        wait_until(lambda: len(bus.list_agents()) == AGENTS, 30, "all are there")
        ids = bus.enqueue_many(TOPIC, payloads)
        wait_until(lambda: bus.stats(TOPIC)["running"] > TASKS / 2, 10, "in hand")
        with outage(server):
            time.sleep(AWAY_S)
        back = time.monotonic()
        wait_until(lambda: _backlog() == 0, 60, "all have ended")
        wait_until(lambda: time.monotonic() > back + SETTLE_S, 10, "judges have judged")
        # Each of them, if not at the same moment: one may just be late with a beat.
        wait_until(lambda: len(bus.list_agents()) == AGENTS, 10, "all are there still")

    stats = bus.stats(TOPIC)
    rows: Any = client.xrange(bus.result_stream(TOPIC))
    results = Counter(fields["id"] for _, fields in rows)
    ran = Counter(line.split()[0] for line in ledger.read_text().splitlines())
    found, strange = wounds(client, TOPIC), transitions.faults(client, TOPIC)
    counters: Any = client.hgetall(keys.named("counters", TOPIC))
    client.close()
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)
    assert results == dict.fromkeys(ids, 1)
    wanted = {i: 2 if n % 10 == 0 else 1 for n, i in enumerate(ids)}
    assert ran == wanted  # nobody ran what another one had in hand
    assert (found, strange) == ([], [])
    chronicle.record(
        "S15 outages",
        faults={f"server {outage.__name__}": 1},
        tasks=TASKS,
        executions=ran.total(),
        hand_overs=stats["lost"],
        lost=0,
        double=0,
        repaired=int(counters.get("repaired", 0)),
    )


def _backlog() -> int:
    try:
        return int(bus.stats(TOPIC)["backlog"])
    except bus.BusError:
        return -1  # it has only just come back
