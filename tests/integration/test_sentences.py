"""What it says where a stranger stumbled: the right error, with what to do."""

from __future__ import annotations

import io
import logging
from typing import Any

import pytest
import redis
from django.core.management import call_command
from django.core.management.base import CommandError

import bus
from bus import errors, handlers, looks, many, topics
from tests.support import agents, work
from tests.support.waiting import wait_until

SLIP = "no-such-topic"


def said(*command: str) -> tuple[str, str]:
    """What a command wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    call_command(*command, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


# --- names of topics


@pytest.mark.parametrize("verb", [bus.pause, bus.resume])
def test_a_mistyped_topic_cannot_be_paused_and_is_not_made(
    redis_client: redis.Redis, verb: Any
) -> None:
    bus.enqueue_task("orders", 1)

    with pytest.raises(errors.TopicNotFound, match="no topic 'order'.*orders"):
        verb("order")

    assert bus.list_topics() == ["orders"]


@pytest.mark.parametrize(
    "make",
    [
        lambda topic: bus.enqueue_task(topic, 1),
        lambda topic: bus.create_consumer_group(topic, "g"),
        lambda topic: topics.set_limits(topic, backlog_max=5),
    ],
    ids=["a task", "a group", "a limit"],
)
def test_a_topic_is_known_once_something_made_it(test_topic: str, make: Any) -> None:
    make(test_topic)

    bus.pause(test_topic)

    assert bus.stats(test_topic)["paused"]


def test_of_many_topics_the_likeliest_are_named(redis_client: redis.Redis) -> None:
    for n in range(30):
        bus.create_consumer_group(f"topic-{n}", "g")
    bus.create_consumer_group("zebra", "g")

    with pytest.raises(errors.TopicNotFound, match="are: zebra, .* and 21 more"):
        bus.pause("zbra")


@pytest.mark.parametrize(
    "command",
    [
        ["results", SLIP],
        ["dead", "list", SLIP],
        ["dead", "groups", SLIP],
        ["topics", SLIP],
        ["topics", SLIP, "--pause"],
    ],
    ids=" ".join,
)
def test_commands_name_the_topics_there_are(
    redis_client: redis.Redis, command: list[str]
) -> None:
    bus.enqueue_task("orders", 1)

    with pytest.raises(CommandError, match=f"no topic '{SLIP}'; there are: orders"):
        said(*command)

    assert bus.list_topics() == ["orders"]


def test_results_says_that_there_are_none(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    out, err = said("results", test_topic)

    assert (out, err) == ("", f"No result of topic {test_topic} yet.\n")


# --- conflicts


def test_a_conflict_by_key_names_the_key(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1, idempotency_key="order 7")

    with pytest.raises(errors.TaskConflict, match="idempotency key 'order 7'"):
        bus.enqueue_task(test_topic, 2, idempotency_key="order 7")


def test_a_conflict_by_id_names_the_id(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.TaskConflict, match=f"task id {task_id} is taken"):
        bus.enqueue_task(test_topic, 2, task_id=task_id)


# --- payloads


@pytest.mark.parametrize("payload", ["\ud800", {"a": ["x\udfff"]}, {"\ud800": 1}])
def test_half_a_surrogate_pair_is_called_so(test_topic: str, payload: Any) -> None:
    with pytest.raises(errors.InvalidPayload, match="half of a surrogate pair"):
        bus.enqueue_task(test_topic, payload)


# --- numbers


@pytest.mark.parametrize(
    ("accepted", "note"),
    [
        (["a"], "1 task of this call was accepted before"),
        (["a", "b"], "2 tasks of this call were accepted before"),
    ],
)
def test_what_was_accepted_is_counted_in_english(
    accepted: list[str], note: str
) -> None:
    torn = ValueError("row 2 is torn")

    many._tell_accepted(torn, accepted)

    assert torn.__notes__ == [note]


# --- handlers


@pytest.mark.parametrize(
    ("path", "sentence"),
    [
        ("json:__name__", "'json:__name__' is a str, not a function"),
        ("os:environ", "is a _Environ, not a function"),
        ("sys:maxsize", "is an int, not a function"),
        ("json:decoder", "is a module, not a function"),
    ],
)
@pytest.mark.parametrize("topic", [None, "t"])
def test_what_is_no_function_is_called_what_it_is(
    path: str, sentence: str, topic: str | None
) -> None:
    with pytest.raises(errors.HandlerError, match=sentence):
        handlers.load(path, topic)


def test_explain_types_the_command_that_works(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "registry", {})
    task_id = bus.enqueue_task("served", 1)

    before = bus.explain(task_id)
    handlers.handler("served")(work.echo)
    after = bus.explain(task_id)

    assert "--topic served --handler package.module:function`" in before
    assert "`manage.py agent --topic served`;" in after


class Odd(bus.GiveUp):
    """A failure that names its kind itself."""

    kind = "Oddness"


def odd(payload: Any, task: Any) -> None:
    raise Odd("not even")


def test_log_and_letter_name_one_failure_alike(
    test_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="bus.agent")
    bus.enqueue_task(test_topic, 1)

    with agents.running(test_topic, odd):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 20)

    [letter] = bus.list_dead(test_topic)
    assert letter.error["type"] == "Oddness"
    assert "failed (Oddness: not even), now dead" in caplog.text


# --- letters of agents by hand


@pytest.mark.parametrize(
    ("consumer", "agent"),
    [
        ("hand", "hand"),
        *(("hand#1f", "hand#1f"), ("hand#1f2e3d4c5", "hand#1f2e3d4c5")),
        *(("ours#1f2e3d4c", "ours"), ("lent#http:15", "lent")),
        *(("hand#http:x", "hand#http:x"), ("a b#1f2e3d4c", "a?b#1f2e3d4c")),
        *(('h"a\\nd', "h?a?nd"), ("ä", "??")),
    ],
)
def test_the_letter_of_an_agent_by_hand_tells_its_attempt(
    test_topic: str, consumer: str, agent: str
) -> None:
    bus.enqueue_task(test_topic, 1)
    [(entry_id, fields)] = bus.read_group(test_topic, "g", consumer, block_ms=0)

    bus.move_to_dead(test_topic, entry_id, 1, error="too blue")

    [letter] = bus.list_dead(test_topic)
    [attempt] = letter.attempts
    assert attempt["error"] == letter.error
    assert (attempt["epoch"], attempt["attempt"]) == (0, 1)
    assert (attempt["agent"], attempt["fence"]) == (agent, fields["fence"])
    assert attempt["finished_at"] == letter.died_at
    assert "after 1 attempt: Moved: too blue" in bus.explain(letter.id)


def test_an_attempt_of_nobody_has_no_agent(test_topic: str) -> None:
    """An entry that was moved without having been read."""
    bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.get_redis().xrange(bus.task_stream(test_topic))

    bus.move_to_dead(test_topic, entry_id, 1)

    [letter] = bus.list_dead(test_topic)
    assert [each["agent"] for each in letter.attempts] == [None]


def test_attempts_before_the_last_are_kept(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    # Long enough for the agent to have ended: it would give the next attempt back to
    # agents of the runtime, and we read by hand.
    with agents.running(test_topic, work.failing, max_attempts=5, backoff_s=3):
        wait_until(lambda: bus.stats(test_topic)["retried"] >= 1, 20)
    wait_until(lambda: bool(read := _read(test_topic)) and _move(test_topic, read), 20)

    [letter] = bus.list_dead(test_topic)
    numbers = [each["attempt"] for each in letter.attempts]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) >= 2


def _read(topic: str) -> list[tuple[str, dict[str, Any]]]:
    looks.promote(topic)
    return bus.read_group(topic, "default", "hand", block_ms=0)


def _move(topic: str, read: list[tuple[str, dict[str, Any]]]) -> bool:
    [(entry_id, _)] = read
    return bool(bus.move_to_dead(topic, entry_id, 1))
