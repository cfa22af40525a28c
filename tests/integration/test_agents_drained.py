"""Agents of the runtime that are drained: they finish what they have, and end."""

from __future__ import annotations

import signal
import time

import pytest

import bus
from bus import agents, errors
from tests.support import agents as runtime
from tests.support import work
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def is_running(task_id: str, topic: str) -> bool:
    return bus.get_task(task_id, topic).state == "running"


def hears_of_it() -> bool:
    """Whether the agent says itself that it drains."""
    return [row.get("state") for row in bus.list_agents()] == ["draining"]


def test_it_ends_by_itself_once_its_tasks_have(test_topic: str) -> None:
    """A stop would have cut this one off after four seconds."""
    task_id = bus.enqueue_task(test_topic, 5, timeout_s=30)
    with runtime.process(
        test_topic, "tests.support.work:rest", "--agent-id", "ours"
    ) as child:
        wait_until(lambda: is_running(task_id, test_topic), 30)

        agents.drain_agent("ours")
        wait_until(hears_of_it, 10)
        later = bus.enqueue_task(test_topic, 0)

        assert child.wait(30) == 0

    assert bus.get_task(task_id, test_topic).state == "done"
    assert bus.get_task(task_id, test_topic).attempts == ()
    assert bus.get_task(later, test_topic).state == "waiting"
    assert agents.get_agent("ours")["state"] == "gone"


def test_a_stop_cuts_its_patience_short(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 60, timeout_s=90)
    with runtime.process(
        test_topic, "tests.support.work:rest", "--agent-id", "ours"
    ) as child:
        wait_until(lambda: is_running(task_id, test_topic), 30)
        agents.drain_agent("ours")
        wait_until(hears_of_it, 10)
        began = time.monotonic()

        child.send_signal(signal.SIGTERM)

        assert child.wait(30) == 0
        assert time.monotonic() - began < 25

    assert bus.get_task(task_id, test_topic).state == "waiting"  # given back


def test_a_drain_is_for_one_process(test_topic: str) -> None:
    with runtime.running(test_topic, work.echo, agent_id="ours"):
        wait_until(lambda: bool(bus.list_agents()))
        agents.drain_agent("ours")
        wait_until(lambda: agents.get_agent("ours")["state"] == "gone", 10)

    with runtime.running(test_topic, work.echo, agent_id="ours"):
        task_id = bus.enqueue_task(test_topic, 1)

        assert bus.wait_result(task_id, test_topic).state == "done"
        assert agents.get_agent("ours")["state"] in ("live", "idle")


def test_one_that_is_not_there_is_not_drained(test_topic: str) -> None:
    with pytest.raises(errors.AgentNotFound):
        agents.drain_agent("nobody")

    bus.register_agent("was-here", "t")
    bus.deregister_agent("was-here")
    with pytest.raises(errors.AgentNotFound):
        agents.drain_agent("was-here")
