"""Whom a token stands for, and how soon one that ended is nobody's."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth import get_user_model
from django.db import InternalError, OperationalError, connection
from django.utils import timezone
from pytest_django import DjangoCaptureOnCommitCallbacks

from bus import accounts, models, roles
from bus.conf import conf

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What accounts take for the time; add to its only value to let it pass."""
    now = [1000.0]
    monkeypatch.setattr("bus.accounts.time.monotonic", lambda: now[0])
    yield now
    accounts._known.clear()  # their times are those of this clock


def elsewhere(sql: str, *args: Any) -> None:
    """Change the database as another process does: nobody here is told."""
    with connection.cursor() as cursor:
        cursor.execute(sql, args)


def test_it_has_the_role_and_topics_of_the_token_not_of_its_owner() -> None:
    owner = accounts.ensure_user("boss", roles.ADMIN, "a long password")
    token, text = accounts.create_token("ci", "viewer", ("a:",), owner=owner)

    found = accounts.principal_of(text)

    key = f"token:{token.digest[:32]}"
    assert found == roles.Principal(key, "ci", "viewer", ("a:",))
    assert accounts.principal_of(text.encode()) == found


@pytest.mark.parametrize(
    "text", ["", "nonsense", "ä" * 64, b"\xff\xfe", "x" * 100_000, b"\x00", "a b"]
)
def test_what_is_no_token_is_nobody(text: str | bytes) -> None:
    assert accounts.principal_of(text) is None
    assert accounts.remembered(text) is None


def test_a_look_is_remembered_for_two_seconds(
    clock: list[float], django_assert_num_queries: Any
) -> None:
    _, text = accounts.create_token("ci", "viewer")
    first = accounts.principal_of(text)

    with django_assert_num_queries(0):
        clock[0] += accounts.BELIEVED_S - 0.01
        assert accounts.principal_of(text) == first == accounts.remembered(text)
    clock[0] += 0.02
    assert accounts.remembered(text) is None
    with django_assert_num_queries(1):
        assert accounts.principal_of(text) == first


def test_a_token_revoked_here_ends_at_once() -> None:
    token, text = accounts.create_token("ci", "viewer")
    assert accounts.principal_of(text)

    accounts.revoke_token(token.token_key)

    assert accounts.remembered(text) is None
    assert accounts.principal_of(text) is None


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM bus_token",
        "UPDATE bus_token SET expiry = '2020-01-01 00:00:00'",
        "UPDATE auth_user SET is_active = false",
    ],
)
def test_a_token_ended_elsewhere_ends_within_five_seconds(
    clock: list[float], sql: str
) -> None:
    _, text = accounts.create_token("ci", "viewer")
    assert accounts.principal_of(text)

    elsewhere(sql)

    clock[0] += accounts.BELIEVED_S
    assert accounts.principal_of(text) is None
    # A socket asks this often, and may meet an answer that has just been remembered.
    assert accounts.BELIEVED_S + conf.FEED_RECHECK_S < 5


def test_a_role_changed_elsewhere_counts_as_soon(clock: list[float]) -> None:
    _, text = accounts.create_token("ci", "operator")
    assert accounts.principal_of(text)

    elsewhere("UPDATE bus_token SET role = 'viewer'")

    clock[0] += accounts.BELIEVED_S
    found = accounts.principal_of(text)
    assert found is not None and found.role == "viewer"


def test_a_look_is_not_believed_beyond_the_end_of_the_token(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounts, "BELIEVED_S", 600.0)
    token, text = accounts.create_token("ci", "viewer")
    token.expiry = timezone.now() + timedelta(seconds=60)
    token.save()
    assert accounts.principal_of(text)

    clock[0] += 60.0

    assert accounts.remembered(text) is None


def test_a_look_before_the_time_is_over_is_believed_from_then_on(
    clock: list[float],
) -> None:
    _, text = accounts.create_token("ci", "operator")
    assert accounts.principal_of(text)
    elsewhere("UPDATE bus_token SET role = 'viewer'")

    clock[0] += accounts.BELIEVED_S - 0.5
    accounts.principal_of(text, anew=True)
    clock[0] += accounts.BELIEVED_S - 0.5

    found, left_s = accounts.believed(text)
    assert found is not None and found.role == "viewer"
    assert left_s == pytest.approx(0.5)
    elsewhere("DELETE FROM bus_token")
    assert accounts.principal_of(text, anew=True) is None
    assert accounts.remembered(text) is None


def test_a_change_made_while_a_look_is_taken_anew_is_not_undone_by_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, text = accounts.create_token("ci", "operator")
    assert accounts.principal_of(text)
    of_token = accounts.of_token

    def slowly(row: models.Token) -> roles.Principal:
        accounts.revoke_token(token.token_key)  # by somebody else, who is quicker
        return of_token(row)

    monkeypatch.setattr(accounts, "of_token", slowly)
    accounts.principal_of(text, anew=True)

    assert accounts.remembered(text) is None


def test_a_token_revoked_while_somebody_looks_is_not_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    token, text = accounts.create_token("ci", "operator")
    of_token = accounts.of_token

    def slowly(row: models.Token) -> roles.Principal:
        accounts.revoke_token(token.token_key)
        return of_token(row)

    monkeypatch.setattr(accounts, "of_token", slowly)
    accounts.principal_of(text)

    assert accounts.remembered(text) is None


def test_what_others_saw_before_a_change_was_committed_is_forgotten_with_it(
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    token, text = accounts.create_token("ci", "operator")
    principal = accounts.principal_of(text)
    assert principal

    with django_capture_on_commit_callbacks(execute=True):
        accounts.revoke(token)
        accounts._known[accounts._mark(text)] = principal, 2_000.0  # by one of them
        assert accounts.remembered(text)

    assert accounts.remembered(text) is None


def test_a_wrong_token_is_not_remembered(django_assert_num_queries: Any) -> None:
    for _ in range(2):
        with django_assert_num_queries(1):
            assert accounts.principal_of("nonsense") is None


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.accounts._KNOWN_MOST", 3)

    for n in range(5):
        assert accounts.principal_of(accounts.create_token(f"{n}", "viewer")[1])

    assert len(accounts._known) <= 3


def test_a_token_that_is_remembered_outlives_a_pause_of_the_database(
    monkeypatch: pytest.MonkeyPatch, clock: list[float]
) -> None:
    _, text = accounts.create_token("ci", "viewer")
    first = accounts.principal_of(text)

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("refused")

    monkeypatch.setattr("django.db.models.QuerySet.first", away)
    assert accounts.principal_of(text) == first
    clock[0] += accounts.BELIEVED_S
    with pytest.raises(OperationalError):
        accounts.principal_of(text)


@pytest.mark.parametrize(
    "error",
    [
        OperationalError("database is locked"),
        # Of PostgreSQL, where it is a standby or short of space.
        InternalError("cannot execute UPDATE in a read-only transaction"),
    ],
    ids=["locked", "read-only"],
)
def test_a_last_use_that_cannot_be_written_refuses_nobody(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    token, text = accounts.create_token("ci", "viewer")

    def refused(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr("django.db.models.QuerySet.update", refused)

    assert accounts.principal_of(text)
    token.refresh_from_db()
    assert token.last_used is None


def test_the_twin_for_event_loops_answers_the_same() -> None:
    _, text = accounts.create_token("ci", "viewer")

    found = async_to_sync(accounts.aprincipal_of)(text)

    assert found == accounts.principal_of(text)
    assert async_to_sync(accounts.aprincipal_of)("nonsense") is None
    get_user_model().objects.update(is_active=False)
    models.Token.objects.update(name="other")
    assert async_to_sync(accounts.aprincipal_of)(text) == found  # remembered
