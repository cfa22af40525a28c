"""Every call of `bus` that waits for the server can be awaited, and does the same."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

import bus

NO_WAIT = {
    "_redis_url",
    "agent_key",
    "dead_stream",
    "get_redis",  # its twin is get_redis_async
    "get_redis_async",
    "handler",
    "result_stream",
    "task_stream",
}
MARK = pytest.mark.asyncio


def _twin(name: str) -> str:
    return "await_result" if name == "wait_result" else f"a{name}"


def _is_call(name: str) -> bool:
    return inspect.isfunction(getattr(bus, name))


PLAIN = sorted(
    name
    for name in bus.__all__
    if _is_call(name)
    and name not in NO_WAIT
    and not inspect.iscoroutinefunction(getattr(bus, name))
)


def test_every_call_that_waits_has_a_twin_and_no_twin_is_alone() -> None:
    awaited = {
        name
        for name in bus.__all__
        if _is_call(name) and inspect.iscoroutinefunction(getattr(bus, name))
    }

    assert {_twin(name) for name in PLAIN} == awaited


@pytest.mark.parametrize("name", PLAIN)
def test_a_twin_takes_the_same_arguments(name: str) -> None:
    """But for `on_commit`: Django's transactions know no event loop."""
    plain, twin = (
        inspect.signature(getattr(bus, each)).parameters for each in (name, _twin(name))
    )

    assert [*twin] == [each for each in plain if each != "on_commit"]


async def _dead(topic: str) -> str:
    """The id of a task that an agent by hand gave up."""
    task_id = await bus.aenqueue_task(topic, {"n": 1})
    [(entry_id, _)] = await bus.aread_group(topic, "workers", "by-hand", block_ms=100)
    assert await bus.amove_to_dead(topic, entry_id, {"n": 1})
    return task_id


@MARK
async def test_a_letter_is_listed_discarded_restored_and_replayed(
    test_topic: str,
) -> None:
    task_id = await _dead(test_topic)

    [letter] = await bus.alist_dead(test_topic)
    [group] = await bus.adead_groups(test_topic)
    assert (letter.id, letter.fingerprint) == (task_id, group["fingerprint"])
    assert await bus.aget_dead(task_id) == letter

    await bus.adiscard(task_id)
    with pytest.raises(bus.DeadLetterNotFound):
        await bus.aget_dead(task_id)
    await bus.aundo(task_id)
    assert await bus.areplay(task_id, payload={"n": 2}) == task_id
    assert (await bus.aget_task(task_id)).payload == {"n": 2}
    with pytest.raises(bus.NotDead):
        await bus.areplay(task_id, test_topic)


@MARK
async def test_a_task_is_explained_started_and_cancelled(test_topic: str) -> None:
    task_id = await bus.aenqueue_task(test_topic, 1, delay_s=600)

    assert await bus.aexplain(task_id) == bus.explain(task_id)
    assert await bus.arun_now(task_id) == task_id
    [task], _ = await bus.alist_tasks(test_topic, "waiting")
    assert task.id == task_id
    assert await bus.acancel(task_id) == "cancelled"
    assert (await bus.aget_task(task_id)).state == "cancelled"


@MARK
async def test_a_task_that_was_taken_by_hand_is_acknowledged(test_topic: str) -> None:
    await bus.acreate_consumer_group(test_topic, "workers")
    task_id = await bus.aenqueue_task(test_topic, 1)
    [(entry_id, fields)] = await bus.aread_group(test_topic, "workers", "by-hand")

    assert fields["id"] == task_id
    assert await bus.aack(test_topic, "workers", entry_id) == 1
    assert await bus.aack(test_topic, "workers", entry_id) == 0
    assert (await bus.aget_task(task_id)).state == "done"


@MARK
async def test_a_topic_is_paused_bounded_emptied_and_deleted(test_topic: str) -> None:
    await bus.aset_limits(test_topic, backlog_max=1)
    await bus.apause(test_topic)
    await bus.aenqueue_task(test_topic, 1)
    with pytest.raises(bus.TopicFull):
        await bus.aenqueue_task(test_topic, 2)

    stats = await bus.astats(test_topic)
    assert (stats["waiting"], stats["paused"]) == (1, True)
    assert test_topic in await bus.alist_topics()
    await bus.aresume(test_topic)
    assert not (await bus.astats(test_topic))["paused"]
    await bus.apurge_topic(test_topic, "waiting")
    assert (await bus.astats(test_topic))["waiting"] == 0
    await bus.adelete_topic(test_topic)
    assert test_topic not in await bus.alist_topics()


@MARK
async def test_an_agent_comes_beats_and_goes(redis_client: Any) -> None:
    await bus.aregister_agent("by-hand", "resizer", meta={"zone": "a"})

    assert await bus.aheartbeat_agent("by-hand")
    agent = await bus.aget_agent("by-hand")
    assert (agent["agent_type"], agent["meta"]) == ("resizer", {"zone": "a"})
    assert [row["agent_id"] for row in await bus.alist_agents()] == ["by-hand"]
    await bus.aderegister_agent("by-hand")
    assert await bus.alist_agents() == []
    assert not await bus.aheartbeat_agent("by-hand")
    with pytest.raises(bus.AgentNotFound):
        await bus.aget_agent("never-here")
