"""What the mesh does when the server, the network or an operator fails it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import tasks
from tests.support import agents
from tests.support.nemesis import FailureSimulator
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE, wait_until


async def nap(payload: Any, task: Any) -> Any:
    await asyncio.sleep(0.05)
    return payload


def test_an_agent_goes_on_when_an_operator_destroys_its_group(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(400))

    with agents.running(test_topic, nap, concurrency=10):
        wait_until(lambda: bus.stats(test_topic)["done"] > 50, 10, "50 tasks are done")
        redis_client.xgroup_destroy(bus.task_stream(test_topic), "default")
        wait_until(lambda: bus.stats(test_topic)["done"] == 400, 20, "all are done")

    rows = bus.tail_results(test_topic, 500)
    stats = bus.stats(test_topic)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


def test_connections_killed_and_scripts_flushed_cost_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(600))

    with agents.running(test_topic, nap, concurrency=20):
        for done in range(50, 351, 60):
            wait_until(
                lambda done=done: bus.stats(test_topic)["done"] > done,
                20,
                f"{done} tasks are done",
            )
            redis_client.client_kill_filter(_type="normal", skipme=True)
            redis_client.script_flush()
        wait_until(lambda: bus.stats(test_topic)["done"] == 600, 30, "all are done")

    rows = bus.tail_results(test_topic, 700)
    assert sorted(row["id"] for _, row in rows) == sorted(ids)
    assert bus.stats(test_topic)["lost"] == 0


@pytest.fixture
def impatient(settings: Settings) -> None:
    """Nothing is repeated by the bus itself: the caller sees every error."""
    settings.MESH_SEND_RETRY_S = 0.0


def _entries(client: redis.Redis, key: str) -> list[str]:
    """The task id of every entry of a stream."""
    rows: Any = client.xrange(key)
    return [fields["id"] for _, fields in rows]


def _dead(topic: str) -> str:
    task_id = bus.enqueue_task(topic, "x")
    [(entry_id, _)] = bus.read_group(topic, "default", "hand")
    bus.move_to_dead(topic, entry_id, {"error": "broken"})
    return task_id


def test_a_sender_that_lost_its_server_says_so_and_may_repeat_the_same_id(
    test_topic: str,
    redis_client: redis.Redis,
    failure_simulator: FailureSimulator,
    impatient: None,
) -> None:
    task_id = tasks.new_id()
    bus.enqueue_task(test_topic, "before")
    failure_simulator.unreachable()

    with pytest.raises(bus.BusUnavailable, match="does not answer at redis://"):
        bus.enqueue_task(test_topic, "x", task_id=task_id)
    failure_simulator.heal()
    bus.enqueue_task(test_topic, "x", task_id=task_id)

    sent = _entries(redis_client, bus.task_stream(test_topic))
    assert sent.count(task_id) == 1
    assert len(sent) == 2


def test_a_server_that_stays_away_is_given_up_after_the_set_time(
    test_topic: str, failure_simulator: FailureSimulator, settings: Settings
) -> None:
    settings.MESH_SEND_RETRY_S = 0.5
    failure_simulator.unreachable()
    began = time.monotonic()

    with Stalls() as stalls, pytest.raises(bus.BusUnavailable) as failure:
        bus.enqueue_task(test_topic, "x")

    assert 0.4 < time.monotonic() - began < 4 + stalls.total_s
    assert failure.value.code == "bus_unavailable"


def test_an_outage_shorter_than_the_senders_patience_is_not_noticed(
    test_topic: str, redis_client: redis.Redis, failure_simulator: FailureSimulator
) -> None:
    bus.enqueue_task(test_topic, "before")
    failure_simulator.unreachable()
    back = threading.Timer(0.7, failure_simulator.heal)
    back.start()

    task_id = bus.enqueue_task(test_topic, "during")
    back.join()

    assert bus.get_task(task_id, test_topic).state == "waiting"
    assert len(_entries(redis_client, bus.task_stream(test_topic))) == 2


def test_clients_paused_for_3_s_cost_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(500))

    with (
        agents.running(test_topic, nap, concurrency=5, agent_id="one"),
        agents.running(test_topic, nap, concurrency=5, agent_id="two"),
    ):
        wait_until(lambda: bus.stats(test_topic)["done"] > 50, 10, "50 tasks are done")
        redis_client.client_pause(3_000)
        ids.append(bus.enqueue_task(test_topic, "while paused"))
        wait_until(lambda: bus.stats(test_topic)["done"] == 501, 20, "all are done")

    stats = bus.stats(test_topic)
    assert sorted(_entries(redis_client, bus.result_stream(test_topic))) == sorted(ids)
    assert (stats["lost"], stats["repeated"], stats["ledger"]["drift"]) == (0, 0, 0)


def test_64_threads_share_the_connections_of_one_process(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_POOL_SIZE = 4

    def send(number: int) -> list[str]:
        return [bus.enqueue_task(test_topic, number) for _ in range(5)]

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        ids = [task_id for sent in pool.map(send, range(64)) for task_id in sent]

    assert sorted(_entries(redis_client, bus.task_stream(test_topic))) == sorted(ids)


def test_readers_that_block_in_every_connection_do_not_starve_senders(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, "hand")
    over = threading.Event()

    def read(number: int) -> list[str]:
        found: list[str] = []
        while not over.is_set():
            rows = bus.read_group(test_topic, "hand", f"reader-{number}", 1, 300)
            found += [fields["id"] for _, fields in rows]
        return found

    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        readers = [pool.submit(read, number) for number in range(64)]
        wait_until(
            lambda: redis_client.info("clients")["blocked_clients"] >= 50,
            10,
            "50 readers block",
        )
        began = time.monotonic()
        with Stalls() as stalls:
            ids = [bus.enqueue_task(test_topic, number) for number in range(100)]
        took_s = time.monotonic() - began
        wait_until(
            lambda: bus.stats(test_topic)["running"] == 100, 20, "all are delivered"
        )
        over.set()
        delivered = [task_id for reader in readers for task_id in reader.result()]

    assert took_s < 5 * PATIENCE + stalls.total_s
    assert sorted(delivered) == sorted(ids)


def test_an_agent_stopped_for_8_s_keeps_its_tasks(
    test_topic: str, redis_client: redis.Redis
) -> None:
    handler, slots = "tests.support.work:nap", ("--concurrency", "4")
    with (
        agents.process(test_topic, handler, *slots, "--agent-id", "one") as stopped,
        agents.process(test_topic, handler, *slots, "--agent-id", "two"),
    ):
        wait_until(lambda: len(bus.list_agents()) == 2, 20, "both agents are there")
        ids = bus.enqueue_many(test_topic, range(1_000))
        wait_until(lambda: bus.stats(test_topic)["done"] > 150, 20, "they are at work")
        stopped.send_signal(signal.SIGSTOP)
        time.sleep(8)  # the stop itself
        held = bus.stats(test_topic)["running"]
        stopped.send_signal(signal.SIGCONT)
        wait_until(lambda: bus.stats(test_topic)["done"] == 1_000, 20, "all are done")

    stats = bus.stats(test_topic)
    assert held > 0
    assert sorted(_entries(redis_client, bus.result_stream(test_topic))) == sorted(ids)
    assert (stats["lost"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


def _everything(client: redis.Redis) -> dict[str, bytes]:
    """The whole keyspace, byte for byte."""
    return {key: client.dump(key) for key in client.scan_iter(count=1000)}


SENDS: dict[str, Callable[[str], Any]] = {
    "one": lambda topic: bus.enqueue_task(topic, "x"),
    "delayed": lambda topic: bus.enqueue_task(topic, "x", delay_s=60),
    "many": lambda topic: bus.enqueue_many(topic, range(250)),
    "a new topic": lambda topic: bus.enqueue_task(f"{topic}-new", "x"),
    "async": lambda topic: asyncio.run(bus.aenqueue_task(topic, "x")),
}


@pytest.mark.parametrize("name", SENDS)
def test_a_server_out_of_memory_refuses_new_tasks_whole(
    test_topic: str, redis_client: redis.Redis, name: str
) -> None:
    bus.enqueue_task(test_topic, "before")
    redis_client.config_set("maxmemory", 1)
    before = _everything(redis_client)

    with pytest.raises(bus.BusUnavailable, match="memory") as failure:
        SENDS[name](test_topic)

    assert failure.value.outcome == "not_written"
    assert _everything(redis_client) == before


async def every_ending(payload: Any, task: Any) -> Any:
    """Succeeds, succeeds the second time, or never."""
    await asyncio.sleep(0.02)
    if payload % 10 == 0:
        raise bus.GiveUp("a multiple of ten")
    if payload % 10 == 1 and task.attempt == 1:
        raise bus.Retry(0.05)
    return "x" * 1_000


def test_agents_go_on_finishing_without_memory_also_those_that_start_then(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(400))

    with agents.running(test_topic, every_ending, concurrency=2, agent_id="early"):
        wait_until(lambda: bus.stats(test_topic)["done"] > 10, 10, "it is at work")
        redis_client.config_set("maxmemory", 1)
        redis_client.script_flush()
        with agents.running(test_topic, every_ending, concurrency=2, agent_id="late"):
            wait_until(
                lambda: bus.stats(test_topic)["backlog"] == 0, 20, "all have ended"
            )
            names = [row["agent_id"] for row in bus.list_agents()]
            refused_at = redis_client.config_get("maxmemory")["maxmemory"]

    stats = bus.stats(test_topic)
    served = {row["agent"] for _, row in bus.tail_results(test_topic, 400)}
    assert refused_at == "1"
    assert names == ["early", "late"]
    assert served == {"early", "late"}
    assert (stats["done"], stats["dead"], stats["retried"]) == (360, 40, 40)
    assert (stats["lost"], stats["ledger"]["drift"]) == (0, 0)


def test_dead_letters_at_their_bound_stop_intake_and_lose_none(
    test_topic: str, redis_client: redis.Redis
) -> None:
    async def hopeless(payload: Any, task: Any) -> Any:
        raise bus.GiveUp("hopeless")

    bus.set_limits(test_topic, dead_max=3)
    ids = bus.enqueue_many(test_topic, range(8))
    with agents.running(test_topic, hopeless, concurrency=2):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 8, 10, "all are dead")
    before = _everything(redis_client)

    for send in (SENDS["one"], SENDS["delayed"], SENDS["many"]):
        with pytest.raises(bus.TopicFull, match="dead letters"):
            send(test_topic)

    assert _everything(redis_client) == before
    assert sorted(letter.id for letter in bus.list_dead(test_topic)) == sorted(ids)


def test_a_backlog_at_its_bound_refuses_no_retry_and_no_replay(
    test_topic: str,
) -> None:
    async def second_time(payload: Any, task: Any) -> Any:
        if task.epoch == 0 and task.attempt == 1 and payload != "dead":
            raise bus.Retry(0.01)
        return payload

    dead = _dead(test_topic)
    ids = bus.enqueue_many(test_topic, range(20))
    bus.set_limits(test_topic, backlog_max=5)

    bus.replay(dead, test_topic)
    with pytest.raises(bus.TopicFull):
        bus.enqueue_task(test_topic, "refused")
    with agents.running(test_topic, second_time):
        wait_until(lambda: bus.stats(test_topic)["done"] == 21, 10, "all are done")

    assert {bus.get_task(name, test_topic).state for name in [*ids, dead]} == {"done"}
    assert bus.stats(test_topic)["retried"] == 20


async def holds_the_loop(payload: Any, task: Any) -> Any:
    """Blocks the whole loop for as long as the payload says."""
    time.sleep(payload)
    return task.fence


@pytest.fixture
def quick(settings: Settings) -> None:
    """Liveness in short: the dead are found within 2 s."""
    settings.MESH_LEASE_S = 1.0
    settings.MESH_EXPIRY_S = 1.0
    settings.MESH_BEAT_S = 0.2
    settings.MESH_JUDGE_AFTER_S = 0.5


def test_a_handler_that_holds_the_loop_does_not_cost_its_agent_the_task(
    test_topic: str, quick: None, settings: Settings
) -> None:
    settings.MESH_LEASE_S = 2.5  # a machine that stands still for a while robs nobody
    task_id = bus.enqueue_task(test_topic, 3.5)

    with agents.running(test_topic, holds_the_loop, concurrency=1):
        wait_until(
            lambda: bus.get_task(task_id, test_topic).state == "running", 10, "it runs"
        )
        with agents.running(test_topic, nap, concurrency=1):
            task = bus.wait_result(task_id, test_topic, 10)

    assert (task.state, task.attempt) == ("done", 1)
    assert task.result.endswith(".0")
    assert bus.stats(test_topic)["lost"] == 0


def test_a_handler_that_hangs_beyond_its_time_loses_the_task_to_another(
    test_topic: str, quick: None, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 9, timeout_s=0.5)

    with agents.running(test_topic, holds_the_loop, concurrency=1, agent_id="hung"):
        wait_until(
            lambda: bus.get_task(task_id, test_topic).state == "running", 10, "it runs"
        )
        with agents.running(test_topic, nap, concurrency=1, agent_id="other"):
            task = bus.wait_result(task_id, test_topic, 12)

    # The hung one has come back by now: what it had to say was refused.
    assert (task.state, task.agent) == ("done", "other")
    assert _entries(redis_client, bus.result_stream(test_topic)) == [task_id]
    assert bus.get_task(task_id, test_topic) == task
    assert bus.stats(test_topic)["lost"] == 1
