"""Handlers that use Django's databases, attempt after attempt on the same threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.db import connection, connections
from django.db.backends.sqlite3.base import DatabaseWrapper

import bus
from tests.support import agents
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.django_db

Handler = Callable[[Any, Any], Any]


def on_a_thread(handler: Handler) -> Handler:
    return handler


def as_async_calls(handler: Handler) -> Handler:
    async def same(payload: Any, task: Any) -> Any:
        return await sync_to_async(handler)(payload, task)

    return same


each_kind = pytest.mark.parametrize("made", [on_a_thread, as_async_calls])


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Connections are kept, and tell whether they work, as those of a server do."""

    def is_usable(wrapper: DatabaseWrapper) -> bool:
        try:
            wrapper.connection.execute("SELECT 1")
        except wrapper.Database.Error:
            return False
        return True

    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)
    monkeypatch.setattr(DatabaseWrapper, "is_usable", is_usable)
    yield
    SyncToAsync.single_thread_executor.submit(connections.close_all).result()


def ask(payload: Any, task: Any) -> Any:
    """What the database says; `break` closes its connection behind Django's back."""
    connection.ensure_connection()
    if payload == "break":
        connection.connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]


def ended(topic: str, payload: str) -> str:
    """The state in which a task like that ends."""
    task_id = bus.enqueue_task(topic, payload)
    return bus.wait_result(task_id, topic, timeout_s=10 * PATIENCE).state


@each_kind
def test_a_connection_that_broke_fails_no_task_after(
    test_topic: str, kept: None, made: Callable[[Handler], Handler]
) -> None:
    with agents.running(test_topic, made(ask), concurrency=1, max_attempts=1):
        states = [ended(test_topic, payload) for payload in ("ask", "break", "ask")]

    assert states == ["done", "dead", "done"]


@each_kind
def test_a_connection_past_its_age_is_closed_after_its_run(
    test_topic: str, made: Callable[[Handler], Handler]
) -> None:
    used: list[Any] = []

    def handler(payload: Any, task: Any) -> Any:
        used.append(connections["default"])
        return ask(payload, task)

    with agents.running(test_topic, made(handler), concurrency=1):
        assert ended(test_topic, "ask") == "done"
        wait_until(lambda: used[0].connection is None, 5, "it is closed")


@each_kind
def test_a_connection_that_grew_old_idle_is_not_used_again(
    test_topic: str, kept: None, made: Callable[[Handler], Handler]
) -> None:
    used: list[Any] = []

    def handler(payload: Any, task: Any) -> Any:
        value = ask(payload, task)
        used.append((connections["default"], connection.connection))
        return value

    with agents.running(test_topic, made(handler), concurrency=1):
        assert ended(test_topic, "ask") == "done"
        used[0][0].close_at = time.monotonic()
        assert ended(test_topic, "ask") == "done"

    assert used[0][1] is not used[1][1]


def test_a_thread_that_ends_closes_what_it_kept(test_topic: str, kept: None) -> None:
    used: list[Any] = []

    def handler(payload: Any, task: Any) -> Any:
        used.append(connections["default"])
        return ask(payload, task)

    with agents.running(test_topic, handler, concurrency=1):
        assert ended(test_topic, "ask") == "done"
        assert used[0].connection is not None

    wait_until(lambda: used[0].connection is None, 5, "it is closed")


class Reader:
    """An async handler of which one attempt reads rows while others come and go."""

    def __init__(self) -> None:
        self.reads, self.go_on = threading.Event(), threading.Event()

    async def handle(self, payload: Any, task: Any) -> Any:
        if payload != "read":
            return await sync_to_async(ask)(payload, task)
        cursor, first = await sync_to_async(self._begin)()
        self.reads.set()
        while not self.go_on.is_set():
            await asyncio.sleep(0.01)
        return [first, *await sync_to_async(cursor.fetchall)()]

    def _begin(self) -> tuple[Any, Any]:
        cursor = connection.cursor()
        cursor.execute("SELECT 1 UNION SELECT 2")
        return cursor, cursor.fetchone()


def test_no_run_closes_the_connection_of_another_that_reads(test_topic: str) -> None:
    """Async calls of all runs share it, whatever its age."""
    reader = Reader()

    with agents.running(test_topic, reader.handle, concurrency=2, max_attempts=1):
        long = bus.enqueue_task(test_topic, "read")
        assert reader.reads.wait(10 * PATIENCE)
        assert ended(test_topic, "ask") == "done"
        reader.go_on.set()
        task = bus.wait_result(long, test_topic, timeout_s=10 * PATIENCE)

    assert task.result == [[1], [2]]


def test_one_that_broke_is_dropped_though_another_run_goes_on(
    test_topic: str, kept: None
) -> None:
    reader = Reader()

    with agents.running(test_topic, reader.handle, concurrency=2, max_attempts=1):
        bus.enqueue_task(test_topic, "read")
        assert reader.reads.wait(10 * PATIENCE)
        states = [ended(test_topic, payload) for payload in ("break", "ask")]
        reader.go_on.set()

    assert states == ["dead", "done"]
