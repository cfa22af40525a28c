"""Calls by id find their topic themselves."""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Iterator

import pytest
import redis

import bus
from bus import errors, keys
from tests.support import agents, work

UNKNOWN = "0198c0de-0000-7000-8000-00000000abcd"
BY_ID = ("get_task", "wait_result", "cancel", "get_dead", "replay", "discard", "undo")


@pytest.fixture
def other_topic(test_topic: str, redis_client: redis.Redis) -> Iterator[str]:
    """A second topic, removed afterwards."""
    name = f"{test_topic}-2"
    yield name
    for key in redis_client.scan_iter(match=f"*{{{name}}}*"):
        redis_client.delete(key)
    redis_client.srem(keys.TOPICS, name)


def dead_task(topic: str, task_id: str | None = None) -> str:
    """The id of a task that lies dead in the topic."""
    task_id = bus.enqueue_task(topic, {"n": 1}, task_id=task_id)
    ((entry_id, _),) = bus.read_group(topic, "g", "c", block_ms=100)
    bus.move_to_dead(topic, entry_id, {"n": 1})
    return task_id


@pytest.mark.parametrize("name", BY_ID)
def test_every_call_by_id_takes_its_arguments_in_one_order(name: str) -> None:
    for function in (getattr(bus, name), getattr(bus, _twin(name))):
        first, second, *_ = inspect.signature(function).parameters.values()

        assert (first.name, second.name, second.default) == ("task_id", "topic", None)


def _twin(name: str) -> str:
    return "await_result" if name == "wait_result" else f"a{name}"


def test_a_task_is_found_waited_for_and_cancelled_without_its_topic(
    test_topic: str, other_topic: str
) -> None:
    bus.enqueue_task(other_topic, 1)
    task_id = bus.enqueue_task(test_topic, {"n": 1})

    assert bus.get_task(task_id).topic == test_topic
    assert bus.wait_result(task_id, timeout_s=0.01).state == "waiting"
    assert bus.cancel(task_id) == "cancelled"
    assert bus.wait_result(task_id, timeout_s=0.01).state == "cancelled"


def test_a_letter_is_found_replayed_discarded_and_restored_without_its_topic(
    test_topic: str, other_topic: str
) -> None:
    bus.enqueue_task(other_topic, 1)
    first, second = dead_task(test_topic), dead_task(test_topic)

    assert bus.get_dead(first).topic == test_topic
    assert bus.replay(first, payload={"n": 2}) == first
    assert bus.get_task(first).payload == {"n": 2}
    bus.discard(second)
    assert bus.get_task(second).state == "discarded"
    entry_id = bus.undo(second)
    assert bus.get_dead(second).entry_id == entry_id


def test_a_discarded_task_is_restored_when_its_row_is_long_gone(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id)
    redis_client.delete(keys.named("done", test_topic))

    bus.undo(task_id)

    assert bus.get_dead(task_id).id == task_id


@pytest.mark.parametrize("name", BY_ID)
def test_an_id_nobody_knows_is_not_found(
    test_topic: str, redis_client: redis.Redis, name: str
) -> None:
    bus.set_limits(test_topic)

    with pytest.raises(errors.NotFound, match=UNKNOWN):
        getattr(bus, name)(UNKNOWN)


@pytest.mark.parametrize("name", BY_ID)
def test_the_old_order_of_arguments_says_what_is_wrong(name: str) -> None:
    with pytest.raises(errors.InvalidName, match="not a UUID"):
        getattr(bus, name)("demo", UNKNOWN)


def test_of_the_same_id_in_two_topics_a_reading_call_picks_the_one_it_is_about(
    test_topic: str, other_topic: str
) -> None:
    task_id = str(uuid.uuid4())
    dead_task(test_topic, task_id)
    bus.enqueue_task(other_topic, {"n": 1}, task_id=task_id)

    assert bus.get_task(task_id).topic == other_topic
    assert bus.get_dead(task_id).topic == test_topic


def test_of_the_same_id_in_two_topics_a_changing_call_takes_the_one_it_is_about(
    test_topic: str, other_topic: str
) -> None:
    task_id = str(uuid.uuid4())
    dead_task(test_topic, task_id)
    bus.enqueue_task(other_topic, {"n": 1}, task_id=task_id, delay_s=600)

    assert bus.cancel(task_id) == bus.cancel(task_id) == "cancelled"
    assert bus.get_task(task_id, other_topic).state == "cancelled"
    bus.discard(task_id)
    bus.undo(task_id)
    assert bus.replay(task_id) == task_id
    assert bus.get_task(task_id, test_topic).state == "waiting"


@pytest.mark.parametrize("name", ["replay", "discard", "undo", "run_now"])
def test_where_it_may_be_about_either_it_changes_neither(
    test_topic: str, other_topic: str, name: str
) -> None:
    task_id = str(uuid.uuid4())
    for topic in (test_topic, other_topic):
        dead_task(topic, task_id)
    bus.discard(task_id, other_topic)

    with pytest.raises(bus.SeveralTopics) as refusal:
        getattr(bus, name)(task_id)

    assert refusal.value.facts["topics"] == sorted([test_topic, other_topic])
    assert test_topic in str(refusal.value) and other_topic in str(refusal.value)
    assert bus.get_task(task_id, test_topic).state == "dead"
    assert bus.get_task(task_id, other_topic).state == "discarded"


def test_of_two_that_have_ended_none_is_picked(
    test_topic: str, other_topic: str
) -> None:
    task_id = str(uuid.uuid4())
    for topic in (test_topic, other_topic):
        dead_task(topic, task_id)

    with pytest.raises(bus.SeveralTopics):
        bus.cancel(task_id)


def test_no_repeat_of_a_cancel_cancels_a_second_task(
    test_topic: str, other_topic: str
) -> None:
    task_id = str(uuid.uuid4())
    bus.enqueue_task(test_topic, 1, task_id=task_id)
    assert [bus.cancel(task_id), bus.cancel(task_id)] == ["cancelled"] * 2
    bus.enqueue_task(other_topic, 1, task_id=task_id)

    with pytest.raises(bus.SeveralTopics):
        bus.cancel(task_id)

    assert bus.get_task(task_id, other_topic).state == "waiting"
    assert bus.cancel(task_id, other_topic) == "cancelled"


def test_no_repeat_of_a_replay_replays_a_second_letter(
    test_topic: str, other_topic: str
) -> None:
    task_id = str(uuid.uuid4())
    dead_task(test_topic, task_id)
    dead_task(other_topic, task_id)

    for _ in range(2):
        with pytest.raises(bus.SeveralTopics):
            bus.replay(task_id)

    bus.replay(task_id, test_topic)
    assert bus.get_task(task_id, other_topic).state == "dead"


def test_a_result_is_waited_for_without_its_topic(test_topic: str) -> None:
    with agents.running(test_topic, work.echo):
        task_id = bus.enqueue_task(test_topic, 42)

        task = bus.wait_result(task_id, timeout_s=10)

    assert task.result == 42
