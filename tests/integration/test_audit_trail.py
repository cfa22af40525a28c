"""The audit trail: who did what, from where; never in the way of what is done."""

from __future__ import annotations

import json
import logging
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.utils import timezone

import bus
from bus import audit, models, roles, whence
from tests.support.api import Api, a_dead_one, api, send

pytestmark = pytest.mark.django_db

BOSS = roles.Principal("user:1", "boss", roles.ADMIN)


def last() -> models.AuditEntry:
    entry = models.AuditEntry.objects.order_by("-pk").first()
    assert entry is not None
    return entry


def test_an_entry_says_who_what_when_and_from_where() -> None:
    before = timezone.now()

    with whence.through(whence.API, "req-1", "10.0.0.7"):
        audit.record(BOSS, "limit", topic="a", target="a", before=1, after=2, why="x")

    entry = last()
    assert (entry.who, entry.role, entry.verb) == ("boss", "admin", "limit")
    assert (entry.topic, entry.target) == ("a", "a")
    assert (entry.before, entry.after, entry.detail) == (1, 2, {"why": "x"})
    assert (entry.door, entry.request_id, entry.address) == ("api", "req-1", "10.0.0.7")
    assert before <= entry.at <= timezone.now()


def test_outside_of_a_door_nothing_is_said_of_it() -> None:
    audit.record(BOSS, "pause")

    assert (last().door, last().request_id, last().address) == ("", "", "")


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        ({"a": [1, None]}, {"a": [1, None]}),
        ("\x00", "\ufffd"),
        ("x" * 5000, {"cut": '"' + "x" * 1999, "bytes": 5002}),
        ("ä" * 2100, {"cut": '"' + "ä" * 1999, "bytes": 4202}),
    ],
)
def test_long_values_are_cut_and_nul_is_none(value: Any, kept: Any) -> None:
    audit.record(BOSS, "replay", after=value)

    last().refresh_from_db()
    assert last().after == kept


@pytest.mark.usefixtures("cleanup_test_data")
def test_a_database_that_is_away_refuses_no_action_and_the_log_has_the_entry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, test_topic: str
) -> None:
    client = api()
    task_id = send(client, test_topic, delay_s=60)

    def away(*_: Any, **__: Any) -> Any:
        raise OperationalError("connection refused")

    with monkeypatch.context() as patch, caplog.at_level(logging.ERROR, "bus.audit"):
        patch.setattr("bus.models.AuditEntry.save", away)
        answer = client.post(f"tasks/{task_id}/cancel", X_Request_ID="req-9")

    assert answer.status_code == 200
    assert bus.get_task(task_id, test_topic).state == "cancelled"
    (said,) = [each.getMessage() for each in caplog.records if each.name == "bus.audit"]
    assert said.startswith("not on the audit trail, because connection refused: ")
    told = json.loads(said.split(": ", 1)[1])
    assert (told["verb"], told["target"], told["who"]) == (
        "cancel",
        task_id,
        "test operator",
    )
    assert (told["request_id"], told["door"]) == ("req-9", "api")
    assert models.AuditEntry.objects.count() == 0


# --- from where


def test_the_id_of_a_request_comes_back_and_is_on_the_trail(test_topic: str) -> None:
    task_id = send(api(), test_topic, delay_s=60)

    answer = api().post(f"tasks/{task_id}/cancel", X_Request_ID="trace-42")

    assert answer["X-Request-ID"] == "trace-42"
    assert (last().request_id, last().address) == ("trace-42", "127.0.0.1")


@pytest.mark.parametrize("odd", ["", "a b", "x" * 65, 'a"b', "é", "a\tb"])
def test_an_odd_id_is_replaced_by_one_of_ours(redis_client: Any, odd: str) -> None:
    client = Api(None)
    client.headers = {"X-Request-ID": odd}

    told = client.get("health/live")["X-Request-ID"]

    assert told != odd and len(told) == 32 and told.isalnum()


def test_every_request_has_an_id_of_its_own(redis_client: Any) -> None:
    told = {Api(None).get("health/live")["X-Request-ID"] for _ in range(3)}

    assert len(told) == 3
    assert Api(None).get("nosuch")["X-Request-ID"]  # also where nothing is found


# --- before and after


@pytest.mark.usefixtures("cleanup_test_data")
def test_limits_are_told_as_they_were_and_as_they_are(test_topic: str) -> None:
    send(api(), test_topic)
    admin = api("admin")

    admin.raw(
        f"topics/{test_topic}", b'{"dead_max": 7, "timeout_s": 9}', method="PATCH"
    )
    first = last()
    admin.raw(f"topics/{test_topic}", b'{"dead_max": null}', method="PATCH")

    assert first.before == {"dead_max": 100_000, "timeout_s": 60}
    assert first.after == {"dead_max": 7, "timeout_s": 9}
    assert (last().verb, last().before, last().after) == (
        "limit",
        {"dead_max": 7},
        {"dead_max": 100_000},
    )


@pytest.mark.usefixtures("cleanup_test_data")
def test_a_pause_is_told_with_what_was_before(test_topic: str) -> None:
    send(api(), test_topic)

    for value, verb in ((b"true", "pause"), (b"false", "resume")):
        api().raw(f"topics/{test_topic}", b'{"paused": %s}' % value, method="PATCH")

        paused = verb == "pause"
        assert last().verb == verb
        assert (last().before, last().after) == (
            {"paused": not paused},
            {"paused": paused},
        )


@pytest.mark.usefixtures("cleanup_test_data")
def test_what_changes_nothing_is_not_told(test_topic: str) -> None:
    admin = api("admin")
    send(admin, test_topic)

    for _ in range(2):
        body = b'{"paused": true, "dead_max": 7}'
        answer = admin.raw(f"topics/{test_topic}", body, method="PATCH")
        assert answer.json()["paused"] is True

    told = models.AuditEntry.objects.values_list("verb", flat=True).order_by("id")
    assert [*told] == ["limit", "pause"]


@pytest.mark.usefixtures("cleanup_test_data")
def test_an_edited_replay_is_told_with_both_payloads(test_topic: str) -> None:
    client = api()
    edited, as_it_was = (a_dead_one(client, test_topic, {"n": n}) for n in (1, 2))

    client.post(f"dead/{edited}/replay", {"task": {"n": 3}})
    first = last()
    client.post(f"dead/{as_it_was}/replay")

    assert (first.before, first.after) == ({"n": 1}, {"n": 3})
    assert (last().before, last().after) == (None, None)


# --- how long


def test_what_is_older_than_it_is_kept_is_neither_shown_nor_kept(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_AUDIT_KEEP_DAYS = 10
    for verb, days in (("old", 11), ("young", 9)):
        audit.record(BOSS, verb)
        models.AuditEntry.objects.filter(verb=verb).update(
            at=timezone.now() - timedelta(days=days)
        )

    assert [each.verb for each in audit.find(BOSS, audit.Sought(), 10)] == ["young"]
    monkeypatch.setattr("bus.audit._pruned_at", None)
    audit.record(BOSS, "now")
    kept = models.AuditEntry.objects.order_by("pk").values_list("verb", flat=True)
    assert list(kept) == ["young", "now"]


def test_who_writes_prunes_once_an_hour_only(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_AUDIT_KEEP_DAYS = 1
    clock = [1000.0]
    monkeypatch.setattr("bus.audit.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("bus.audit._pruned_at", 1000.0)
    models.AuditEntry.objects.create(who="x", verb="old")
    models.AuditEntry.objects.update(at=timezone.now() - timedelta(days=2))

    audit.record(BOSS, "a")
    assert models.AuditEntry.objects.filter(verb="old").exists()
    clock[0] += 3601
    audit.record(BOSS, "b")
    assert not models.AuditEntry.objects.filter(verb="old").exists()


def test_zero_days_keep_all(settings: Any) -> None:
    settings.MESH_AUDIT_KEEP_DAYS = 0
    audit.record(BOSS, "old")
    models.AuditEntry.objects.update(at=timezone.now() - timedelta(days=9999))

    assert audit.prune() == 0
    assert [each.verb for each in audit.find(BOSS, audit.Sought(), 10)] == ["old"]


def test_pruning_goes_step_by_step(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_AUDIT_KEEP_DAYS = 1
    monkeypatch.setattr("bus.audit._STEP", 2)
    models.AuditEntry.objects.bulk_create(
        models.AuditEntry(who="x", verb="old") for _ in range(7)
    )
    models.AuditEntry.objects.update(at=timezone.now() - timedelta(days=2))

    assert audit.prune() == 7
    assert models.AuditEntry.objects.count() == 0
