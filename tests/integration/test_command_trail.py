"""What commands do is on the audit trail, under the name of the shell's user."""

from __future__ import annotations

import getpass
import io
import logging
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import ProgrammingError

import bus
from bus import errors, models, purges
from tests.integration.test_dashboard_pages import dead_task

pytestmark = pytest.mark.django_db


def run(*args: str) -> None:
    call_command(*args, stdout=io.StringIO(), stderr=io.StringIO())


def trail() -> list[tuple[str, str, str]]:
    rows = models.AuditEntry.objects.order_by("id")
    return [(row.verb, row.topic, row.target) for row in rows]


def last() -> models.AuditEntry:
    return models.AuditEntry.objects.latest("id")


def test_pauses_and_limits_are_told_with_what_was_before(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    run("topics", test_topic, "--pause")
    run("topics", test_topic, "--resume")
    run("topics", test_topic, "--limit", "dead_max=7")

    pause, resume, limit = models.AuditEntry.objects.order_by("id")
    assert pause.who == f"manage.py by {getpass.getuser()}"
    assert (pause.role, pause.door, pause.request_id) == ("admin", "command", "")
    assert (pause.verb, pause.before, pause.after) == (
        "pause",
        {"paused": False},
        {"paused": True},
    )
    assert (resume.verb, resume.after) == ("resume", {"paused": False})
    assert (limit.before, limit.after) == ({"dead_max": 100_000}, {"dead_max": 7})
    assert {row[1:] for row in trail()} == {(test_topic, test_topic)}


def test_a_pause_of_what_is_paused_is_not_told(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    for argument in ("--pause", "--pause", "--limit=dead_max=7", "--limit=dead_max=7"):
        run("topics", test_topic, argument)

    assert [verb for verb, *_ in trail()] == ["pause", "limit"]


def test_a_purge_and_a_deletion_are_told_with_their_counts(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    run("topics", test_topic, "--purge", "--yes")
    assert (last().verb, last().detail["what"]) == ("purge", "waiting")
    assert last().detail["cancelled"] == 1
    run("topics", test_topic, "--delete", "--yes")
    assert (last().verb, last().topic) == ("delete", test_topic)


def test_a_bulk_replay_is_told_with_each_change_of_its_course(test_topic: str) -> None:
    dead_task(test_topic, 1)

    run("replays", "new", "--topic", test_topic, "--rate", "0.1")
    job = last().target
    for verb in ("pause", "resume", "cancel"):
        run("replays", verb, job)

    verbs = [
        "bulk replay",
        *(f"{v} bulk replay" for v in ("pause", "resume", "cancel")),
    ]
    assert trail() == [(verb, test_topic, job) for verb in verbs]
    made = models.AuditEntry.objects.order_by("id")[0].detail
    assert (made["letters"], made["selection"]["topics"]) == (1, [test_topic])


def test_an_undo_is_told_with_its_topic_where_nobody_named_it(test_topic: str) -> None:
    task_id = dead_task(test_topic, 1)

    run("dead", "discard", task_id)
    run("dead", "undo", task_id)

    assert trail()[1] == ("undo", test_topic, task_id)


def test_looking_is_no_action(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    run("topics")
    run("topics", test_topic, "--audit")
    run("dead", "list")
    run("enqueue", test_topic, "1")

    assert trail() == []


def test_letters_are_told_one_by_one(test_topic: str) -> None:
    first, second = (dead_task(test_topic, n) for n in range(2))

    run("dead", "replay", first, "--payload", '{"n": 3}')
    run("dead", "discard", second, "--topic", test_topic)
    run("dead", "undo", second, "--topic", test_topic)
    with pytest.raises(CommandError):
        run("dead", "replay", first)

    assert trail() == [
        ("replay", test_topic, first),
        ("discard", test_topic, second),
        ("undo", test_topic, second),
    ]
    assert models.AuditEntry.objects.earliest("id").after == {"n": 3}


def test_all_letters_of_a_topic_are_one_entry(test_topic: str) -> None:
    for n in range(3):
        dead_task(test_topic, n)

    run("dead", "replay", "--all", "--topic", test_topic)

    assert trail() == [("replay", test_topic, "")]
    assert last().detail == {"all": True, "count": 3}


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_all_of_none_is_told_and_no_entry(test_topic: str, verb: str) -> None:
    bus.enqueue_task(test_topic, 1)
    out = io.StringIO()

    call_command("dead", verb, "--all", "--topic", test_topic, stdout=out)

    assert out.getvalue() == f"No dead letters in topic {test_topic}.\n"
    assert trail() == []


def test_what_broke_off_after_some_is_an_entry_of_those(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead_task(test_topic, 1)
    dead_task(test_topic, 2)
    discard = purges.put_away

    def once(topic: str, task_id: str) -> object:
        if bus.stats(topic)["discarded"]:
            raise errors.BusUnavailable("gone")
        return discard(topic, task_id)

    monkeypatch.setattr(purges, "put_away", once)
    for _ in range(2):
        with pytest.raises(CommandError, match="gone"):
            run("dead", "discard", "--all", "--topic", test_topic)

    assert trail() == [("discard", test_topic, "")]
    assert last().detail == {"all": True, "count": 1}


def test_without_a_database_the_command_does_its_work_and_the_log_has_the_entry(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus.enqueue_task(test_topic, 1)

    def no_table(*_: Any, **__: Any) -> None:
        raise ProgrammingError('relation "bus_auditentry" does not exist')

    monkeypatch.setattr("bus.models.AuditEntry.save", no_table)
    with caplog.at_level(logging.ERROR, "bus.audit"):
        run("topics", test_topic, "--pause")

    assert bus.stats(test_topic)["paused"] is True
    assert '"verb": "pause"' in caplog.text
    assert f"manage.py by {getpass.getuser()}" in caplog.text
