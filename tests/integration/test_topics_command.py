"""`manage.py topics`: what it says of names it does not know."""

from __future__ import annotations

import io

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db  # what it does is on the audit trail


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
