"""Two agents under one id: a mistake that is told, and that loses nothing."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest
import redis

import bus
from bus import agents, health
from tests.support import agents as runtime
from tests.support import work
from tests.support.pages import signed_in
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NAP = "tests.support.work:nap"
ECHO = "tests.support.work:echo"


def _namesake() -> str | None:
    """The other one that an agent tells of; before it is there it tells of nobody."""
    told = [row["namesake"] for row in agents.overview() if row["agent_id"] == "one"]
    return next(iter(told), None)


def _found() -> list[health.Check]:
    return [check for check in health.checks() if check.word == "namesake"]


def _pid() -> int | None:
    """Of the process that beat last under the id."""
    return next((row["pid"] for row in bus.list_agents()), None)


def test_each_of_two_is_told_and_so_is_whoever_looks(
    test_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        runtime.running(test_topic, work.echo, agent_id="one"),
        runtime.running(test_topic, work.echo, agent_id="one"),
    ):
        wait_until(_namesake, 20, "one of them met the other")
        wait_until(lambda: len(_warned(caplog)) == 2, 20, "both met the other")
        [check] = _found()

    pid = os.getpid()
    assert _warned(caplog)[0].startswith(f"process {pid} on ")
    assert "lives under the id one as well" in _warned(caplog)[0]
    assert (check.name, check.status) == ("agent one", health.WARN)
    assert f"process {pid} on " in check.says


def _warned(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "lives under the id" in line]


def test_whoever_is_left_is_live_and_says_no_more(test_topic: str) -> None:
    """The one that leaves ends the registration of both, for one beat."""
    with runtime.running(test_topic, work.echo, agent_id="one"):
        with runtime.running(test_topic, work.echo, agent_id="one"):
            wait_until(_namesake, 20, "one of them met the other")

        wait_until(lambda: bus.list_agents() and not _found(), 20, "it is forgotten")

        task_id = bus.enqueue_task(test_topic, 1)
        assert bus.wait_result(task_id, test_topic, timeout_s=20).state == "done"
        assert _namesake() is None


def test_an_agent_by_hand_of_the_same_name_is_met_too(test_topic: str) -> None:
    with runtime.running(test_topic, work.echo, agent_id="one"):
        wait_until(bus.list_agents)
        bus.register_agent("one", "by hand")

        wait_until(
            lambda: _namesake() == "an agent written by hand", 20, "it is told apart"
        )


def test_a_killed_agent_takes_its_old_id_at_once(test_topic: str) -> None:
    """Its registration is still alive, yet nobody lives under it."""
    with runtime.process(test_topic, ECHO, "--agent-id", "one") as first:
        wait_until(lambda: _pid() == first.pid, 30, "it is registered")
        os.kill(first.pid, signal.SIGKILL)
        with runtime.process(test_topic, ECHO, "--agent-id", "one") as second:
            wait_until(lambda: _pid() == second.pid, 30, "the other took its place")
            task_id = bus.enqueue_task(test_topic, 1)
            task = bus.wait_result(task_id, test_topic, timeout_s=20)
            beats: set[Any] = set()

            def beaten() -> bool:
                beats.add(agents.get_agent("one")["last_beat_at"])
                return len(beats) > 2

            wait_until(beaten, 20, "it beats")
            assert (task.state, task.agent) == ("done", "one")
            assert _namesake() is None and _found() == []


def test_nothing_is_lost_where_one_of_two_is_killed(test_topic: str) -> None:
    args = ("--agent-id", "one", "--concurrency", "2")
    with (
        runtime.process(test_topic, NAP, *args) as first,
        runtime.process(test_topic, NAP, *args) as second,
    ):
        pids = {first.pid, second.pid}
        seen: set[int | None] = set()
        wait_until(lambda: seen.add(_pid()) or pids <= seen, 40, "both beat")
        ids = bus.enqueue_many(test_topic, range(200))
        wait_until(lambda: bus.stats(test_topic)["done"] > 20, 40, "they are at work")

        os.kill(first.pid, signal.SIGKILL)

        wait_until(lambda: bus.stats(test_topic)["done"] == 200, 40, "all are done")

    rows = bus.tail_results(test_topic, 1_000)
    stats = bus.stats(test_topic)
    assert sorted(fields["id"] for _, fields in rows) == sorted(ids)
    assert (stats["backlog"], stats["dead"], stats["ledger"]["drift"]) == (0, 0, 0)


@pytest.mark.django_db
def test_its_page_says_so_too(redis_client: redis.Redis) -> None:
    record = {"agent_id": "one", "agent_type": "mesh", "namesake": "process 7 on host"}
    agents.register("one", "one#00000001", 60, record)

    page = signed_in("viewer").get("/agents/one/").content.decode()

    assert "process 7 on host lives under this id as well." in page
