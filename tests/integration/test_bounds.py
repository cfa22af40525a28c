"""Bounds refuse and never delete; a server without memory finishes what it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import auditor, connection, errors, janitor, judge, keys, looks, scripts
from tests.support import agents, work
from tests.support.waiting import wait_until

GROUP = "workers"
TASK_ID = "0198c0de-0000-7000-8000-00000000abcd"


def everything() -> dict[bytes, bytes | None]:
    """Every key of the server with its serialised value."""
    with redis.Redis.from_url(bus._redis_url()) as client:
        return {name: client.dump(name) for name in client.scan_iter(count=1_000)}


def read(topic: str, count: int = 1) -> list[str]:
    """Entry ids in the hand of agent `me` now."""
    entries = bus.read_group(topic, GROUP, "me", count, block_ms=0)
    return [entry_id for entry_id, _ in entries]


def bury(topic: str, count: int) -> list[str]:
    """Ids of that many dead tasks."""
    ids = bus.enqueue_many(topic, range(count))
    for entry_id in read(topic, count):
        bus.move_to_dead(topic, entry_id, {})
    return ids


def drift(topic: str) -> int:
    return int(bus.stats(topic)["ledger"]["drift"])


# --- backlog


def test_a_full_topic_refuses_and_writes_nothing(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=3)
    bus.enqueue_many(test_topic, range(3))
    before = everything()

    with pytest.raises(errors.TopicFull, match="is full") as refusal:
        bus.enqueue_task(test_topic, "too much")

    assert everything() == before
    assert refusal.value.code == "topic_full"
    assert refusal.value.retry_after_s > 0
    assert refusal.value.accepted == []


def test_a_refusal_says_what_to_do(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=1)
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.TopicFull, match="raise the limit"):
        bus.enqueue_task(test_topic, 2)


def test_the_backlog_counts_what_waits_runs_and_is_delayed(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=3)
    bus.enqueue_task(test_topic, "running")
    read(test_topic)
    bus.enqueue_task(test_topic, "waiting")
    bus.enqueue_task(test_topic, "delayed", delay_s=60)

    for delay_s in (None, 60):
        with pytest.raises(errors.TopicFull):
            bus.enqueue_task(test_topic, "too much", delay_s=delay_s)


def test_a_finished_task_makes_room(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=1)
    bus.enqueue_task(test_topic, 1)
    [entry_id] = read(test_topic)

    bus.ack(test_topic, GROUP, entry_id)

    assert bus.enqueue_task(test_topic, 2)


def test_a_full_topic_still_knows_the_tasks_it_has(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=1)
    bus.enqueue_task(test_topic, 1, task_id=TASK_ID)

    assert bus.enqueue_task(test_topic, 1, task_id=TASK_ID) == TASK_ID
    with pytest.raises(errors.TaskConflict):
        bus.enqueue_task(test_topic, 2, task_id=TASK_ID)


def test_of_many_tasks_those_before_the_bound_are_accepted(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=130)

    with pytest.raises(errors.TopicFull) as refusal:
        bus.enqueue_many(test_topic, range(250))

    accepted = refusal.value.accepted
    assert len(accepted) == 130
    payloads = [bus.get_task(task_id, test_topic).payload for task_id in accepted]
    assert payloads == list(range(130))
    assert bus.stats(test_topic)["backlog"] == 130


def test_a_source_that_breaks_half_way_leaves_the_ids_of_what_was_accepted(
    test_topic: str,
) -> None:
    def rows() -> Iterator[int]:
        yield from range(250)
        raise ValueError("row 250 is torn")

    with pytest.raises(ValueError, match="row 250 is torn") as broken:
        bus.enqueue_many(test_topic, rows())

    accepted: list[str] = vars(broken.value)["accepted"]
    payloads = [bus.get_task(task_id, test_topic).payload for task_id in accepted]
    assert payloads == list(range(200))  # a hundred goes once it is complete
    assert bus.stats(test_topic)["backlog"] == 200
    assert broken.value.__notes__ == ["200 tasks of this call were accepted before"]


def test_of_many_tasks_one_that_is_none_leaves_the_ids_of_those_before(
    test_topic: str,
) -> None:
    with pytest.raises(errors.InvalidPayload, match=r"payloads\[130\]") as refusal:
        bus.enqueue_many(test_topic, [*range(130), {1, 2}, 3])

    accepted: list[str] = vars(refusal.value)["accepted"]
    assert len(accepted) == bus.stats(test_topic)["backlog"] == 100


def test_nobody_gets_past_the_bound_at_once_either(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=10)

    def send(n: int) -> bool:
        try:
            return bool(bus.enqueue_task(test_topic, n))
        except errors.TopicFull:
            return False

    with ThreadPoolExecutor(8) as pool:
        accepted = list(pool.map(send, range(60)))

    assert accepted.count(True) == 10
    assert bus.stats(test_topic)["backlog"] == 10


@pytest.mark.parametrize(
    ("maxlen", "limit", "room"), [(2, None, 2), (2, 5, 2), (9, 3, 3)]
)
def test_the_smaller_of_the_bounds_of_call_and_topic_counts(
    test_topic: str, maxlen: int, limit: int | None, room: int
) -> None:
    bus.set_limits(test_topic, backlog_max=limit)
    for n in range(room):
        bus.enqueue_task(test_topic, n, maxlen)

    with pytest.raises(errors.TopicFull):
        bus.enqueue_task(test_topic, "too much", maxlen)

    assert bus.stats(test_topic)["backlog"] == room


def test_the_bound_of_a_call_counts_for_asyncio_as_well(test_topic: str) -> None:
    async def fill() -> None:
        await bus.aenqueue_task(test_topic, 1, 2)
        with pytest.raises(errors.TopicFull) as full:
            await bus.aenqueue_many(test_topic, range(150), 40)
        assert len(full.value.accepted) == 39
        with pytest.raises(errors.TopicFull):
            await bus.aenqueue_task(test_topic, "too much", 40)

    asyncio.run(fill())

    assert bus.stats(test_topic)["backlog"] == 40


def test_the_bound_of_one_call_binds_no_other(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1, 1)

    assert bus.enqueue_task(test_topic, 2)


def test_the_default_bound_is_a_setting(test_topic: str, settings: Settings) -> None:
    settings.MESH_BACKLOG_MAX = 1
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.TopicFull):
        bus.enqueue_task(test_topic, 2)


def test_a_bound_taken_back_is_the_default_again(test_topic: str) -> None:
    bus.set_limits(test_topic, backlog_max=1)
    bus.set_limits(test_topic, backlog_max=None)

    assert len(bus.enqueue_many(test_topic, range(5))) == 5
    assert bus.stats(test_topic)["limits"]["backlog_max"] == 100_000


@pytest.mark.parametrize(
    "limits",
    [{"backlog_max": bad} for bad in (0, -1, 1.5, "5", True, float("nan"), 10**400)]
    + [{"results_keep": bad} for bad in (-1, 0.5, 10**9)]
    + [{"timeout_s": bad} for bad in (0, -1, float("inf"), "5", 10**7)]
    + [{"max_attempts": bad} for bad in (0, 1_001)]
    + [{"no_such_limit": 1}],
    ids=lambda limits: ascii(limits)[:32],
)
def test_a_limit_that_means_nothing_is_refused(
    test_topic: str, limits: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidOption, match=next(iter(limits))):
        bus.set_limits(test_topic, **limits)

    assert everything() == {}


def test_one_bad_limit_among_good_ones_changes_nothing(test_topic: str) -> None:
    with pytest.raises(errors.InvalidOption):
        bus.set_limits(test_topic, results_keep=5, backlog_max=0)

    assert everything() == {}


@pytest.mark.parametrize("ids", [[], [TASK_ID]], ids=["none", "one"])
def test_too_few_ids_for_many_tasks_are_an_error(
    test_topic: str, ids: list[str]
) -> None:
    with pytest.raises(errors.InvalidOption, match="task_ids"):
        bus.enqueue_many(test_topic, [1, 2], task_ids=ids)

    assert everything() == {}


# --- dead letters


def test_dead_letters_at_their_bound_stop_the_intake(test_topic: str) -> None:
    bus.set_limits(test_topic, dead_max=2)
    bury(test_topic, 2)
    before = everything()

    with pytest.raises(errors.TopicFull, match="dead letters"):
        bus.enqueue_task(test_topic, "too much")

    assert everything() == before


def test_dead_letters_at_their_bound_are_never_dropped(test_topic: str) -> None:
    bus.set_limits(test_topic, dead_max=2)
    bus.enqueue_many(test_topic, range(5))

    for entry_id in read(test_topic, 5):
        bus.move_to_dead(test_topic, entry_id, {})

    assert bus.stats(test_topic)["dead"] == 5
    assert drift(test_topic) == 0


@pytest.mark.parametrize("way_out", [bus.replay, bus.discard])
def test_a_letter_handled_lets_tasks_in_again(
    test_topic: str, way_out: Callable[[str, str], Any]
) -> None:
    bus.set_limits(test_topic, dead_max=1)
    [task_id] = bury(test_topic, 1)

    way_out(task_id, test_topic)

    assert bus.enqueue_task(test_topic, "welcome")


# --- topics


def test_a_mesh_of_too_many_topics_takes_no_new_one(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_TOPICS_MAX = 2
    bus.enqueue_task(f"{test_topic}:1", 1)
    bus.enqueue_task(f"{test_topic}:2", 1)
    before = everything()

    with pytest.raises(errors.TooManyTopics, match="MESH_TOPICS_MAX"):
        bus.enqueue_task(f"{test_topic}:3", 1)

    assert everything() == before
    assert bus.enqueue_task(f"{test_topic}:1", 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda topic: bus.create_consumer_group(topic, GROUP),
        lambda topic: bus.read_group(topic, GROUP, "me", block_ms=0),
        lambda topic: bus.move_to_dead(topic, "1-0", {}),
        lambda topic: bus.set_limits(topic, results_keep=1),
    ],
    ids=["create_consumer_group", "read_group", "move_to_dead", "set_limits"],
)
def test_no_other_call_makes_a_topic_too_many(
    test_topic: str, settings: Settings, call: Callable[[str], Any]
) -> None:
    settings.MESH_TOPICS_MAX = 1
    bus.enqueue_task(test_topic, 1)
    before = everything()

    with pytest.raises(errors.TooManyTopics):
        call(f"{test_topic}:new")

    assert everything() == before


# --- without memory


@pytest.fixture
def out_of_memory(redis_client: redis.Redis) -> Iterator[Callable[[], None]]:
    """Call it, and from then on the server has less memory than it uses."""
    yield lambda: redis_client.config_set("maxmemory", "100kb")
    redis_client.config_set("maxmemory", 0)


@pytest.fixture
def impatient(settings: Settings) -> None:
    settings.MESH_SEND_RETRY_S = 0.05


@pytest.mark.parametrize("delay_s", [None, 60])
def test_a_server_without_memory_refuses_a_task_whole(
    test_topic: str,
    out_of_memory: Callable[[], None],
    impatient: None,
    delay_s: float | None,
) -> None:
    bus.enqueue_task(test_topic, 1)
    before = everything()
    out_of_memory()

    with pytest.raises(errors.BusUnavailable) as refusal:
        bus.enqueue_task(test_topic, "too much", delay_s=delay_s)

    assert everything() == before
    assert refusal.value.outcome == "not_written"


def test_a_server_without_memory_refuses_a_batch_whole(
    test_topic: str, out_of_memory: Callable[[], None], impatient: None
) -> None:
    ids = bus.enqueue_many(test_topic, range(3))
    before = everything()
    out_of_memory()

    with pytest.raises(errors.BusUnavailable):
        bus.enqueue_many(test_topic, range(100))
    with pytest.raises(errors.BusUnavailable):
        bus.enqueue_many(test_topic, [0, "new"], task_ids=[ids[0], TASK_ID])

    assert everything() == before


WITHOUT_MEMORY: dict[str, Callable[[str, dict[str, str]], Any]] = {
    "read": lambda topic, given: bus.read_group(topic, GROUP, "me", block_ms=0)[0],
    "ack": lambda topic, given: bus.ack(topic, GROUP, given["running"]) == 1,
    "move_to_dead": lambda topic, given: bus.move_to_dead(
        topic, given["running"], {"error": "x" * 20_000}
    ),
    "move unknown to dead": lambda topic, given: bus.move_to_dead(topic, "1-0", {}),
    "replay": lambda topic, given: bus.replay(given["dead"], topic),
    "discard": lambda topic, given: bus.discard(given["dead"], topic) is None,
    "undo": lambda topic, given: bus.undo(given["discarded"], topic),
    "cancel waiting": lambda topic, given: bus.cancel(given["waiting"], topic),
    "cancel delayed": lambda topic, given: bus.cancel(given["delayed"], topic),
    "cancel running": lambda topic, given: bus.cancel(given["running id"], topic),
    "promote": lambda topic, given: looks.promote(topic),
    "reclaim": lambda topic, given: judge.take(topic, GROUP, "me", 0) == 1,
    "trim": lambda topic, given: janitor.trim(topic) is None,
    "purge": lambda topic, given: bus.purge_topic(topic, "all")["discarded"] == 1,
    "delete": lambda topic, given: bus.delete_topic(topic, force=True)["cancelled"],
    "settle": lambda topic, given: settled(topic) < 0,
    "audit": lambda topic, given: audited(topic, given["waiting"]) == ["record"],
    "register": lambda topic, given: bus.register_agent("new", "t") is None,
    "heartbeat": lambda topic, given: bus.heartbeat_agent("known"),
    "deregister": lambda topic, given: bus.deregister_agent("known"),
    "new group": lambda topic, given: bus.create_consumer_group(topic, "new"),
    "observe": lambda topic, given: bus.read_group(topic, "new", "me", block_ms=0),
    "pause": lambda topic, given: bus.pause(topic) is None,
    "limits": lambda topic, given: bus.set_limits(topic, results_keep=5) is None,
    "stats": lambda topic, given: bus.stats(topic),
    "get_task": lambda topic, given: bus.get_task(given["waiting"]),
    "list_agents": lambda topic, given: bus.list_agents(),
    "list_dead": lambda topic, given: bus.list_dead(topic),
}


def audited(topic: str, task_id: str) -> list[str]:
    """What the audit mends where the record of this task is torn out."""
    connection.reader().hdel(keys.named("tasks", topic), task_id)
    return [what.partition(" ")[0] for what in auditor.audit(topic).mended]


def settled(topic: str) -> int:
    connection.reader().hdel(keys.named("counters", topic), "accepted")
    return bus.settle_ledger(topic)


@pytest.mark.parametrize("name", WITHOUT_MEMORY)
def test_a_server_without_memory_does_all_that_is_not_intake(
    test_topic: str,
    redis_client: redis.Redis,
    out_of_memory: Callable[[], None],
    impatient: None,
    name: str,
) -> None:
    bus.register_agent("known", "t")
    dead, discarded = bury(test_topic, 2)
    bus.discard(discarded, test_topic)
    running_id = bus.enqueue_task(test_topic, "running")
    [running] = read(test_topic)
    waiting = bus.enqueue_task(test_topic, "waiting")
    delayed = bus.enqueue_task(test_topic, "delayed", delay_s=60)
    redis_client.zadd(keys.named("delayed", test_topic), {delayed: 1})
    given = {"dead": dead, "discarded": discarded, "running": running}
    given |= {"running id": running_id, "waiting": waiting, "delayed": delayed}
    scripts.forget_topics()  # as in a process that starts only then
    out_of_memory()

    assert WITHOUT_MEMORY[name](test_topic, given)

    assert drift(test_topic) == 0


@pytest.mark.parametrize(
    "call",
    [
        lambda topic: bus.create_consumer_group(topic, GROUP),
        lambda topic: bus.read_group(topic, GROUP, "me", block_ms=0) == [],
    ],
    ids=["create_consumer_group", "read_group"],
)
def test_an_agent_can_start_on_a_topic_nobody_used_without_memory(
    test_topic: str,
    out_of_memory: Callable[[], None],
    impatient: None,
    call: Callable[[str], Any],
) -> None:
    """Else one new topic among its handlers keeps it from finishing all others."""
    out_of_memory()

    assert call(test_topic)


def test_agents_that_start_only_then_finish_the_backlog(
    test_topic: str, redis_client: redis.Redis, out_of_memory: Callable[[], None]
) -> None:
    bus.enqueue_many(test_topic, ["x" * 2_000] * 200)
    scripts.forget_topics()
    out_of_memory()

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 200, 20)

    redis_client.config_set("maxmemory", 0)
    assert bus.stats(test_topic)["results"] == 200
    assert drift(test_topic) == 0


def test_failures_are_finished_without_memory_too(
    test_topic: str, redis_client: redis.Redis, out_of_memory: Callable[[], None]
) -> None:
    bus.enqueue_many(test_topic, range(20))
    out_of_memory()

    with agents.running(test_topic, work.failing, max_attempts=2, backoff_s=0.001):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 20, 20)

    redis_client.config_set("maxmemory", 0)
    assert {len(letter.attempts) for letter in bus.list_dead(test_topic)} == {2}
    assert drift(test_topic) == 0


def test_tasks_are_taken_again_once_there_is_memory(
    test_topic: str,
    redis_client: redis.Redis,
    out_of_memory: Callable[[], None],
    impatient: None,
) -> None:
    bus.enqueue_task(test_topic, 1)
    out_of_memory()
    with pytest.raises(errors.BusUnavailable):
        bus.enqueue_task(test_topic, 2)

    redis_client.config_set("maxmemory", 0)

    assert bus.enqueue_task(test_topic, 2)
