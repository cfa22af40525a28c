"""A topic that somebody took off the list is found again, whoever is there."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from bus import connection, errors, health, janitor, keys, scripts, topics
from tests.support import agents, work
from tests.support.waiting import wait_until


def take_off(client: redis.Redis, topic: str) -> None:
    assert client.srem(keys.TOPICS, topic) == 1
    scripts.forget_topics()


@pytest.fixture
def lost(redis_client: redis.Redis, test_topic: str) -> str:
    """A topic with a task, off the list: nobody serves it, nobody sends to it."""
    bus.enqueue_task(test_topic, 1)
    take_off(redis_client, test_topic)
    return test_topic


def told() -> list[health.Check]:
    return [check for check in health.unlisted() if check.word == "unlisted"]


# --- who still has to do with it


def test_a_sender_puts_it_there_within_seconds(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "_KNOWN_FOR_S", 0.05)
    bus.enqueue_task(test_topic, 1)
    redis_client.srem(keys.TOPICS, test_topic)

    def listed() -> bool:
        bus.enqueue_task(test_topic, 1)
        return bus.list_topics() == [test_topic]

    wait_until(listed, 5)


def test_a_sender_asks_no_more_often_than_every_five_seconds() -> None:
    assert scripts._KNOWN_FOR_S == 5.0


@pytest.mark.parametrize("how", ["a reader", "an agent"])
def test_whoever_begins_to_serve_it_puts_it_there(lost: str, how: str) -> None:
    if how == "a reader":
        bus.read_group(lost, "workers", "me", block_ms=0)
        assert bus.list_topics() == [lost]
        return
    with agents.running(lost, work.echo):
        wait_until(lambda: bus.list_topics() == [lost], 10)


# --- nobody has


def test_an_agent_of_another_topic_finds_it(
    lost: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its janitor looks through all keys, a stretch at a time."""
    monkeypatch.setattr(janitor, "_TICK_S", 0.05)
    monkeypatch.setattr(topics, "_KEYS_A_LOOK", 5)
    other = f"{lost}:other"

    with agents.running(other, work.echo):
        wait_until(lambda: bus.list_topics() == [lost, other], 10)

    assert bus.stats(lost)["waiting"] == 1


def test_a_walk_that_may_not_look_is_told_and_harms_nothing(
    lost: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    no_scan: None,
) -> None:
    monkeypatch.setattr(janitor, "_TICK_S", 0.05)

    with agents.running(f"{lost}:other", work.echo):
        wait_until(lambda: "scan" in caplog.text, 10)
        task_id = bus.enqueue_task(f"{lost}:other", 1, delay_s=0.1)
        done = bus.wait_result(task_id, f"{lost}:other", timeout_s=10)

    assert done.result == 1
    assert len([r for r in caplog.records if "scan" in r.getMessage()]) == 1


@pytest.fixture
def no_scan(redis_client: redis.Redis) -> Iterator[None]:
    redis_client.execute_command("ACL", "SETUSER", "default", "-scan")
    yield
    connection.reader().connection_pool.reset()
    redis_client.execute_command("ACL", "SETUSER", "default", "+@all")


def test_it_comes_back_when_it_is_named(lost: str) -> None:
    out = io.StringIO()

    call_command("topics", lost, stdout=out)

    assert lost in out.getvalue()
    assert bus.list_topics() == [lost]
    bus.pause(lost)
    assert bus.stats(lost)["paused"] is True


def test_doctor_names_it_and_the_command_that_brings_it_back(lost: str) -> None:
    [check] = told()

    assert (check.status, check.topic) == ("bad", lost)
    assert check.hint.startswith(f"manage.py topics {lost}")
    call_command("topics", lost, stdout=io.StringIO())
    assert told() == []


@pytest.mark.django_db
def test_the_command_doctor_looks_for_it(lost: str) -> None:
    out = io.StringIO()

    with pytest.raises(CommandError, match=lost):
        call_command("doctor", "--json", stdout=out)

    assert "it is not on the list of topics" in out.getvalue()


def test_a_doctor_that_may_not_look_says_so(lost: str, no_scan: None) -> None:
    [check] = health.unlisted()

    assert (check.status, check.word) == ("warn", "unseen")
    assert "+scan" in check.hint


def test_a_doctor_does_not_look_for_ever(
    lost: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.mset({keys.group_key(lost, str(n)): n for n in range(200)})
    monkeypatch.setattr(topics, "_KEYS_A_LOOK", 1)
    monkeypatch.setattr(health, "_STRETCHES_MOST", 1)

    *_, last = health.unlisted()

    assert (last.status, last.word) == ("warn", "unseen")


@pytest.mark.parametrize("witness", keys.WITNESSES)
def test_any_key_of_it_is_enough(
    redis_client: redis.Redis, test_topic: str, witness: str
) -> None:
    redis_client.set(keys.named(witness, test_topic), "whatever")

    assert [check.topic for check in told()] == [test_topic]
    assert topics.is_there(test_topic)


# --- what is none


@pytest.mark.parametrize(
    "key",
    [
        "mesh:{No}:tasks",
        "mesh:{agents}:tasks",
        "mesh:{}:tasks",
        "mesh:{a}b}:tasks",
        "mesh:{mail}:minutes",
        "mesh:{mail}:tasks:more",
        "stream:dead:{mail}:more",
        "app:mesh:{mail}:tasks",
        "mesh:agents:{agents}",
        "mesh:\udcff{mail}:tasks",
    ],
)
def test_keys_of_others_are_no_topics(key: str) -> None:
    assert keys.topic_of(key) is None


def test_keys_that_are_no_text_are_passed_over(
    lost: str, redis_client: redis.Redis
) -> None:
    odd = b"mesh:{\xff\xfe}:tasks"
    redis_client.set(odd, 1)

    found = [check.topic for check in told()]

    assert found == [lost]
    assert redis_client.delete(odd) == 1


def test_a_deleted_topic_does_not_come_back(lost: str) -> None:
    bus.delete_topic(lost)

    assert told() == []
    with pytest.raises(errors.TopicNotFound):
        topics.check_known(lost)
    assert bus.list_topics() == []


def test_a_topic_deleted_while_somebody_looks_is_no_find(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys were seen, then it goes off the list: they are asked for once more."""
    bus.enqueue_task(test_topic, 1)
    real = keys.topic_of
    seen = []

    def topic_of(key: str) -> str | None:
        topic = real(key)
        if topic and not seen:
            seen.append(topic)
            bus.delete_topic(topic)
        return topic

    monkeypatch.setattr(keys, "topic_of", topic_of)

    assert told() == []
    assert seen == [test_topic]
