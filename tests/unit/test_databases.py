"""Connections to Django's databases, on threads that serve no requests."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection, connections
from pytest_django import Settings

from bus import databases

pytestmark = pytest.mark.django_db


@pytest.fixture
def thread() -> Iterator[ThreadPoolExecutor]:
    """A thread with connections of its own, which it closes as it ends."""
    with ThreadPoolExecutor(1) as one:
        yield one
        one.submit(databases.close).result()
        assert one.submit(is_open).result() is False


def is_open() -> bool:
    return connection.connection is not None


def ask() -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def test_who_opened_nothing_is_not_looked_at(
    thread: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks, look = [], connections.all

    def counted(initialized_only: bool) -> list[Any]:
        looks.append(threading.get_ident())
        return look(initialized_only=initialized_only)

    monkeypatch.setattr(connections, "all", counted)

    thread.submit(databases.tidy).result()
    assert looks == []
    thread.submit(ask).result()
    thread.submit(databases.tidy).result()
    assert len(looks) == 1


def test_a_connection_past_its_age_is_closed_and_its_thread_forgotten(
    thread: ThreadPoolExecutor,
) -> None:
    assert connections.settings["default"]["CONN_MAX_AGE"] == 0
    thread.submit(ask).result()
    ident = thread.submit(threading.get_ident).result()
    assert ident in databases.opened

    thread.submit(databases.tidy).result()

    assert thread.submit(is_open).result() is False
    assert ident not in databases.opened


def test_no_connection_is_closed_in_a_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask()  # in the transaction of this test
    monkeypatch.setattr(connections["default"], "close_at", 0.0)

    databases.drop_old()

    ask()


def test_queries_that_django_notes_are_forgotten(
    thread: ThreadPoolExecutor, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.DEBUG = True
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", None)

    def noted() -> int:
        return len(connection.queries_log)

    thread.submit(ask).result()
    assert thread.submit(noted).result() > 0
    thread.submit(databases.tidy).result()

    assert thread.submit(noted).result() == 0
    assert thread.submit(is_open).result()


def test_a_connection_that_cannot_be_tidied_ends_nobody(
    thread: ThreadPoolExecutor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fails(wrapper: Any) -> None:
        raise RuntimeError("no")

    thread.submit(ask).result()
    kind = type(connections["default"])
    monkeypatch.setattr(kind, "close_if_unusable_or_obsolete", fails)

    thread.submit(databases.tidy).result()

    assert "database default could not be tidied" in caplog.text
