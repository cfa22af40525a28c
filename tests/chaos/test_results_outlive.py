"""A primary that is lost for good with results on it that nobody else has."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pytest_django import Settings

import bus
from bus import connection, levels
from bus.agent import Agent
from bus.server import EmbeddedServer
from tests.support import agents, replicas
from tests.support.resp_proxy import RespProxy
from tests.support.waiting import wait_until

pytestmark = pytest.mark.chaos

TASKS = 20


def kept(agent: Agent) -> int:
    return sum(len(lane.reports._receipts) for lane in agent._lanes)


def done(topic: str) -> int:
    return int(bus.stats(topic)["done"])


@pytest.mark.parametrize("level", ["replicated:1", ""])
def test_results_outlive_the_server_that_took_them(
    own_server: EmbeddedServer,
    tmp_path: Path,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    level: str,
) -> None:
    """The promoted replica never heard of them: the agent tells it, or runs again."""
    settings.MESH_DURABILITY = level
    gate, ran = threading.Event(), []

    async def run(payload: Any, task: Any) -> Any:
        ran.append(payload)
        while not gate.is_set():
            await asyncio.sleep(0.01)
        return payload

    with (
        replicas.following(own_server, tmp_path / "replica") as replica,
        RespProxy(own_server.url) as proxy,
    ):
        replica.take_password(urlsplit(own_server.url).password or "")
        connection.reset()
        monkeypatch.setenv("REDIS_URL", proxy.url)
        levels.forget()
        with agents.running("demo", run, concurrency=TASKS) as agent:
            bus.enqueue_many("demo", range(TASKS), durability="replicated:1")
            wait_until(lambda: len(ran) == TASKS)
            # Everything up to here, the claims too, is on the replica.
            bus.enqueue_task("marker", 1, durability="replicated:1")
            replica.cut_off()
            settings.MESH_DURABILITY_TIMEOUT_S = 0.2
            gate.set()
            wait_until(lambda: done("demo") == TASKS)
            wait_until(lambda: kept(agent) == (TASKS if level else 0))

            proxy.lead_to(replica.server.port)
            assert own_server.pid is not None
            os.kill(own_server.pid, signal.SIGKILL)
            replica.promote()
            wait_until(lambda: done("demo") == TASKS, 20)

            assert len(ran) == (TASKS if level else 2 * TASKS)
            assert bus.stats("demo")["ledger"]["drift"] == 0
            agent.stop()
