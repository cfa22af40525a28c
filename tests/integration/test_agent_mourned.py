"""A parent that saw its agent process end has its tasks handed over at once."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import redis

import bus
from bus import janitor
from bus.home import child
from tests.support import agents
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

STUBBORN = "tests.support.work:stubborn"


def test_the_tasks_of_a_killed_child_are_free_at_once(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(5))
    with agents.process(test_topic, STUBBORN, "--agent-id", "one") as process:
        wait_until(lambda: bus.stats(test_topic)["running"] == 5, 30)
        wait_until(lambda: bus.list_agents() != [], 10)
        assert janitor.take_from_child(process.pid) == 0, "it lives"
        process.kill()
        process.wait()

        taken = janitor.take_from_child(process.pid)

    assert taken == 5
    assert bus.stats(test_topic)["running"] == 0
    assert bus.get_agent("one")["state"] == "gone"
    assert bus.read_group(test_topic, "default", "next", 5, block_ms=0)


def test_a_namesake_with_a_connection_is_left_alone(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    with agents.running(test_topic, agents_stay, agent_id="here"):
        wait_until(lambda: bus.stats(test_topic)["running"] == 1, 20)
        wait_until(lambda: bus.list_agents() != [], 20)

        assert janitor.take_from_child(bus.get_agent("here")["pid"]) == 0
        bus.cancel(bus.list_tasks(test_topic)[0][0].id)


async def agents_stay(payload: object, task: object) -> None:
    """Runs until it is cancelled."""
    await asyncio.sleep(60)


def test_a_parent_without_its_server_goes_on(
    redis_client: redis.Redis, failure_simulator: FailureSimulator
) -> None:
    assert janitor.take_from_child(4_000_000) == 0
    failure_simulator.unreachable()

    assert janitor.take_from_child(4_000_000) == 0


@pytest.mark.parametrize("code", [0, 3])
def test_a_child_tells_of_its_end_once(code: int, tmp_path: Path) -> None:
    told: list[int] = []
    end = tmp_path / "end"
    argv = ["sh", "-c", f"until [ -e '{end}' ]; do sleep 0.05; done; exit {code}"]
    one = child.Child(
        child.Spec("one", argv, on_end=told.append), lambda _, pipe: pipe.close()
    )
    one.launch()
    pid = one.pid
    assert (one.poll(), told) == (None, []), "it lives"
    end.touch()
    wait_until(lambda: one.poll() is not None)

    assert one.poll() == code
    wait_until(lambda: told != [])
    assert pid is not None and told == [pid]
