"""The mesh explains itself: why a task is not running, and what happened to it."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from typing import Any

import pytest
import redis

import bus
from bus import Retry, agents, errors, keys, looks, messages, timeline
from bus.judge import Judge
from tests.support import agents as runtime
from tests.support import work
from tests.support.desk import GROUP, Desk, idle_for
from tests.support.waiting import wait_until


def serve(topic: str, **facts: Any) -> None:
    """An agent of the runtime as the registry knows it."""
    record = {"agent_id": "a1", "agent_type": "mesh", "meta": {}, "topics": [topic]}
    agents.register("a1", "a1#00000001", 60, {**record, **facts})


def told(task_id: str, topic: str) -> list[str]:
    """What a task's timeline says happened."""
    return [row["what"] for row in timeline.timeline(bus.get_task(task_id, topic))]


# --- waiting


def test_nobody_serves_the_topic(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id)

    assert said == (
        f"No live agent serves topic '{test_topic}': start one with "
        f"`manage.py agent --topic {test_topic} --handler package.module:function` "
        "(no installed app has a handler for it); it is next."
    )


def test_the_topic_is_paused(test_topic: str) -> None:
    serve(test_topic)
    bus.enqueue_many(test_topic, range(3))
    bus.pause(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)

    said = bus.explain(task_id, test_topic)

    assert "is paused: nothing starts until it resumes" in said
    assert "about 3 tasks are ahead of it" in said


def test_it_is_next(test_topic: str) -> None:
    serve(test_topic, slots=4, in_flight=0)
    task_id = bus.enqueue_task(test_topic, 1)

    assert bus.explain(task_id) == "It is next; an agent will take it at once."


def test_tasks_that_were_handed_over_count_as_ahead(test_topic: str) -> None:
    serve(test_topic)
    desk = Desk(test_topic)
    sent = bus.enqueue_many(test_topic, range(4))
    desk.release(*desk.claim(2))

    assert "it is next" in bus.explain(sent[0]).lower()
    assert "1 task is ahead" in bus.explain(sent[1])
    assert "bout 3 tasks are ahead" in bus.explain(sent[3])


def test_an_agent_by_hand_without_registration_serves_too(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 0)
    [(entry_id, _)] = bus.read_group(test_topic, "mine", "me", block_ms=0)
    task_id = bus.enqueue_task(test_topic, 1)
    busy = bus.explain(task_id)

    bus.ack(test_topic, "mine", entry_id)

    assert busy == "It is next."
    assert bus.explain(task_id) == "It is next; an agent will take it at once."


def test_a_suspect_waits_to_be_alone(test_topic: str) -> None:
    serve(test_topic)
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    for alone in (False, False):
        desk.claim(alone=alone)
        desk.lose()

    said = bus.explain(task_id)

    assert said == (
        "It lost 2 agents that ran it, so the next one runs it alone, once that has "
        "nothing else in hand."
    )


def test_a_retry_that_waits_its_turn_says_so(test_topic: str) -> None:
    serve(test_topic)
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), delay_s=0, message="no ink", max_attempts=4)
    looks.promote(test_topic)

    assert bus.explain(task_id) == (
        "It is next (attempt 2 of 4, after ValueError: no ink); "
        "an agent will take it at once."
    )
    desk.claim()
    assert bus.explain(task_id).startswith(
        "Agent desk runs it, attempt 2 of 4, after ValueError: no ink; the last sign"
    )


# --- delayed


def test_a_scheduled_task_says_when_it_is_due(test_topic: str) -> None:
    serve(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, delay_s=3_600)

    said = bus.explain(task_id)

    due = bus.get_task(task_id).due_at
    assert re.fullmatch(
        rf"It was sent to start later: it is due in (59 min 5\d s|1 h),"
        rf" at {due}\.",
        said,
    )


def test_a_retry_says_what_went_wrong_and_when_it_is_tried_again(
    test_topic: str,
) -> None:
    serve(test_topic)
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1, max_attempts=3)
    desk.fail(desk.one(), message="no paper\nin the tray", delay_s=90)

    said = bus.explain(task_id)

    assert said.startswith("Attempt 2 of 3 is due in ")
    assert said.endswith("; the last one ended with ValueError: no paper in the tray.")


def test_a_delayed_task_says_too_that_nobody_will_run_it(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, delay_s=60)

    assert "; then no live agent serves topic" in bus.explain(task_id)


# --- running, ended


def test_a_running_task_says_who_holds_it(test_topic: str) -> None:
    bus.set_limits(test_topic, max_attempts=4)
    task_id = bus.enqueue_task(test_topic, 1)
    Desk(test_topic).claim()

    said = bus.explain(task_id)

    assert re.fullmatch(
        r"Agent desk runs it, attempt 1 of 4; "
        r"the last sign of life for it came 0\.\d s ago\.",
        said,
    )
    bus.cancel(task_id)
    assert "and is told to stop it" in bus.explain(task_id)


def test_a_silent_agent_is_told_of(test_topic: str, redis_client: redis.Redis) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    item = Desk(test_topic).one()
    redis_client.xclaim(
        bus.task_stream(test_topic), GROUP, "desk#00000001", 0, [item.sid], idle=9_000
    )

    assert "after 15 s of silence another agent takes it over" in bus.explain(task_id)


def test_an_agent_by_hand_keeps_its_task_while_it_is_registered(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    agents.register_agent("regd", "hand", 600)
    bus.read_group(test_topic, GROUP, "regd", block_ms=0)
    idle_for(test_topic, "regd", 20)
    agents.heartbeat_agent("regd", 600)
    registered_ms = redis_client.zscore(keys.AGENTS, "regd")

    said = bus.explain(task_id)

    told = re.fullmatch(
        r"Agent regd runs it, attempt 1; it keeps the task while it is registered, "
        r"until (\S+) unless it beats again\.",
        said,
    )
    assert told and registered_ms is not None
    # Two looks at the clock of the server lie between the two.
    assert abs((messages.iso_ms(told[1]) or 0) - registered_ms) < 60_000
    assert Judge("nobody").reclaim(test_topic) == 0

    agents.deregister_agent("regd")

    assert "after 15 s of silence another agent takes it over" in bus.explain(task_id)
    assert Judge("nobody").reclaim(test_topic) == 1


def test_every_end_is_told(test_topic: str) -> None:
    desk = Desk(test_topic)
    sent = bus.enqueue_many(test_topic, range(4))
    held = {item.id: item for item in desk.claim(3)}
    desk.complete(held[sent[0]])
    desk.fail(held[sent[1]], final=True, message="no ink")
    desk.fail(held[sent[2]], final=True, message="no ink")
    bus.discard(sent[2])
    bus.cancel(sent[3])

    done, dead, discarded, cancelled = map(bus.explain, sent)

    assert done.startswith("It was done by agent desk at 2")
    assert re.fullmatch(
        r"It died at 2\S+ after 1 attempt: ValueError: no ink; "
        r"replay runs it again\.",
        dead,
    )
    assert discarded.endswith("of ValueError: no ink, and its letter was discarded.")
    assert cancelled.startswith("It was cancelled at 2")


def test_an_unknown_task_is_not_explained_away(redis_client: redis.Redis) -> None:
    with pytest.raises(errors.TaskNotFound):
        bus.explain("0198c0de-0000-7000-8000-00000000abcd")


def test_a_done_task_says_what_it_took(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True, message="no ink")
    bus.replay(task_id)
    desk.fail(desk.one(), final=True, message="no paper")
    dead = bus.explain(task_id)
    bus.replay(task_id)
    desk.complete(desk.one())

    done = bus.explain(task_id)

    assert re.fullmatch(
        r"It died at 2\S+ after 2 attempts and 1 replay: ValueError: no paper; "
        r"replay runs it again\.",
        dead,
    )
    assert re.fullmatch(
        r"It was done by agent desk at 2\S+ after 3 attempts and 2 replays\.", done
    )


# --- with agents of the runtime

HELD = threading.Event()


async def held(payload: Any, task: Any) -> Any:
    """Runs until HELD is set; asks for another time once."""
    while not HELD.is_set():
        await asyncio.sleep(0.005)
    if payload == "later" and task.attempt == 1:
        raise Retry(90, "no ink")


def test_a_mesh_at_work_is_explained_at_every_turn(test_topic: str) -> None:
    HELD.clear()
    first = bus.enqueue_task(test_topic, "later")
    nobody = bus.explain(first)
    with runtime.running(
        test_topic, held, agent_id="one", concurrency=1, max_attempts=3
    ):
        wait_until(lambda: bus.get_task(first).state == "running", 20)
        second, third = bus.enqueue_many(test_topic, [2, 3])
        wait_until(lambda: "busy" in bus.explain(third), 20)
        runs, busy, ahead = (bus.explain(each) for each in (first, second, third))
        bus.pause(test_topic)
        paused = bus.explain(third)
        bus.resume(test_topic)
        HELD.set()
        wait_until(lambda: bus.get_task(third).state == "done", 20)
        wait_until(lambda: bus.get_task(first).state == "delayed", 20)
        retry, done = bus.explain(first), bus.explain(third)
    alone = bus.explain(first)

    assert nobody.startswith(f"No live agent serves topic '{test_topic}': start one")
    assert re.fullmatch(
        r"Agent one runs it, attempt 1; the last sign of life for it came "
        r"[0-2]\.\d s ago\.",
        runs,
    )
    assert busy == "The one slot of an agent is busy; it is next."
    assert ahead == "The one slot of an agent is busy; 1 task is ahead of it."
    assert paused == (
        f"Topic '{test_topic}' is paused: nothing starts until it resumes; "
        "1 task is ahead of it."
    )
    due = bus.get_task(first).due_at
    assert re.fullmatch(
        rf"Attempt 2 of 3 is due in (8\d|90) s, at {due}; "
        r"the last one ended with Retry: no ink\.",
        retry,
    )
    assert re.fullmatch(r"It was done by agent one at 2\S+Z\.", done)
    assert "; then no live agent serves topic" in alone


# --- timeline


def test_a_timeline_tells_a_whole_life_in_order(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1, max_attempts=2)
    desk = Desk(test_topic)
    desk.claim()
    desk.lose()
    with runtime.running(test_topic, work.failing, agent_id="one", backoff_s=0.001):
        wait_until(lambda: bus.get_task(task_id).state == "dead", 20)
        bus.discard(task_id)
        bus.undo(task_id)
        bus.replay(task_id)
        wait_until(lambda: bus.get_task(task_id).epoch == 1, 20)
        wait_until(lambda: bus.get_task(task_id).state == "dead", 20)

    rows = timeline.timeline(bus.get_task(task_id))

    assert [row["what"] for row in rows] == [
        "enqueued",
        "lost",
        *("started", "failed") * 2,
        *("discarded", "restored", "replayed"),
        *("started", "failed") * 2,
        "dead",
    ]
    assert rows[0]["at"] <= rows[6]["at"] <= rows[8]["at"] <= rows[-1]["at"]
    assert (rows[1]["agent"], rows[2]["agent"]) == ("desk", "one")
    assert rows[-1]["detail"] == "ValueError: cannot do 1"


async def flaky(payload: Any, task: Any) -> Any:
    """Fails the first time."""
    if task.attempt == 1:
        raise ValueError("not yet")


def test_a_done_task_tells_of_the_attempts_before(test_topic: str) -> None:
    with runtime.running(test_topic, flaky, backoff_s=0.001):
        task_id = bus.enqueue_task(test_topic, str(time.time()))
        wait_until(lambda: bus.get_task(task_id).state == "done", 20)

    rows = timeline.timeline(bus.get_task(task_id))
    said = [(row["what"], row["detail"]) for row in rows]
    assert said == [
        ("enqueued", None),
        ("started", "attempt 1"),
        ("failed", "ValueError: not yet"),
        ("started", "attempt 2"),
        ("done", None),
    ]


def test_a_live_task_ends_with_how_it_stands(test_topic: str) -> None:
    desk = Desk(test_topic)
    waiting = bus.enqueue_task(test_topic, 1)
    assert told(waiting, test_topic) == ["enqueued"]
    desk.claim()
    bus.cancel(waiting)
    assert told(waiting, test_topic) == ["enqueued", "cancel asked for", "running"]
    delayed = bus.enqueue_task(test_topic, 1, delay_s=60)

    rows = timeline.timeline(bus.get_task(delayed))

    assert [row["what"] for row in rows] == ["enqueued", "due"]
    assert rows[1]["at"] == bus.get_task(delayed).due_at


def test_a_replay_is_told_without_the_event_log_too(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True)
    bus.replay(task_id)
    desk.fail(desk.one(), final=True)
    redis_client.delete(keys.named("events", test_topic))

    rows = timeline.timeline(bus.get_task(task_id))

    assert [row["what"] for row in rows][3] == "replayed"
    assert rows[0]["at"] <= rows[3]["at"] <= rows[-1]["at"]
    assert [row["what"] for row in rows][-1] == "dead"


def test_a_replay_that_left_the_history_stands_without_its_time(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.fail(desk.one(), final=True)
    bus.replay(task_id)
    redis_client.hset(keys.named("attempts", test_topic), task_id, '{"epoch":0}')

    rows = timeline.timeline(bus.get_task(task_id))

    assert [(row["what"], row["at"] is None) for row in rows][-1] == ("replayed", True)


def test_a_letter_by_hand_of_a_far_epoch_has_a_short_timeline(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    record = redis_client.hget(keys.named("tasks", test_topic), task_id)
    far = str(record).replace("|0|0|0|0|", "|0|9999999999|0|0|")
    redis_client.hset(keys.named("tasks", test_topic), task_id, far)

    assert told(task_id, test_topic) == ["enqueued", *["replayed"] * 50]


def test_a_result_by_hand_has_a_timeline_too(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, "g", "c")
    row = f'{{"id":"{task_id}","enqueued_at":[1],"finished_at":7,"error":"x"}}'
    redis_client.xadd(bus.result_stream(test_topic), {"id": task_id, "json": row})
    bus.ack(test_topic, "g", entry_id)

    assert told(task_id, test_topic) == ["enqueued", "done"]
    assert bus.explain(task_id).startswith("It was done at ")
