"""Agents and the mesh: how they come, share the work, are steered, leave."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import judge
from bus.agent import Agent
from bus.handlers import Handler
from tests.support import agents
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

PAUSED_S = 1.0  # the contract: no start later than this after `pause` returned
CANCELLED_S = 2.0  # and no end of a cancelled task later than this
NOISE_S = 0.3  # of a shared machine with two cores


async def echo(payload: Any, task: Any) -> Any:
    return payload


async def nap(payload: Any, task: Any) -> Any:
    await asyncio.sleep(0.01)
    return payload


def _agent(agent_id: str) -> dict[str, Any]:
    """The record of a live agent, empty when there is none."""
    return next((a for a in bus.list_agents() if a["agent_id"] == agent_id), {})


def _in_state(
    topic: str, task_id: str, state: str, timeout_s: float = 10.0
) -> bus.Task:
    wait_until(
        lambda: bus.get_task(task_id, topic).state == state, timeout_s, f"it is {state}"
    )
    return bus.get_task(task_id, topic)


def _all_done(topic: str, count: int, timeout_s: float = 20.0) -> None:
    wait_until(
        lambda: bus.stats(topic)["done"] == count, timeout_s, f"{count} tasks are done"
    )


def _seconds(start: str, end: str) -> float:
    """From one ISO time to another."""
    began, ended = datetime.fromisoformat(start), datetime.fromisoformat(end)
    return (ended - began).total_seconds()


# --- coming, sharing, leaving


def test_a_task_enqueued_before_the_first_agent_is_not_skipped(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "first")

    with agents.running(test_topic, echo):
        task = bus.wait_result(task_id, test_topic, 10)

    assert (task.state, task.result) == ("done", "first")


def test_two_agents_share_the_load_and_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    began: Counter[str] = Counter()

    async def counted(payload: Any, task: Any) -> None:
        began[task.id] += 1
        await asyncio.sleep(0.02)

    with (
        agents.running(test_topic, counted, concurrency=4, agent_id="one"),
        agents.running(test_topic, counted, concurrency=4, agent_id="two"),
    ):
        wait_until(lambda: len(bus.list_agents()) == 2, 10, "both are there")
        ids = bus.enqueue_many(test_topic, range(200))
        _all_done(test_topic, 200)

    rows = bus.tail_results(test_topic, 300)
    per_agent = Counter(row["agent"] for _, row in rows)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert set(began.values()) == {1}
    assert min(per_agent["one"], per_agent["two"]) >= 40


def test_one_agent_serves_several_topics(test_topic: str) -> None:
    topics = [f"{test_topic}-{number}" for number in range(5)]

    async def where(payload: Any, task: Any) -> str:
        return str(task.topic)

    with agents.serving(
        Agent([Handler(topic, where) for topic in topics], agent_id="all")
    ):
        ids = {topic: bus.enqueue_task(topic, "x") for topic in topics}
        results = {t: bus.wait_result(i, t, 10).result for t, i in ids.items()}
        record = wait_until(lambda: _agent("all"), 5, "the agent is registered")

    assert results == {topic: topic for topic in topics}
    assert record["topics"] == topics


def test_the_record_of_an_agent_says_what_operators_want_to_know(
    test_topic: str,
) -> None:
    async def some_fail(payload: Any, task: Any) -> Any:
        if payload == "hang":
            await asyncio.sleep(60)
        if payload == "fail":
            raise bus.GiveUp("no")
        return payload

    bus.enqueue_many(test_topic, ["ok", "ok", "fail", "hang"])
    with agents.running(
        test_topic, some_fail, concurrency=7, agent_id="told", grace_s=0.1
    ):
        wait_until(
            lambda: _agent("told").get("done") == 2 and _agent("told")["failed"] == 1,
            10,
            "the record tells what was done",
        )
        record = _agent("told")

    assert record["agent_type"] == "mesh"
    assert record["state"] == "live"
    assert record["topics"] == [test_topic]
    assert (record["slots"], record["in_flight"]) == (7, 1)
    assert record["rss_bytes"] > 1_000_000
    assert record["cpu"] >= 0
    assert record["version"] and record["host"] and record["pid"] > 0
    assert record["consumer"].startswith("told#")
    assert 0 <= _seconds(record["started_at"], record["last_read_at"]) < 60


def test_an_agent_is_off_the_list_as_soon_as_it_has_drained(test_topic: str) -> None:
    with agents.running(test_topic, echo, agent_id="leaver"):
        wait_until(lambda: _agent("leaver"), 5, "the agent is registered")

    assert _agent("leaver") == {}


def test_an_agent_shows_that_it_drains(test_topic: str) -> None:
    seen = threading.Event()

    async def until_seen(payload: Any, task: Any) -> None:
        while not seen.is_set():
            await asyncio.sleep(0.01)

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, until_seen, agent_id="leaver") as agent:
        _in_state(test_topic, task_id, "running")
        agent.stop()

        wait_until(lambda: _agent("leaver").get("state") == "draining", 5, "it drains")
        seen.set()


def test_an_agent_that_was_killed_is_off_the_list_within_seconds(
    test_topic: str,
) -> None:
    with agents.process(
        test_topic, "tests.support.work:echo", "--agent-id", "victim"
    ) as child:
        wait_until(lambda: _agent("victim"), 20, "the agent is registered")
        child.kill()
        child.wait(5)

        wait_until(lambda: not _agent("victim"), 5, "its registration has expired")


def test_a_restart_under_the_same_id_stays_on_the_list(test_topic: str) -> None:
    with agents.running(test_topic, echo, agent_id="same") as first:
        wait_until(lambda: _agent("same"), 5, "the first is registered")
        with agents.running(test_topic, echo, agent_id="same"):
            other = wait_until(
                lambda: _agent("same").get("consumer") != first.consumer, 5, "a second"
            )
            first.stop()
            task_id = bus.enqueue_task(test_topic, "x")
            task = bus.wait_result(task_id, test_topic, 10)
            wait_until(lambda: _agent("same"), 3, "the second is (again) registered")

    assert other
    assert task.agent == "same"


def test_what_a_hand_written_agent_left_behind_is_free_when_it_signs_off(
    test_topic: str,
) -> None:
    bus.register_agent("by-hand", "script", ttl_seconds=60)
    task_id = bus.enqueue_task(test_topic, "x")
    assert bus.read_group(test_topic, "default", "by-hand")

    with agents.running(test_topic, echo, agent_id="runtime"):
        wait_until(lambda: _agent("runtime"), 5, "an agent is there")
        bus.deregister_agent("by-hand")
        task = bus.wait_result(task_id, test_topic, 10)

    assert (task.state, task.agent) == ("done", "runtime")


def test_a_registered_hand_written_agent_keeps_its_task_beyond_a_lease(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_LEASE_S = 1.0
    settings.MESH_JUDGE_AFTER_S = 0.5
    bus.register_agent("by-hand", "script", ttl_seconds=60)
    kept, freed = bus.enqueue_task(test_topic, 1), bus.enqueue_task(test_topic, 2)
    [(entry_id, _)] = bus.read_group(test_topic, "default", "by-hand")
    assert bus.read_group(test_topic, "default", "nobody")

    with agents.running(test_topic, echo):
        # The unregistered reader's task goes round: the lease is over by then.
        bus.wait_result(freed, test_topic, 10)
        state = bus.get_task(kept, test_topic).state

    assert state == "running"
    assert bus.ack(test_topic, "default", entry_id) == 1


def test_the_runtime_joins_the_group_a_hand_written_agent_chose(
    test_topic: str,
) -> None:
    bus.create_consumer_group(test_topic, "mine")
    ids = bus.enqueue_many(test_topic, range(400))
    by_hand: list[str] = []

    with agents.running(test_topic, nap, concurrency=2):
        wait_until(lambda: bus.tail_results(test_topic, 1), 20, "the runtime has begun")
        while rows := bus.read_group(test_topic, "mine", "hand", 5, 100):
            for entry_id, fields in rows:
                assert bus.ack(test_topic, "mine", entry_id) == 1
                by_hand.append(fields["id"])
        _all_done(test_topic, 400)

    by_runtime = [row["id"] for _, row in bus.tail_results(test_topic, 500)]
    assert by_hand and by_runtime
    assert sorted(by_hand + by_runtime) == sorted(ids)


def test_the_runtime_leaves_no_second_group_where_one_was_chosen(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, "mine")
    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, echo):
        bus.wait_result(task_id, test_topic, 10)

    groups: Any = redis_client.xinfo_groups(bus.task_stream(test_topic))
    assert [group["name"] for group in groups] == ["mine"]


# --- time


@pytest.mark.parametrize("delay_s", [0.2, 1.5])
def test_a_delayed_task_starts_on_time(test_topic: str, delay_s: float) -> None:
    with agents.running(test_topic, echo):
        bus.wait_result(bus.enqueue_task(test_topic, "warm"), test_topic, 10)
        with Stalls() as stalls:
            task_id = bus.enqueue_task(test_topic, "x", delay_s=delay_s)
            bus.wait_result(task_id, test_topic, 10)

    row = next(row for _, row in bus.tail_results(test_topic) if row["id"] == task_id)
    waited_s = _seconds(row["enqueued_at"], row["started_at"])
    assert delay_s - 0.01 <= waited_s < delay_s + 1.0 + NOISE_S + stalls.total_s


def test_a_paused_topic_starts_nothing_and_goes_on_when_resumed(
    test_topic: str,
) -> None:
    starts: list[float] = []
    began: Counter[str] = Counter()

    async def slow(payload: Any, task: Any) -> None:
        starts.append(time.monotonic())
        began[task.id] += 1
        await asyncio.sleep(0.1)

    bus.enqueue_many(test_topic, range(200))
    with (
        Stalls() as stalls,
        agents.running(test_topic, slow, concurrency=4, agent_id="one"),
        agents.running(test_topic, slow, concurrency=4, agent_id="two"),
    ):
        wait_until(lambda: len(starts) > 20, 10, "they are at work")
        bus.pause(test_topic)
        paused = time.monotonic()
        wait_until(
            lambda: (
                time.monotonic() - paused > 2.5
                and bus.stats(test_topic)["running"] == 0
            ),
            10,
            "nothing runs any more",
        )
        while_paused, so_far = bus.stats(test_topic), len(starts)
        bus.resume(test_topic)
        _all_done(test_topic, 200)

    assert so_far < 200
    assert max(starts[:so_far]) < paused + PAUSED_S + NOISE_S + stalls.total_s
    # Those that ran have finished; those nobody had started went back.
    assert while_paused["done"] == so_far
    assert while_paused["waiting"] == 200 - so_far
    assert set(began.values()) == {1}
    assert bus.stats(test_topic)["retried"] == 0


def test_a_batch_that_arrives_after_the_pause_is_not_run(test_topic: str) -> None:
    ran: list[Any] = []

    async def note(payload: Any, task: Any) -> None:
        ran.append(payload)

    with agents.running(test_topic, note):
        bus.wait_result(bus.enqueue_task(test_topic, "warm"), test_topic, 10)
        for number in range(5):
            # An idle agent blocks in a read: it takes the task at once.
            bus.pause(test_topic)
            task_id = bus.enqueue_task(test_topic, number)
            _in_state(test_topic, task_id, "waiting", 3)
            assert ran == ["warm", *range(number)]
            bus.resume(test_topic)
            bus.wait_result(task_id, test_topic, 10)

    assert ran == ["warm", *range(5)]


# --- cancel


def test_a_running_async_task_is_cancelled_within_2_s(test_topic: str) -> None:
    told = threading.Event()

    async def long(payload: Any, task: Any) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            told.set()
            raise

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, long):
        _in_state(test_topic, task_id, "running")
        with Stalls() as stalls:
            state = bus.cancel(task_id, test_topic)
            began = time.monotonic()
            _in_state(test_topic, task_id, "cancelled")
            took_s = time.monotonic() - began

    assert state == "running"
    assert took_s < CANCELLED_S + stalls.total_s
    assert told.is_set()
    assert bus.stats(test_topic)["cancelled"] == 1
    assert bus.tail_results(test_topic) == []


def _sync_long(payload: Any, task: Any) -> None:
    time.sleep(12)


@pytest.mark.parametrize("cpu", [False, True], ids=["thread", "process"])
def test_a_running_sync_task_is_cancelled_long_before_it_ends(
    test_topic: str, cpu: bool
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, _sync_long, cpu=cpu, concurrency=1, grace_s=0.1):
        _in_state(test_topic, task_id, "running")
        bus.cancel(task_id, test_topic)

        _in_state(test_topic, task_id, "cancelled", 6.0)


def test_a_completion_that_arrives_before_the_cancel_wins(
    test_topic: str, settings: Settings
) -> None:
    # The beat after that with which the agent comes would stop it: it is far away.
    settings.MESH_BEAT_S, settings.MESH_EXPIRY_S = 10.0, 60.0
    go = threading.Event()

    def waits(payload: Any, task: Any) -> str:
        go.wait(30)
        return "finished"

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, waits, concurrency=1):
        _in_state(test_topic, task_id, "running")
        state = bus.cancel(task_id, test_topic)
        go.set()
        task = bus.wait_result(task_id, test_topic, 10)

    assert state == "running"
    assert (task.state, task.result) == ("done", "finished")


def _agent_beats(topic: str) -> Any:
    """Changes with every beat of the only agent: how long its lease is idle."""
    rows: Any = bus.get_redis().xpending_range(
        bus.task_stream(topic), "default", "-", "+", 1
    )
    return rows[0]["time_since_delivered"] if rows else None


def _next_beat(idle_ms: Callable[[], Any]) -> None:
    """Wait until the lease has just been renewed."""
    seen: list[Any] = [idle_ms()]

    def renewed() -> bool:
        seen.append(idle_ms())
        return bool(seen[-1] < seen[-2])

    wait_until(renewed, 5, "a beat")


def test_a_failure_after_the_cancel_ends_cancelled_not_dead(test_topic: str) -> None:
    go = threading.Event()

    def fails(payload: Any, task: Any) -> str:
        go.wait(30)
        raise ValueError("too late")

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, fails, concurrency=1, max_attempts=1):
        _in_state(test_topic, task_id, "running")
        bus.cancel(task_id, test_topic)
        go.set()
        task = bus.wait_result(task_id, test_topic, 10)

    assert task.state == "cancelled"
    assert bus.stats(test_topic)["dead"] == 0


def test_a_cancelled_task_whose_agent_is_gone_is_not_started_again(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")
    assert bus.read_group(test_topic, "default", "hand")
    assert bus.cancel(task_id, test_topic) == "running"

    judge.take(test_topic, "default", "hand", 0)

    assert bus.get_task(task_id, test_topic).state == "cancelled"


def test_a_cancelled_task_whose_agent_drains_is_not_started_again(
    test_topic: str,
) -> None:
    began: list[str] = []

    async def long(payload: Any, task: Any) -> None:
        began.append(task.id)
        await asyncio.sleep(60)

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, long, grace_s=0.0) as agent:
        _in_state(test_topic, task_id, "running")
        _next_beat(lambda: _agent_beats(test_topic))
        bus.cancel(task_id, test_topic)
        agent.stop()
    with agents.running(test_topic, long, grace_s=0.0, agent_id="next"):
        wait_until(lambda: _agent("next"), 5, "the next agent is there")
        wait_until(
            lambda: bus.get_task(task_id, test_topic).ended, 10, "the task has ended"
        )

    assert bus.get_task(task_id, test_topic).state == "cancelled"
    assert len(began) == 1


# --- drain


def test_draining_finishes_what_runs_and_gives_back_the_rest_unharmed(
    test_topic: str,
) -> None:
    began: list[str] = []

    async def slow(payload: Any, task: Any) -> Any:
        began.append(task.id)
        await asyncio.sleep(0.3)
        return payload

    ids = bus.enqueue_many(test_topic, range(50))
    with agents.running(test_topic, slow, concurrency=3) as agent:
        wait_until(lambda: bus.stats(test_topic)["done"] >= 3, 10, "it is at work")
        agent.stop()
    stats = bus.stats(test_topic)
    left = [bus.get_task(i, test_topic) for i in ids if i not in began]

    assert stats["done"] == len(began) < 50
    assert (stats["running"], stats["lost"], stats["retried"]) == (0, 0, 0)
    assert {(task.state, task.attempt) for task in left} == {("waiting", 0)}


def test_what_does_not_finish_in_time_goes_back_without_an_attempt(
    test_topic: str,
) -> None:
    async def long(payload: Any, task: Any) -> Any:
        await asyncio.sleep(60 if task.fence.endswith(".0") else 0)
        return task.attempt

    task_id = bus.enqueue_task(test_topic, "x", max_attempts=1)
    with agents.running(test_topic, long, grace_s=0.2):
        _in_state(test_topic, task_id, "running")
    given_back = bus.get_task(task_id, test_topic)
    with agents.running(test_topic, long):
        task = bus.wait_result(task_id, test_topic, 10)

    assert (given_back.state, given_back.attempt) == ("waiting", 0)
    assert (task.state, task.result) == ("done", 1)
    assert bus.stats(test_topic)["lost"] == 0


def test_an_agent_stopped_while_it_starts_gives_everything_back(
    test_topic: str,
) -> None:
    topics = [f"{test_topic}-{number}" for number in range(20)]
    for topic in topics:
        bus.enqueue_many(topic, range(50))

    async def stops(payload: Any, task: Any) -> None:
        agent.stop()
        await asyncio.sleep(0.02)

    agent = Agent([Handler(topic, stops) for topic in topics], concurrency=2)
    try:
        # As `run` does it, but without its signals.
        loop = asyncio.new_event_loop()
        loop.run_until_complete(asyncio.wait_for(agent.main(), 15))
    finally:
        for thread in agent._threads:
            thread.close()

    assert sum(bus.stats(topic)["running"] for topic in topics) == 0


def test_a_stop_that_comes_before_the_start_is_not_forgotten(test_topic: str) -> None:
    agent = Agent([Handler(test_topic, echo)])
    thread = threading.Thread(target=lambda: asyncio.run(agent.main()), daemon=True)

    agent.stop()
    thread.start()
    thread.join(20)
    forgotten = thread.is_alive()
    agent.stop()
    thread.join(20)

    assert not forgotten
