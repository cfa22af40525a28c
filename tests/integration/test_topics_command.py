"""`manage.py topics`: what it says of names it does not know."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db  # what it does is on the audit trail


class Keyboard(io.StringIO):
    """Somebody who types, as far as commands ask."""

    def isatty(self) -> bool:
        return True


def topics(*args: str) -> str:
    """What the command writes."""
    out = io.StringIO()
    call_command("topics", *args, stdout=out)
    return out.getvalue()


@pytest.mark.parametrize("action", [[], ["--pause"], ["--resume"], ["--json"]])
def test_a_mistyped_name_is_neither_shown_as_empty_nor_made(
    test_topic: str, action: list[str]
) -> None:
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(CommandError, match=f"no topic 'mial'.*{test_topic}"):
        topics("mial", *action)

    assert bus.list_topics() == [test_topic]


def test_a_known_topic_is_paused_and_shown(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    said = topics(test_topic, "--pause")

    assert "paused" in said
    assert bus.stats(test_topic)["paused"] is True


def test_what_the_audit_met_is_shown_beside_an_even_ledger(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    assert "repaired" not in topics(test_topic)
    redis_client.delete(bus.task_stream(test_topic))

    topics(test_topic, "--audit")
    said = topics(test_topic)

    assert "balanced" in said and "1 repaired" in said


@pytest.mark.parametrize(
    ("tasks", "of"),
    [(1, "1 that waits and 0 dead letters"), (2, "2 that wait and 0 dead letters")],
)
def test_what_goes_is_counted_before_it_is_asked_for(
    test_topic: str, tasks: int, of: str
) -> None:
    bus.enqueue_many(test_topic, range(tasks))

    with pytest.raises(CommandError, match=f"delete {test_topic} with {of}, add --yes"):
        topics(test_topic, "--delete")

    assert bus.stats(test_topic)["waiting"] == tasks


def test_one_dead_letter_is_no_plural(test_topic: str) -> None:
    desk = Desk(test_topic)
    bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True)

    with pytest.raises(CommandError, match=f"purge {test_topic} of 1 dead letter, add"):
        topics(test_topic, "--purge", "dead")


def test_limits_may_be_set_before_the_first_task(test_topic: str) -> None:
    topics(test_topic, "--limit", "backlog_max=5")

    assert bus.stats(test_topic)["limits"]["backlog_max"] == 5


@pytest.mark.parametrize(
    "action",
    ["--pause", "--resume", "--audit", "--settle", "--delete", "--purge=waiting"],
)
def test_no_action_is_for_all_topics(test_topic: str, action: str) -> None:
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(CommandError, match="say which topic") as refusal:
        topics(action)

    assert refusal.value.returncode == 2
    assert bus.stats(test_topic)["waiting"] == 1


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("backlog_max=many", "backlog_max=many"),
        ("no_such=5", "no_such"),
        ("backlog_max=0", "backlog_max 0 is not 1 to"),
        ("backlog_max=1.5", "backlog_max 1.5 is not 1 to"),
    ],
)
def test_a_limit_that_is_none_changes_nothing(
    test_topic: str, limit: str, said: str
) -> None:
    before = bus.stats(test_topic)["limits"]

    with pytest.raises(CommandError, match=said) as refusal:
        topics(test_topic, "--limit", limit)

    assert refusal.value.returncode == 2
    assert bus.stats(test_topic)["limits"] == before


def test_a_limit_without_a_number_is_the_usual_one_again(test_topic: str) -> None:
    usual = bus.stats(test_topic)["limits"]["backlog_max"]
    topics(test_topic, "--limit", "backlog_max=5")

    topics(test_topic, "--limit", "backlog_max=")

    assert bus.stats(test_topic)["limits"]["backlog_max"] == usual


def test_where_there_is_no_topic_it_says_how_to_make_one(
    redis_client: redis.Redis,
) -> None:
    assert topics().startswith("No topic yet: `manage.py enqueue demo")
    assert topics("--json") == ""


def test_rows_as_json_are_what_stats_tells(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    [row] = [json.loads(line) for line in topics("--json").splitlines()]

    assert (row["topic"], row["waiting"]) == (test_topic, 1)
    assert row["ledger"]["drift"] == 0


@pytest.mark.parametrize(("typed", "left"), [("another", 1), ("", 1), (None, 0)])
def test_what_goes_for_good_goes_when_its_name_is_typed(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, typed: str | None, left: int
) -> None:
    bus.enqueue_task(test_topic, 1)
    keyboard = Keyboard(f"{test_topic if typed is None else typed}\n")
    monkeypatch.setattr(sys, "stdin", keyboard)

    if left:
        with pytest.raises(CommandError, match="nothing was done"):
            topics(test_topic, "--purge", "waiting")
    else:
        assert "is purged: 1 cancelled" in topics(test_topic, "--purge", "waiting")

    assert bus.stats(test_topic)["waiting"] == left


@pytest.mark.parametrize(
    ("stdin", "says"), [(None, "add --yes"), (Keyboard(""), "nothing was done")]
)
def test_where_nobody_can_answer_nothing_is_done(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, stdin: Any, says: str
) -> None:
    bus.enqueue_task(test_topic, 1)
    monkeypatch.setattr(sys, "stdin", stdin)

    with pytest.raises(CommandError, match=says):
        topics(test_topic, "--delete")

    assert bus.stats(test_topic)["waiting"] == 1
