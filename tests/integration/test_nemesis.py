"""What fails on demand fails for nobody else, and is whole again when it is healed."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

import pytest
import redis

import bus
from tests.support.nemesis import FailureSimulator


def test_a_server_that_is_away_leaves_its_port_to_nobody(
    test_topic: str, failure_simulator: FailureSimulator
) -> None:
    failure_simulator.unreachable()

    port = urlsplit(os.environ["REDIS_URL"]).port
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))
    with pytest.raises(redis.ConnectionError, match="refused"):
        bus.get_redis().ping()


def test_healing_undoes_the_failure_alone(
    test_topic: str,
    redis_url: str,
    failure_simulator: FailureSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OF_THE_TEST", "kept")
    failure_simulator.unreachable()
    failure_simulator.intermittent(1.0)

    failure_simulator.heal()

    assert os.environ["OF_THE_TEST"] == "kept"
    assert os.environ["REDIS_URL"] == redis_url
    assert bus.stats(test_topic)["backlog"] == 0
