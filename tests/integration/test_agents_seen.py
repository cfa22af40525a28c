"""Agents as pages show them, the gone ones too."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import agents, auditor, errors, janitor, keys
from bus.agent import Agent
from bus.handlers import Handler
from bus.runtime import intake
from tests.support import agents as runtime
from tests.support import work
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE, wait_until


def states() -> dict[str, str]:
    return {row["agent_id"]: row["state"] for row in agents.overview()}


def age(client: redis.Redis, agent_id: str, by_s: float) -> None:
    """Let the agent's last beat lie further back."""
    kept: Any = client.hget(keys.GONE, agent_id)
    beat, rest = kept.split("|", 1)
    client.hset(keys.GONE, agent_id, f"{int(beat) - int(by_s * 1000)}|{rest}")


def told(agent_id: str, ttl_s: float = 60, **facts: Any) -> None:
    """Register as our runtime does, with these facts."""
    record = {"agent_id": agent_id, "agent_type": "mesh", "meta": {}, **facts}
    agents.register(agent_id, f"{agent_id}#00000001", ttl_s, record)


def test_an_agent_of_the_runtime_shows_what_it_does(test_topic: str) -> None:
    with runtime.running(test_topic, work.echo, agent_id="echo-1", concurrency=4):
        bus.wait_result(bus.enqueue_task(test_topic, 1), test_topic)
        # Its first beat may come after its first result.
        wait_until(lambda: [one["done"] for one in bus.list_agents()] == [1])

        row = bus.get_agent("echo-1")

        assert row["state"] == "idle"
        assert (row["topics"], row["slots"], row["in_flight"]) == ([test_topic], 4, 0)
        assert 0 < row["expires_in_s"] <= 3
        assert row["rss_bytes"] > 0 and row["pid"] and row["version"]
        assert row["ended_per_minute"] > 0
        assert row["last_beat_at"] >= row["started_at"]
        assert agents.overview()[0].keys() == row.keys()

        # Its last words count what it does right before it ends.
        bus.wait_result(bus.enqueue_task(test_topic, 2), test_topic)

    row = bus.get_agent("echo-1")
    assert (row["state"], row["expires_in_s"]) == ("gone", 0)
    assert (row["done"], row["topics"]) == (2, [test_topic])


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"in_flight": 0}, "idle"),
        ({"in_flight": 2}, "live"),
        ({}, "live"),
        ({"in_flight": 0, "unread_s": 6.1}, "deaf"),
        ({"in_flight": 0, "unread_s": 5.9}, "idle"),
        ({"in_flight": 2, "state": "draining", "unread_s": 9}, "draining"),
        ({"unread_s": "soon", "in_flight": None}, "live"),
    ],
)
def test_a_state_says_what_matters_most(
    test_topic: str, facts: dict[str, Any], state: str
) -> None:
    told("one", **facts)

    assert states() == {"one": state}


@pytest.mark.parametrize(
    ("age_s", "state"), [(160, "idle"), (190, "late"), (280, "late"), (310, "gone")]
)
def test_two_missed_beats_are_late_and_the_end_of_the_ttl_is_gone(
    test_topic: str, redis_client: redis.Redis, age_s: float, state: str
) -> None:
    told("one", 300, in_flight=0)

    age(redis_client, "one", age_s)

    assert states() == {"one": state}


def test_an_agent_tells_of_each_of_its_topics(test_topic: str) -> None:
    other = f"{test_topic}-other"
    found = [Handler(test_topic, work.nap, concurrency=3), Handler(other, work.echo)]
    with runtime.serving(Agent(found, agent_id="two")):
        bus.wait_result(bus.enqueue_task(test_topic, 1), test_topic)

        row = wait_until(
            lambda: (
                (seen := bus.get_agent("two"))["per_topic"][test_topic]["run_s"]
                and seen
            ),
            10,
        )

        mine, others = row["per_topic"][test_topic], row["per_topic"][other]
        assert (mine["slots"], mine["in_flight"]) == (3, 0)
        assert 0.01 <= mine["run_s"] < 5
        nothing = {"run_s": None, "why": None}
        assert others == {"slots": 100, "in_flight": 0, **nothing}
        assert row["slots"] == 103


@pytest.mark.parametrize("broken", [None, 7, "x", ["t"]])
def test_what_is_no_table_of_topics_is_shown_as_none(
    test_topic: str, broken: Any
) -> None:
    told("one", per_topic=broken)

    assert bus.get_agent("one")["per_topic"] == {}


def test_an_agent_by_hand_is_late_after_most_of_its_own_ttl(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.register_agent("by-hand", "shell", 100, {"v": 1})
    age(redis_client, "by-hand", 61)
    assert states() == {"by-hand": "late"}

    bus.heartbeat_agent("by-hand", 100)

    row = bus.get_agent("by-hand")
    assert (row["state"], row["meta"], row["topics"]) == ("live", {"v": 1}, [])
    assert row["in_flight"] is None and 99 < row["expires_in_s"] <= 100


def test_the_gone_stand_behind_the_others_and_keep_their_last_record(
    test_topic: str,
) -> None:
    bus.register_agent("a", "shell", meta={"v": 1})
    bus.register_agent("b", "shell")
    bus.deregister_agent("a")

    rows = agents.overview()

    assert [(row["agent_id"], row["state"]) for row in rows] == [
        ("b", "live"),
        ("a", "gone"),
    ]
    assert rows[1]["meta"] == {"v": 1}
    assert [row["agent_id"] for row in bus.list_agents()] == ["b"]


def test_one_that_comes_back_is_live_again(test_topic: str) -> None:
    bus.register_agent("a", "shell")
    bus.deregister_agent("a")

    bus.register_agent("a", "shell")

    assert states() == {"a": "live"}


def test_an_agent_nobody_saw_is_not_found(redis_client: redis.Redis) -> None:
    with pytest.raises(errors.AgentNotFound, match="'ghost'"):
        bus.get_agent("ghost")
    with pytest.raises(errors.InvalidName):
        bus.get_agent("a b")


def test_what_somebody_else_wrote_among_them_is_passed_over(
    redis_client: redis.Redis,
) -> None:
    rows = {"x": "{}", "y": "1|2|[]", "z": "a|b|{}", "w": ""}
    redis_client.hset(keys.GONE, mapping=rows)

    assert agents.overview() == []


def test_who_serves_a_topic_is_found_without_reading_all_records(
    redis_client: redis.Redis,
) -> None:
    told("a", topics=["mail"])
    told("b", topics=["mail-2"])
    told("c", topics=[])
    bus.register_agent("d", "shell", meta={"says": "mail"})
    redis_client.hset(keys.GONE, mapping={"x": '1|2|["mail"]', "c2": "1|2|{}"})

    found = agents.serving("mail", "c")

    # Who names the topic elsewhere may be among them: its row tells that it does not.
    assert [row["agent_id"] for row in found] == ["a", "c", "d"]
    assert [row["topics"] for row in found] == [["mail"], [], []]
    whole = {row["agent_id"]: row for row in agents.overview()}
    assert all(row.keys() == whole[row["agent_id"]].keys() for row in found)


def test_a_thousand_agents_take_one_round_trip(
    redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(1_000):
        told(f"agent-{n}", in_flight=n % 2, topics=["mail"], slots=8)
    agents.overview()

    began = time.perf_counter()
    with Stalls() as stalls:
        rows = agents.overview()
    took_s = time.perf_counter() - began - stalls.total_s

    assert len(rows) == 1_000
    assert took_s < 1  # 10 ms on a quiet machine


def test_the_last_record_goes_with_the_day(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.register_agent("old", "shell")
    bus.register_agent("new", "shell")
    last_seen(redis_client, "old", hours_ago=25)

    janitor.forget_agents()

    assert states() == {"new": "live"}


def test_an_agent_that_was_started_again_outlives_its_former_self(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.register_agent("again", "shell")
    redis_client.zadd(keys.AGENTS, {"again#00000000": 1})

    janitor.forget_agents()

    assert states() == {"again": "live"}
    assert redis_client.zrange(keys.AGENTS, 0, -1) == ["again"]


def test_only_the_newest_of_those_that_are_gone_are_kept(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_GONE_AGENTS_KEEP = 3
    for n in range(8):
        bus.register_agent(f"agent-{n}", "shell")
        last_seen(redis_client, f"agent-{n}", hours_ago=10 - n)
    bus.register_agent("live", "shell")

    janitor.forget_agents()

    assert set(states()) == {"agent-6", "agent-7", "live"}


def test_records_without_an_index_go_as_well(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.register_agent("old", "shell")
    last_seen(redis_client, "old", hours_ago=25)
    redis_client.delete(keys.AGENTS)

    janitor.forget_agents()

    assert states() == {}


def last_seen(client: redis.Redis, agent_id: str, hours_ago: int) -> None:
    """As if the agent had been heard of so long ago for the last time."""
    at = agents.server_ms() - hours_ago * 3_600_000
    _, _, rest = str(client.hget(keys.GONE, agent_id)).partition("|")
    client.hset(keys.GONE, agent_id, f"{at}|{rest}")
    client.zadd(keys.AGENTS, {agent_id: at + 60_000})


def test_an_agent_whose_reads_fail_while_it_beats_is_deaf(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "_DEAF_S", 0.3)
    # The audit would make the agent hear again, within a second or two.
    monkeypatch.setattr(auditor, "tick", lambda topics, say: None)
    monkeypatch.setattr(auditor, "tick", lambda *args: None)  # it would mend the key
    with runtime.running(test_topic, work.echo, agent_id="echo-1"):
        wait_until(lambda: states().get("echo-1") == "idle")
        redis_client.rename(bus.task_stream(test_topic), "moved-away")
        redis_client.set(bus.task_stream(test_topic), "no stream")

        wait_until(lambda: states()["echo-1"] == "deaf", 10)

        redis_client.rename("moved-away", bus.task_stream(test_topic))
        wait_until(lambda: states()["echo-1"] == "idle", 5)


def test_an_idle_agent_whose_read_waits_in_the_server_is_never_overdue(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_BLOCK_S", 2.0)
    with runtime.running(test_topic, work.echo) as agent:
        wait_until(lambda: bus.list_agents())
        until = time.monotonic() + 3.0  # longer than one blocking read

        overdue = []
        with Stalls() as stalls:
            while time.monotonic() < until:
                overdue.append(agent.record()["unread_s"])
                time.sleep(0.02)

        assert max(overdue) < 1.5 + stalls.total_s


def test_a_bug_in_the_beats_ends_the_agent(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    beats = iter([ValueError("a bug of ours")])

    def beat(*args: Any) -> bool:
        raise next(beats, errors.BusUnavailable("only the first one counts"))

    monkeypatch.setattr(agents, "beat", beat)

    with pytest.raises(ValueError, match="a bug of ours"):
        asyncio.run(Agent([Handler(test_topic, work.echo)]).main())


async def see_agents(payload: Any, task: Any) -> list[str]:
    """Which agents are registered while this runs."""
    rows = await asyncio.to_thread(bus.list_agents)
    return [row["agent_id"] for row in rows]


def test_an_agent_takes_no_task_before_it_is_registered(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id, register = bus.enqueue_task(test_topic, 1), agents.register

    def late(*args: Any) -> int:
        time.sleep(0.2)  # long enough for a task to be read and run
        return register(*args)

    monkeypatch.setattr(agents, "register", late)
    with runtime.running(test_topic, see_agents, agent_id="one"):
        task = bus.wait_result(task_id, test_topic)

    assert task.result == ["one"]


def test_a_topic_that_somebody_broke_costs_the_others_no_lease(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_BEAT_S = 0.1
    broken = f"{test_topic}-broken"
    found = [Handler(broken, work.echo), Handler(test_topic, work.rest)]
    with runtime.serving(Agent(found)):
        wait_until(bus.list_agents)
        key = keys.named("settings", broken)
        redis_client.delete(key)
        redis_client.set(key, "no hash")

        task_id = bus.enqueue_task(test_topic, 0.8 * PATIENCE)
        wait_until(lambda: bus.stats(test_topic)["running"] == 1)
        idle_ms = []
        with Stalls() as stalls:
            while bus.get_task(task_id, test_topic).state == "running":
                rows: Any = redis_client.xpending_range(
                    bus.task_stream(test_topic), "default", "-", "+", 1
                )
                idle_ms += [row["time_since_delivered"] for row in rows]

    assert max(idle_ms) < 400 * PATIENCE + 1000 * stalls.total_s
