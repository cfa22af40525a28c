"""Of many agents each that has nothing to do looks more rarely; nothing comes later."""

from __future__ import annotations

import math
import statistics
import time
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import agents, janitor, keys
from bus.bulk.driver import Foreman
from bus.judge import Judge
from bus.runtime.beats import Beats
from tests.support import agents as runtime
from tests.support import work
from tests.support.desk import Desk
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ME = "one-of-many"


@pytest.fixture
def crowd(redis_client: redis.Redis, settings: Settings) -> None:
    """A hundred other agents that stay."""
    settings.MESH_BEAT_S, settings.MESH_EXPIRY_S = 0.2, 0.75
    for number in range(100):
        agents.register(f"a{number}", f"a{number}#00000000", 3_600.0, {})


@pytest.fixture
def fellows(crowd: None, test_topic: str, redis_client: redis.Redis) -> None:
    """They all serve the topic."""
    bus.create_consumer_group(test_topic, "default")
    stream = keys.task_stream(test_topic)
    for number in range(100):
        redis_client.xgroup_createconsumer(stream, "default", f"a{number}#00000000")


def beat_times(client: redis.Redis, count: int) -> list[int]:
    """When so many beats came, server ms."""
    seen: list[int] = []

    def more() -> bool:
        kept: Any = client.hget(keys.GONE, ME) or "0|"
        at = int(kept.split("|")[0])
        if at not in seen[-1:]:
            seen.append(at)
        return len(seen) == count

    wait_until(more, 30, "it beats")
    return seen


def beats_as_usual(client: redis.Redis) -> None:
    """Every 200 ms, that is, at the pace of most beats; one of a crowd rests 600."""
    with Stalls() as stalls:
        times = beat_times(client, 10)
    gaps = [b - a for a, b in zip(times, times[1:], strict=False)]
    assert statistics.median(gaps) < 400 + 1000 * stalls.total_s, gaps


def ttl_ms(client: redis.Redis) -> int:
    kept: Any = client.hget(keys.GONE, ME)
    return int(kept.split("|")[1])


def test_an_idle_one_beats_rarely_under_a_longer_registration(
    fellows: None, test_topic: str, redis_client: redis.Redis
) -> None:
    with runtime.running(test_topic, work.echo, agent_id=ME):
        wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
        wait_until(lambda: ttl_ms(redis_client) == 2_500, 15, "it is calm")
        times = beat_times(redis_client, 4)

        assert min(b - a for a, b in zip(times[1:], times[2:], strict=False)) > 500
        assert agents.get_agent(ME)["state"] == "idle"


@pytest.mark.parametrize(
    ("others", "block_ms"), [("fellows", "10000"), ("crowd", "4000")]
)
def test_an_idle_one_of_a_crowd_that_serves_the_topic_reads_more_rarely(
    others: str,
    block_ms: str,
    request: pytest.FixtureRequest,
    test_topic: str,
    redis_client: redis.Redis,
) -> None:
    request.getfixturevalue(others)
    with (
        redis_client.monitor() as commands,
        runtime.running(test_topic, work.echo, agent_id=ME) as agent,
    ):
        wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
        [lane] = agent._lanes
        wait_until(lambda: lane.intake.consumers > (others == "fellows"), 15)
        # What comes ends the read that began before it had heard of them.
        task_id = bus.enqueue_task(test_topic, 1)
        assert bus.wait_result(task_id, test_topic, timeout_s=15).state == "done"
        last = bus.enqueue_task(test_topic, 2)
        assert bus.wait_result(last, test_topic, timeout_s=15).state == "done"
        reads = []
        while not reads or reads[-1] != block_ms:
            words = commands.next_command()["command"].split()
            if words[0] == "XREADGROUP" and "BLOCK" in words:
                reads.append(words[words.index("BLOCK") + 1])

    assert set(reads) <= {"4000", block_ms}


def test_the_only_one_of_a_topic_beats_as_usual(
    crowd: None, test_topic: str, redis_client: redis.Redis
) -> None:
    """Of what is handed over it hears by its beats, and nobody else would take it."""
    with runtime.running(test_topic, work.echo, agent_id=ME):
        wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
        beats_as_usual(redis_client)

        assert ttl_ms(redis_client) == 750


def test_who_hands_tasks_over_does_not_wait_for_its_next_beat_to_take_them(
    fellows: None,
    test_topic: str,
    redis_client: redis.Redis,
    redis_url: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the only one left of a crowd, and beats every 20 s."""
    settings.MESH_BEAT_S, settings.MESH_EXPIRY_S = 4.0, 5.0
    settings.MESH_LEASE_S, settings.MESH_JUDGE_AFTER_S = 300.0, 0.5
    monkeypatch.setattr(janitor, "_PERIOD_MOST_S", 1.0)
    bus.enqueue_task(test_topic, 1)
    other = "x#00000001"
    redis_client.xreadgroup("default", other, {keys.task_stream(test_topic): ">"})
    name = keys.client_name(other)
    with redis.Redis.from_url(redis_url, client_name=name) as holder:
        holder.ping()
        with runtime.running(test_topic, work.echo, agent_id=ME):
            wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
            wait_until(lambda: ttl_ms(redis_client) == 50_000, 25, "it is calm")
            holder.close()

            wait_until(lambda: bus.stats(test_topic)["lost"], 20, "handed over")
            wait_until(lambda: bus.stats(test_topic)["done"], 8, "taken at once")


def test_what_it_takes_in_hand_ends_that_at_once(
    fellows: None, test_topic: str, redis_client: redis.Redis
) -> None:
    with runtime.running(test_topic, work.rest, agent_id=ME):
        wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
        wait_until(lambda: ttl_ms(redis_client) == 2_500, 15, "it is calm")
        bus.enqueue_task(test_topic, 3)

        wait_until(lambda: ttl_ms(redis_client) == 750, 15, "it beats as usual")
        assert agents.get_agent(ME)["in_flight"] == 1
        wait_until(lambda: ttl_ms(redis_client) == 2_500, 15, "it is calm again")


def test_a_pause_keeps_it_awake(
    fellows: None, test_topic: str, redis_client: redis.Redis
) -> None:
    """What was paused is to go on in a moment."""
    bus.enqueue_task(test_topic, 1)
    bus.pause(test_topic)
    with runtime.running(test_topic, work.echo, agent_id=ME):
        beats_as_usual(redis_client)

        assert ttl_ms(redis_client) == 750


def test_before_it_judges_it_makes_sure_that_the_server_was_there(
    fellows: None, test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    """Of an outage between two of its rare beats it knows nothing, and all who lost
    their connections by it look dead."""
    settings.MESH_JUDGE_AFTER_S = 0.5
    with runtime.running(test_topic, work.echo, agent_id=ME) as agent:
        wait_until(lambda: redis_client.hexists(keys.GONE, ME), 15)
        wait_until(lambda: ttl_ms(redis_client) == 2_500, 15, "it is calm")
        pulse = agent._threads[0]
        assert isinstance(pulse, Beats)
        wait_until(lambda: pulse.steady_s > 0.5, 15)

        assert pulse.confirmed()

        redis_client.client_kill_filter(_type="normal", skipme=True)
        assert not pulse.confirmed()
        wait_until(pulse.confirmed, 15, "it has beaten for long enough again")


def test_tasks_of_one_killed_before_its_next_beat_do_not_wait_for_its_registration(
    crowd: None, test_topic: str
) -> None:
    """It took a task while it beat rarely, and nobody holds a connection for it."""
    agents.register(ME, f"{ME}#00000001", 3_600.0, {"topics": [test_topic]})
    bus.enqueue_task(test_topic, 1)
    assert Desk(test_topic, f"{ME}#00000001").claim(1)
    began = time.monotonic()

    wait_until(lambda: Judge("me#00000001").reclaim(test_topic) == 1, 15, "handed over")

    assert time.monotonic() - began > 0.7


def test_who_is_not_sure_of_the_server_judges_by_the_lease_alone(
    crowd: None, test_topic: str
) -> None:
    agents.register(ME, f"{ME}#00000001", 3_600.0, {"topics": [test_topic]})
    bus.enqueue_task(test_topic, 1)
    assert Desk(test_topic, f"{ME}#00000001").claim(1)
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        assert Judge("me#00000001", lambda: False).reclaim(test_topic) == 0

    wait_until(lambda: Judge("me#00000001", lambda: True).reclaim(test_topic) == 1, 15)


def test_tasks_of_one_that_is_connected_stay(
    crowd: None, test_topic: str, redis_url: str
) -> None:
    agents.register(ME, f"{ME}#00000001", 3_600.0, {"topics": [test_topic]})
    bus.enqueue_task(test_topic, 1)
    assert Desk(test_topic, f"{ME}#00000001").claim(1)
    with redis.Redis.from_url(
        redis_url, client_name=keys.client_name(f"{ME}#00000001")
    ) as client:
        client.ping()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert Judge("me#00000001").reclaim(test_topic) == 0


@pytest.mark.usefixtures("redis_client")
def test_a_foreman_without_work_waits_as_long_as_it_is_told() -> None:
    assert Foreman(lambda: 12.5).round() == math.inf
