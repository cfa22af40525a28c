"""Results in the hand of an agent until they are as durable as the mesh promises."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

import bus
from bus import levels
from bus.agent import Agent
from bus.runtime import receipts
from bus.server import EmbeddedServer
from tests.support import agents, replicas, work
from tests.support.replicas import Replica
from tests.support.waiting import wait_until


@pytest.fixture
def pair(
    own_server: EmbeddedServer, tmp_path: Path, settings: Settings
) -> Iterator[tuple[EmbeddedServer, Replica]]:
    """A primary and its replica."""
    settings.MESH_DURABILITY_TIMEOUT_S = 0.2
    levels.forget()
    with replicas.following(own_server, tmp_path / "replica") as replica:
        yield own_server, replica
    levels.forget()


def kept(agent: Agent) -> int:
    return sum(len(lane.reports._receipts) for lane in agent._lanes)


def done(topic: str) -> int:
    return int(bus.stats(topic)["done"])


def test_a_missing_replica_does_not_stop_the_work(
    pair: tuple[EmbeddedServer, Replica], settings: Settings
) -> None:
    """Results are given at once, and kept until they are safe."""
    _, replica = pair
    settings.MESH_DURABILITY = "replicated:1"
    with agents.running("demo", work.echo) as agent:
        with replica.stopped():
            bus.enqueue_many("demo", range(1_500), durability="aof")
            wait_until(lambda: done("demo") == 1_500, 20)
            wait_until(lambda: kept(agent) == 1_500)
        wait_until(lambda: kept(agent) == 0)

    assert replica.client.hget("mesh:{demo}:counters", "done") == "1500"


def test_one_result_that_is_kept_is_told_of_as_one(
    pair: tuple[EmbeddedServer, Replica],
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _, replica = pair
    settings.MESH_DURABILITY = "replicated:1"
    with agents.running("demo", work.echo):
        with replica.stopped():
            bus.enqueue_task("demo", 1, durability="aof")
            wait_until(lambda: "not known" in caplog.text, 20)
        told = "demo: 1 result is not known to be replicated:1: "

    assert told in caplog.text


def test_without_the_setting_nothing_is_kept(own_server: EmbeddedServer) -> None:
    with agents.running("demo", work.echo) as agent:
        bus.enqueue_many("demo", range(200))
        wait_until(lambda: done("demo") == 200)

        assert kept(agent) == 0
    assert own_server.alive()
    assert bus.get_redis().hget("mesh:{demo}:counters", "marks") is None


def test_the_oldest_are_let_go_beyond_the_bound(
    pair: tuple[EmbeddedServer, Replica],
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, replica = pair
    settings.MESH_DURABILITY = "replicated:1"
    monkeypatch.setattr(receipts, "KEPT_MOST", 100)
    with agents.running("demo", work.echo) as agent:
        with replica.stopped():
            bus.enqueue_many("demo", range(300), durability="aof")
            wait_until(lambda: done("demo") == 300, 20)
            wait_until(lambda: kept(agent) == 100)
        wait_until(lambda: kept(agent) == 0)
