"""What a waiting task waits for, and how soon its turn comes."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest
import redis

import bus
from bus import agents, errors, keys, leases, purges, whynot
from tests.support import work
from tests.support.desk import GROUP, Desk
from tests.support.promises import Crowd, kept
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.slow


def serve(topic: str, name: str = "desk", run_s: Any = None, **facts: Any) -> None:
    """An agent of the runtime as the registry knows it; `desk` is that of `Desk`."""
    slots = facts.pop("slots", 4)
    record = {
        "agent_id": name,
        "agent_type": "mesh",
        "meta": {},
        "consumer": f"{name}#00000001",
        "topics": [topic],
        "slots": slots,
        "per_topic": {topic: {"slots": slots, "run_s": run_s}},
    }
    agents.register(name, f"{name}#00000001", 60, {**record, **facts})


def age(client: redis.Redis, name: str, by_s: float) -> None:
    """Let the agent's last beat lie further back."""
    told: Any = client.hget(keys.GONE, name)
    beat, rest = told.split("|", 1)
    client.hset(keys.GONE, name, f"{int(beat) - int(by_s * 1000)}|{rest}")


# --- slots


def test_a_free_slot_takes_it_at_once(test_topic: str) -> None:
    serve(test_topic)
    first, _, third = bus.enqueue_many(test_topic, range(3))

    assert bus.explain(first) == "It is next; an agent will take it at once."
    assert bus.explain(third) == (
        "About 2 tasks are ahead of it, and 4 slots are free; "
        "an agent will take it at once."
    )


def test_all_slots_are_busy(test_topic: str) -> None:
    serve(test_topic)
    bus.enqueue_many(test_topic, range(5))
    Desk(test_topic).claim(4)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == "All 4 slots of an agent are busy; 1 task is ahead of it."


def test_one_slot_is_not_slots(test_topic: str) -> None:
    serve(test_topic, slots=1)
    bus.enqueue_task(test_topic, 1)
    Desk(test_topic).claim()
    task_id = bus.enqueue_task(test_topic, 1)

    assert bus.explain(task_id) == "The one slot of an agent is busy; it is next."


def test_run_times_of_the_slots_say_when(test_topic: str) -> None:
    serve(test_topic, run_s=20.0)
    bus.enqueue_many(test_topic, range(4))
    Desk(test_topic).claim(4)
    next_one, *_, last = bus.enqueue_many(test_topic, range(9))

    assert bus.explain(next_one) == (
        "All 4 slots of an agent are busy; it is next, in about 5 s."
    )
    assert bus.explain(last) == (
        "About 8 tasks are ahead of it; at 12 per minute that takes about 45 s."
    )


def test_slots_of_other_topics_do_not_count(test_topic: str) -> None:
    shares = {test_topic: {"slots": 2}, "other": {"slots": 98}}
    serve(test_topic, slots=100, topics=[test_topic, "other"], per_topic=shares)
    bus.enqueue_many(test_topic, range(2))
    Desk(test_topic).claim(2)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == "All 2 slots of an agent are busy; it is next."


def test_a_record_of_an_earlier_version_is_understood(test_topic: str) -> None:
    serve(test_topic, slots=6, topics=[test_topic, "other"], per_topic=None)
    bus.enqueue_many(test_topic, range(3))
    Desk(test_topic).claim(3)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == "All 3 slots of an agent are busy; it is next."


# --- agents that take nothing for now


def held_up(topic: str, name: str, why: str | None) -> None:
    """An agent that told why it takes none of the topic's tasks."""
    share = {"slots": 4 if why is None else 0, "run_s": None, "why": why}
    serve(topic, name, per_topic={topic: share})


@pytest.mark.parametrize(
    ("why", "said"),
    [
        ("stuck", "takes nothing: too many of its runs go on that were given up on"),
        (
            "alone",
            "takes nothing else until a task that lost its agents has run alone",
        ),
    ],
)
def test_the_only_agent_takes_none_for_now(
    test_topic: str, why: str, said: str
) -> None:
    held_up(test_topic, "one", why)
    task_id = bus.enqueue_task(test_topic, 1)

    assert bus.explain(task_id) == f"The only agent {said}; it is next."


def test_one_of_two_that_takes_none_has_no_free_slot(test_topic: str) -> None:
    held_up(test_topic, "one", "stuck")
    held_up(test_topic, "two", None)
    _, second = bus.enqueue_many(test_topic, range(2))

    assert bus.explain(second) == (
        "1 task is ahead of it, and 4 slots are free; an agent will take it at once."
    )


def test_two_agents_that_take_none_are_told_by_one(test_topic: str) -> None:
    held_up(test_topic, "one", "stuck")
    held_up(test_topic, "two", "alone")
    task_id = bus.enqueue_task(test_topic, 1)

    assert bus.explain(task_id) == (
        "None of 2 agents takes it: one takes nothing: too many of its runs go on that "
        "were given up on; it is next."
    )


# --- how many are ahead


def test_the_last_of_a_long_queue_is_counted_from_its_end(test_topic: str) -> None:
    serve(test_topic)
    sent = bus.enqueue_many(test_topic, range(5_000))
    Desk(test_topic).claim(4)

    assert "about 4,993 tasks are ahead of it" in bus.explain(sent[-3])
    assert "about 400 tasks are ahead of it" in bus.explain(sent[404])


def test_in_the_middle_of_a_long_queue_nobody_counts_to_the_end(
    test_topic: str,
) -> None:
    serve(test_topic, run_s=20.0)
    sent = bus.enqueue_many(test_topic, range(5_000))
    Desk(test_topic).claim(4)

    said = bus.explain(sent[2_500])

    assert said == (
        "More than 500 tasks are ahead of it; at 12 per minute that takes "
        "more than 41 min 45 s."
    )


@pytest.mark.parametrize("place", [0, 500, 1_000, 2_000])
def test_an_explanation_costs_the_same_however_long_the_queue_is(
    test_topic: str, place: int
) -> None:
    sent = bus.enqueue_many(test_topic, ["x" * 20_000] * 2_001)
    bus.explain(sent[place])

    began = time.perf_counter()
    with Stalls() as stalls:
        bus.explain(sent[place])

    assert time.perf_counter() - began < 0.2 * PATIENCE + stalls.total_s


# --- what ended


def test_what_ended_while_it_waited_tells_the_pace(test_topic: str) -> None:
    """Of an agent by hand nobody knows slots or run times."""
    sent = bus.enqueue_many(test_topic, range(20))
    hand = "by-hand"
    for _ in range(10):
        [(entry_id, _)] = bus.read_group(test_topic, GROUP, hand, block_ms=0)
        bus.ack(test_topic, GROUP, entry_id)
    bus.read_group(test_topic, GROUP, hand, block_ms=0)

    said = bus.explain(sent[-1])

    assert re.fullmatch(
        r"About 8 tasks are ahead of it; at [\d,.]+ per second that takes "
        r"(less than 1|about \d+) s\.",
        said,
    )


def test_what_ended_before_it_came_tells_no_pace(test_topic: str) -> None:
    """An idle spell lies between: ten ends a moment ago are none of this queue."""
    serve(test_topic, slots=1, per_topic=None)
    desk = Desk(test_topic)
    for sent in bus.enqueue_many(test_topic, range(10)):
        [item] = desk.claim()
        assert item.id == sent
        bus.ack(test_topic, GROUP, item.sid)
    bus.enqueue_many(test_topic, range(2))
    desk.claim()
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == "The one slot of an agent is busy; 1 task is ahead of it."


def test_run_times_of_the_last_hour_stand_in_for_an_agent_that_ended_none(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(12))
    desk.complete(*desk.claim(3))  # each in 2 to 4 ms
    serve(test_topic)
    desk.claim(4)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == (
        "About 5 tasks are ahead of it; at 1,333 per second that takes less than 1 s."
    )


def test_nothing_tells_a_pace(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    bus.read_group(test_topic, GROUP, "by-hand", block_ms=0)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == (
        "About 2 tasks are ahead of it, and nothing ended lately that would tell a "
        "pace."
    )


# --- agents that take nothing


@pytest.mark.parametrize(
    ("facts", "one", "two"),
    [
        ({"unread_s": 60}, "is deaf: it cannot read", "are deaf: they cannot read"),
        (
            {"state": "draining"},
            "is draining: it takes nothing new",
            "are draining: they take nothing new",
        ),
    ],
    ids=["deaf", "draining"],
)
def test_agents_that_take_nothing_say_why(
    test_topic: str, facts: dict[str, Any], one: str, two: str
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    serve(test_topic, "a", **facts)
    alone = bus.explain(task_id)
    serve(test_topic, "b", **facts)

    both = bus.explain(task_id)

    assert alone.startswith(f"The only agent of topic '{test_topic}' {one}; ")
    assert both.startswith(f"All 2 agents of topic '{test_topic}' {two}; ")
    assert both.endswith("; it is next.")
    assert ("start one with `manage.py agent" in both) == ("state" in facts)


def test_agents_that_miss_their_beats_may_be_gone(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    serve(test_topic, "a")
    serve(test_topic, "b", unread_s=60)
    serve(test_topic, "c", unread_s=60)
    age(redis_client, "a", 40)

    said = bus.explain(task_id)

    assert said == (
        f"No agent of topic '{test_topic}' takes tasks now: 2 are deaf, 1 is late; "
        "it is next."
    )
    age(redis_client, "b", 40)
    age(redis_client, "c", 40)
    assert "3 agents of topic" in bus.explain(task_id)
    assert "are late: they missed their last beats" in bus.explain(task_id)


def test_one_agent_at_work_is_enough(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    serve(test_topic, "a", state="draining")
    serve(test_topic, "b")

    assert bus.explain(task_id) == "It is next; an agent will take it at once."


# --- what else may be amiss


def test_a_due_task_that_nobody_moves_says_so(
    test_topic: str, redis_client: redis.Redis
) -> None:
    serve(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)
    was_due = agents.server_ms() - 90_000
    redis_client.zadd(keys.named("delayed", test_topic), {task_id: was_due})

    said = bus.explain(task_id)

    assert re.fullmatch(
        r"It was sent to start later: it was due 9\d s ago, at \S+; "
        r"any agent moves it into the queue then, and none did\.",
        said,
    )


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "attempt 1; the last sign"),
        ({"consumer": "desk#00000002"}, "; it has started anew since, so the task is"),
        ({"state": "draining"}, "; it is draining: it ends the task or gives it back"),
    ],
    ids=["at work", "started anew", "draining"],
)
def test_whoever_holds_it_may_not_end_it(
    test_topic: str, facts: dict[str, Any], text: str
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    Desk(test_topic).claim()
    serve(test_topic, **facts)

    assert text in bus.explain(task_id)


def test_a_holder_that_is_gone_is_told_of(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    Desk(test_topic).claim()
    serve(test_topic)
    agents.deregister("desk", "desk#00000001")

    assert "; it is gone, so the task is handed over soon" in bus.explain(task_id)


def test_an_agent_that_took_it_meanwhile_is_named(test_topic: str) -> None:
    serve(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    looked_up = bus.get_task(task_id)
    Desk(test_topic).claim()

    assert whynot.explain(looked_up) == "Agent desk has just taken it."


def test_a_task_that_was_purged_ended_and_one_of_a_deleted_topic_is_unknown(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    purges.purge_topic(test_topic, "waiting")
    purged = bus.explain(task_id)
    purges.delete_topic(test_topic)

    with pytest.raises(errors.TaskNotFound, match="or its topic deleted"):
        bus.explain(task_id)

    assert purged.startswith("It was cancelled at 2")


# --- agents over HTTP


def test_an_agent_over_http_is_busy_with_what_it_holds(test_topic: str) -> None:
    leases.register("web-1", "shell", 60, {}, 600)
    bus.enqueue_many(test_topic, range(2))
    leases.claim(test_topic, "web-1", 1)
    [second] = [task.id for task in bus.list_tasks(test_topic, "waiting")[0]]
    busy = bus.explain(second)

    [lent] = leases.claim(test_topic, "web-1", 1).lent

    assert busy == "It is next."
    assert lent.id == second
    assert "runs it, attempt 1; the last sign of life" in bus.explain(second)


def test_a_lease_of_its_own_is_told(test_topic: str, redis_client: redis.Redis) -> None:
    leases.register("web-1", "shell", 60, {}, 600)
    task_id = bus.enqueue_task(test_topic, 1)
    [lent] = leases.claim(test_topic, "web-1", 1).lent
    sid, who = lent.fence.partition(".")[0], keys.lender_of("web-1", 600)
    stream = bus.task_stream(test_topic)
    redis_client.xclaim(stream, "default", who, 0, [sid], idle=400_000)

    said = bus.explain(task_id)

    assert "came 6 min 40 s ago, after 10 min of silence another agent" in said


# --- promises and what came of them


def test_a_fresh_start_and_a_burst_after_an_idle_spell(test_topic: str) -> None:
    """Asked for the last of 60 tasks of 0.2 s that six slots run: 2 s."""
    with Crowd([test_topic], work.rest, agents=3, slots=2) as crowd:
        first = crowd.drain([0.2] * 60, ask_after=20)
        crowd.idle(3.0)
        burst = crowd.drain([0.2] * 60, ask_after=0)

    assert kept(first), first
    assert kept(burst), burst


def test_slow_tasks(test_topic: str) -> None:
    """Asked for the last of 20 tasks of 1.5 s that six slots run: 5 s."""
    with Crowd([test_topic], work.rest, agents=3, slots=2) as crowd:
        slow = crowd.drain([1.5] * 20, ask_after=6)

    assert kept(slow), slow
    assert slow[0].promised_s > 1.5


def test_two_topics_in_each_agent(test_topic: str) -> None:
    """The busy one has six slots of its own, whatever else the agents serve."""
    other = f"{test_topic}-other"
    with Crowd([other, test_topic], work.rest, agents=3, slots=2) as crowd:
        bus.enqueue_many(other, [0.05] * 40)
        both = crowd.drain([0.4] * 40, ask_after=12)

    assert kept(both), both
    assert both[0].promised_s > 1
