"""Nonsense in one task's keys: every call has an answer, and the audit an end of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import auditor, errors, scripts
from tests.support.keyspace import wounds
from tests.support.town import Town, build_town

Wound = Callable[[Town], object]


def due(score: float) -> Wound:
    return lambda t: t.client.zadd(t.key("delayed"), {t.delayed: score})


def parked(text: str) -> Wound:
    return lambda t: t.client.hset(t.key("parked"), t.delayed, text)


def record(text: str) -> Wound:
    return lambda t: t.client.hset(t.key("tasks"), t.waiting, text)


def ended(score: float) -> Wound:
    return lambda t: t.client.zadd(t.key("done"), {t.done: score})


WOUNDS: dict[str, Wound] = {
    "due for ever": due(float("inf")),
    "due before all time": due(float("-inf")),
    "due below zero": due(-5),
    "due beyond years": due(1e300),
    "a due time forgotten": lambda t: t.client.zrem(t.key("delayed"), t.delayed),
    "a payload in no shape": parked("banana"),
    "no payload": parked(""),
    "a payload behind nonsense": parked('banana\n"delayed"'),
    "a payload accepted beyond years": parked('e=99999999999999999999\n"delayed"'),
    "a payload that is no JSON": parked("e=1\n{banana"),
    "a record of no entry": record("banana|0|0|0|0||"),
    "a record of any entry": record("-|0|0|0|0||"),
    "a record of an entry beyond all": record("9" * 30 + "-0|0|0|0|0||"),
    "a record in no shape": record("banana"),
    "an index of no letter": lambda t: t.client.hset(
        t.key("dead_index"), t.dead, "banana"
    ),
    "an index of any letter": lambda t: t.client.hset(t.key("dead_index"), t.dead, "-"),
    "ended for ever": ended(float("inf")),
    "ended before all time": ended(float("-inf")),
    "ended below zero": ended(-5),
    "ended beyond years": ended(1e300),
}

CALLS: dict[str, Callable[[str, str], Any]] = {
    "get_task": bus.get_task,
    "explain": bus.explain,
    "run_now": bus.run_now,
    "cancel": bus.cancel,
    "get_dead": bus.get_dead,
    "replay": bus.replay,
    "discard": bus.discard,
    "send again": lambda i, t: bus.enqueue_task(t, "delayed", task_id=i),
    "wait": lambda i, t: bus.wait_result(i, t, 0),
    "list": lambda i, t: bus.list_tasks(t),
}


def told(call: Callable[[], Any]) -> None:
    """Whatever it answers, it is no bug of ours: a bare BusError is a 500 outside."""
    try:
        call()
    except errors.BusError as exc:
        assert type(exc) is not errors.BusError, exc


@pytest.mark.parametrize("wound", WOUNDS)
def test_every_call_by_id_has_an_answer(
    redis_client: redis.Redis, test_topic: str, wound: str
) -> None:
    for name, call in CALLS.items():
        town = build_town(redis_client, test_topic)
        WOUNDS[wound](town)
        for task_id in (town.waiting, town.delayed, town.dead, town.done):
            with contextlib.suppress(TimeoutError):
                told(lambda i=task_id, c=call: c(i, test_topic))  # type: ignore[misc]
        assert bus.get_task(town.running, test_topic).state == "running", name
        redis_client.flushall()


@pytest.mark.parametrize("wound", WOUNDS)
def test_the_audit_ends_it(
    redis_client: redis.Redis, test_topic: str, wound: str
) -> None:
    town = build_town(redis_client, test_topic)
    WOUNDS[wound](town)
    for _ in range(3):
        scripts.run("promote", test_topic, [100])
        auditor.audit(test_topic)

    found = auditor.audit(test_topic)

    assert (found.mended, found.seen, found.drift) == ([], [], 0)
    assert wounds(redis_client, test_topic) == []
    for task_id in (town.waiting, town.delayed, town.running, town.dead, town.done):
        assert bus.get_task(task_id, test_topic).topic == test_topic


@pytest.mark.parametrize("text", ["banana", '{"kept": 1}', ""])
def test_a_payload_in_no_shape_becomes_a_letter_with_what_is_left_of_it(
    redis_client: redis.Redis, test_topic: str, text: str
) -> None:
    town = build_town(redis_client, test_topic)
    parked(text)(town)

    auditor.audit(test_topic)

    letter = bus.get_dead(town.delayed, test_topic)
    assert letter.error["reason"] == "lost"
    assert letter.payload == ({"kept": 1} if "kept" in text else text)


def test_a_cancelled_task_keeps_what_is_left_of_its_payload(
    redis_client: redis.Redis, test_topic: str
) -> None:
    town = build_town(redis_client, test_topic)
    parked("banana")(town)

    bus.cancel(town.delayed, test_topic)

    assert bus.get_task(town.delayed, test_topic).payload == "banana"


@pytest.mark.parametrize("wound", ["due for ever", "a due time forgotten"])
def test_a_task_without_a_due_time_says_so_until_the_audit_gives_it_one(
    redis_client: redis.Redis, test_topic: str, wound: str
) -> None:
    town = build_town(redis_client, test_topic)
    WOUNDS[wound](town)

    before = bus.get_task(town.delayed, test_topic)
    said = bus.explain(town.delayed, test_topic)
    auditor.audit(test_topic)
    after = bus.get_task(town.delayed, test_topic)

    assert (before.state, before.due_at) == ("delayed", None)
    assert "None" not in said
    assert "Its due time is gone" in said
    assert after.due_at is not None
