"""A web server alone does the shared duties: agents over HTTP need no other agent."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytest_django import Settings

import bus
from bus import leases
from bus.home.pulse import Pulse
from bus.server import EmbeddedServer
from tests.support.sites import Folder
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def alone(test_topic: str, redis_url: str, tmp_path: Path) -> Iterator[str]:
    """A topic on a mesh of one web process and no agent of the runtime."""
    folder = Folder(tmp_path, redis_url)
    with folder.sites(1):
        yield test_topic


def test_what_is_due_and_what_was_lost_comes_back(
    alone: str, settings: Settings
) -> None:
    settings.MESH_LEASE_S = 2
    later = bus.enqueue_task(alone, "later", delay_s=0.5)
    leases.register("over-http", "t", 60, {}, 2)
    wait_until(lambda: bus.get_task(later, alone).state == "waiting", 20, "it is due")

    taken = leases.claim(alone, "over-http", 1).lent
    assert len(taken) == 1

    wait_until(lambda: bus.stats(alone)["lost"] == 1, 30, "its lease ended")
    assert bus.get_task(later, alone).state == "waiting"


@pytest.fixture
def pulse(own_server: EmbeddedServer, settings: Settings) -> Iterator[Pulse]:
    settings.MESH_BEAT_S, settings.MESH_SOCKET_TIMEOUT_S = 0.05, 0.3
    made = Pulse()
    made.start()
    yield made
    made.close()
    made.join(5)


def test_a_server_that_was_away_makes_it_unsure(
    pulse: Pulse, own_server: EmbeddedServer, settings: Settings
) -> None:
    settings.MESH_JUDGE_AFTER_S = 0.3
    wait_until(pulse.confirmed, 15, "it has lasted")
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        wait_until(lambda: pulse.steady_s == 0.0, 15, "it hangs")
        assert not pulse.confirmed()
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    back = time.monotonic()

    wait_until(pulse.confirmed, 15, "it lasts again")

    assert time.monotonic() - back >= 0.3
