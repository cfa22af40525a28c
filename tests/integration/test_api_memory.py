"""Strangers cannot make the web process hold more bodies than it has room for."""

from __future__ import annotations

import socket

import pytest
from pytest_django import Settings

from bus import accounts
from bus.api import bounds
from tests.support.gateway import GatewayClient
from tests.support.site import LiveSite
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]
HEAD = (
    b"POST /api/v1/mesh/enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: application/json\r\nContent-Length: 100000\r\n\r\n"
)


def test_bodies_on_their_way_are_bounded_together(
    live_site: LiveSite, settings: Settings
) -> None:
    settings.MESH_BODIES_MAX_BYTES = 100_000
    host, _, port = live_site.url.removeprefix("http://").partition(":")
    caller = GatewayClient(live_site.url, accounts.create_token("c", "operator")[1])
    task = {"topic": "room", "task": "x" * 50_000}

    with socket.create_connection((host, int(port))) as stranger:
        stranger.sendall(HEAD + b" " * 90_000)
        wait_until(lambda: bounds._Share._all_bytes == 90_000)

        refused = caller.http.post("/api/v1/mesh/enqueue", json=task)
        small = caller.http.post("/api/v1/mesh/enqueue", json={**task, "task": 1})

    wait_until(lambda: bounds._Share._all_bytes == 0)
    accepted = caller.http.post("/api/v1/mesh/enqueue", json=task)
    caller.http.close()
    assert (refused.status_code, refused.json()["code"]) == (503, "overloaded")
    assert refused.headers["Retry-After"] == "1"
    assert small.status_code == 201
    assert accepted.status_code == 201
    wait_until(lambda: bounds._Share._all_bytes == 0)
