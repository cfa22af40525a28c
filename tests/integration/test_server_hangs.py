"""A server that takes connections and never answers: told within one timeout."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import bus
from bus import health, ratelimit
from bus.api.views import health as health_view
from bus.server import EmbeddedServer
from dashboard import queries
from tests.support.api import api, problem
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in
from tests.support.stalls import Stalls

pytestmark = pytest.mark.django_db

TIMEOUT_S = 1.0
# One timeout and the work around it; another try would take a second timeout.
SOON_S = 2 * TIMEOUT_S
PAGES = ["/", "/topics/busy/", "/tasks/{id}/?topic=busy", "/dead/"]


@pytest.fixture
def task_id(
    own_server: EmbeddedServer, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A task of topic `busy`; a connection to the server is open, then it hangs."""
    settings.MESH_SOCKET_TIMEOUT_S = TIMEOUT_S
    monkeypatch.setattr(health, "ANSWER_S", TIMEOUT_S)
    monkeypatch.setattr(ratelimit, "_RETRY_S", TIMEOUT_S)
    task_id = bus.enqueue_task("busy", 1)
    bus.stats("busy")
    signed_in("viewer").get("/")  # the first page of a process loads all of them
    queries.forget_checks()
    health_view.forget()
    assert own_server.pid is not None
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        yield task_id
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
        queries.forget_checks()
        health_view.forget()


def timed(call: Any) -> tuple[Any, float]:
    """What it gives, and how long it took but for stalls of this machine."""
    began = time.monotonic()
    with Stalls() as stalls:
        given = call()
    return given, time.monotonic() - began - stalls.total_s


def test_a_page_waits_for_one_timeout_only(task_id: str) -> None:
    viewer = signed_in("viewer")

    for path in PAGES:
        page, took_s = timed(lambda path=path: viewer.get(path.format(id=task_id)))

        assert page.status_code == 503
        assert "Redis does not answer" in looked_at(page).text
        assert took_s < SOON_S, path


def test_health_is_down_without_ledgers_and_calls_end_soon(task_id: str) -> None:
    client = api("viewer")

    told, took_s = timed(lambda: client.get("health"))
    read, read_s = timed(lambda: client.get("topics"))

    assert (told.status_code, told.json()["status"]) == (503, "down")
    [down] = [row for row in told.json()["checks"] if row["name"] == "redis"]
    assert down["why"] == "unreachable"
    assert told.json()["ledgers"] == []
    problem(read, 503, "bus_unavailable")
    assert max(took_s, read_s) < SOON_S


def test_health_has_no_ledgers_of_a_server_that_went_while_it_looked(
    own_server: EmbeddedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone() -> Any:
        raise bus.BusUnavailable("it went")

    bus.enqueue_task("busy", 1)
    health_view.forget()
    monkeypatch.setattr("bus.topics.all_stats", gone)

    told = api("viewer").get("health")
    health_view.forget()

    assert (told.status_code, told.json()["ledgers"]) == (503, [])
    assert {row["name"] for row in told.json()["checks"]} == {"python", "redis"}


def test_the_count_of_letters_on_every_page_does_not_wait_for_the_self_check(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)
    queries.forget_checks()
    begun, go_on = threading.Event(), threading.Event()

    def slow(_: Any) -> list[Any]:
        begun.set()
        go_on.wait(120)
        return []

    monkeypatch.setattr(queries.health, "checks", slow)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(queries.checks, [])
        assert begun.wait(60)
        try:
            assert pool.submit(queries.dead_letters).result(60) == 1
        finally:
            go_on.set()
    queries.forget_checks()
