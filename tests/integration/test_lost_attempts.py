"""An attempt that was lost is told as its agent's, and as what it came to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import agents, fences, judge, keys, leases, results, timeline
from bus.endings import fence_of
from bus.judge import Judge
from tests.support.api import api
from tests.support.desk import GROUP, Desk, idle_for
from tests.support.pages import signed_in

OURS = "kA#00000001"
OLD = "kA#40125757"  # as rows from before this version name it


def lent(topic: str) -> str:
    """The id of a task that an agent over HTTP holds."""
    task_id = bus.enqueue_task(topic, "x")
    leases.register("m1", "t", 60, None, None)
    assert leases.claim(topic, "m1", 1).lent
    return task_id


def lost(topic: str, consumer: str) -> int:
    return judge.take(topic, bus.stats(topic)["group"], consumer, 0)


def attempt_of(task_id: str) -> dict[str, Any]:
    [attempt] = bus.get_task(task_id).attempts
    return attempt


def test_a_lost_attempt_is_its_agents_like_any_other(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    desk = Desk(test_topic, OURS)
    desk.claim()

    desk.lose()

    assert attempt_of(task_id)["agent"] == "kA"
    told = timeline.timeline(bus.get_task(task_id))
    assert [row["agent"] for row in told if row["what"] == "lost"] == ["kA"]
    assert "#" not in str(redis_client.hgetall(keys.named("attempts", test_topic)))
    assert "#" not in str(redis_client.xrange(keys.named("events", test_topic)))


def test_one_over_http_says_also_when_it_began(test_topic: str) -> None:
    task_id = lent(test_topic)
    began_at = bus.get_task(task_id).enqueued_at

    assert lost(test_topic, keys.lender_of("m1", 15)) == 1

    attempt = attempt_of(task_id)
    assert attempt["agent"] == "m1"
    assert str(began_at) <= attempt["started_at"] <= attempt["finished_at"]
    assert attempt["duration_ms"] >= 0


def test_one_that_was_over_http_before_does_not_say_when_that_began(
    test_topic: str,
) -> None:
    """The row keeps the time of the first; whoever has it next began at another."""
    task_id = lent(test_topic)
    lost(test_topic, keys.lender_of("m1", 15))
    group = bus.stats(test_topic)["group"]
    bus.read_group(test_topic, group, "hand", block_ms=0)

    assert lost(test_topic, "hand") == 1

    first, second = bus.get_task(task_id).attempts
    assert (first["agent"], second["agent"]) == ("m1", "hand")
    assert "started_at" in first and "started_at" not in second


def test_one_that_is_given_back_after_a_cancel_is_told_with_its_end(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    leases.register("m1", "t", 60, None, None)
    [held] = leases.claim(test_topic, "m1", 1).lent
    bus.cancel(task_id)
    running = bus.get_task(task_id)

    assert fences.release([fence_of(held.topic, held.id, held.fence)]) == ["cancelled"]

    task = bus.get_task(task_id)
    assert (task.agent, task.attempt) == (running.agent, running.attempt) == ("m1", 1)
    assert str(task.enqueued_at) <= str(task.started_at) <= str(task.ended_at)
    assert task.attempts == ()
    told = [(row["what"], row["agent"]) for row in timeline.timeline(task)]
    assert told[-2:] == [("started", "m1"), ("cancelled", "m1")] or told[-3:] == [
        *(("started", "m1"), ("cancel asked for", None), ("cancelled", "m1")),
    ]


def test_whoever_gives_one_back_after_a_cancel_had_it(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    desk = Desk(test_topic, OURS)
    item = desk.one()
    bus.cancel(task_id)

    desk.release(item)

    task = bus.get_task(task_id)
    assert (task.state, task.agent, task.attempt) == ("cancelled", "kA", 1)
    assert task.started_at is None, "only its agent knows"


def test_a_cancel_of_what_nobody_has_names_nobody(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x")

    bus.cancel(task_id)

    task = bus.get_task(task_id)
    assert (task.agent, task.attempt, task.started_at) == (None, 0, None)


OWNERS = {
    "over http": (lambda topic: lent(topic), "m1#http:15", "its lease of 15 s ended"),
    "by hand": (lambda topic: taken(topic, "hand"), "hand", "its lease of 15 s ended"),
    "of ours": (lambda topic: taken(topic, OURS), OURS, "the agent was gone"),
}


@pytest.mark.parametrize("name", ["hand", "hand#1", "hand#http:"])
def test_an_agent_by_hand_has_a_lease_whatever_its_name(
    test_topic: str, name: str
) -> None:
    taken(test_topic, name)
    nobody = Judge("nobody")

    idle_for(test_topic, name, 10)
    assert nobody.reclaim(test_topic) == 0
    idle_for(test_topic, name, 15)
    assert nobody.reclaim(test_topic) == 1


def test_agents_by_hand_are_readers_whatever_their_name(test_topic: str) -> None:
    for name in ("hand", "hand#1", "m1#http:15", OURS):
        taken(test_topic, name)

    assert bus.stats(test_topic)["readers"] == 3


def taken(topic: str, consumer: str) -> str:
    """The id of a task that was read under this name, on no connection of that name."""
    task_id = bus.enqueue_task(topic, "x")
    assert bus.read_group(topic, GROUP, consumer, block_ms=0)
    return task_id


@pytest.mark.parametrize("owner", OWNERS)
def test_a_lost_attempt_says_what_is_true_of_its_agent(
    test_topic: str, owner: str
) -> None:
    begin, consumer, said = OWNERS[owner]
    task_id = begin(test_topic)
    idle_for(test_topic, consumer, 16)

    assert Judge("nobody").reclaim(test_topic) == 1

    error = attempt_of(task_id)["error"]
    assert error == {"type": "LeaseLost", "message": f"{said} (1 of 5)"}


ENDS: dict[str, Callable[[Desk], Any]] = {
    "waiting": lambda desk: None,
    "done": lambda desk: desk.complete(desk.one()),
    "dead": lambda desk: desk.fail(desk.one(), final=True),
}


@pytest.mark.django_db
@pytest.mark.parametrize("state", ENDS)
def test_rows_from_before_name_the_agent_too(
    test_topic: str, redis_client: redis.Redis, state: str
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    agents.register_agent("kA", "t")
    desk = Desk(test_topic)
    desk.claim()
    desk.lose()
    line = {"epoch": 0, "attempt": 1, "agent": OLD, "error": {"type": "LeaseLost"}}
    redis_client.hset(keys.named("attempts", test_topic), task_id, json.dumps(line))

    ENDS[state](desk)

    assert bus.get_task(task_id).state == state
    shown = json.dumps(api().get(f"tasks/{task_id}").json())
    shown += json.dumps(results.page(test_topic))
    shown += json.dumps(bus.list_dead(test_topic), default=str)
    page = signed_in("viewer")
    shown += page.get(f"/tasks/{task_id}/").content.decode()
    assert '"/agents/kA/"' in shown
    assert OLD not in shown and "kA%23" not in shown
    assert page.get("/agents/kA/").status_code == 200
