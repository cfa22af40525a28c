"""SIGTERM: an agent ends within 10 s, whatever holds it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

import bus
from bus import agent
from bus.handlers import Handler
from bus.server import EmbeddedServer
from tests.support import agents, work
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

LIMIT_S = 10.0


def _kill(server: EmbeddedServer) -> None:
    assert server.pid is not None
    process = server._process
    assert process is not None
    process.kill()
    process.wait()


def _terminated(child: subprocess.Popen[bytes]) -> int | None:
    """Send SIGTERM; the exit code, None if it still runs after the limit."""
    child.send_signal(signal.SIGTERM)
    try:
        return child.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        return None


def _listens(child: subprocess.Popen[bytes], signum: signal.Signals) -> bool:
    """Whether the process has a handler of its own for the signal."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    caught = next(row for row in status.splitlines() if row.startswith("SigCgt"))
    return bool(int(caught.split()[1], 16) >> (signum - 1) & 1)


def test_it_ends_while_it_waits_for_a_server_that_is_not_there(
    failure_simulator: FailureSimulator,
) -> None:
    failure_simulator.unreachable()

    with agents.process("nowhere", "tests.support.work:echo") as child:
        wait_until(lambda: _listens(child, signal.SIGTERM), 15, "it handles SIGTERM")

        assert _terminated(child) == 0


def test_an_idle_agent_ends_though_its_server_is_gone(
    own_server: EmbeddedServer,
) -> None:
    with agents.process("gone", "tests.support.work:echo") as child:
        wait_until(bus.list_agents, 15, "the agent is registered")
        _kill(own_server)

        assert _terminated(child) == 0


def test_a_busy_agent_ends_though_its_server_is_gone(
    own_server: EmbeddedServer,
) -> None:
    bus.enqueue_many("gone", range(2000))

    with agents.process(
        "gone", "tests.support.work:nap", "--concurrency", "2"
    ) as child:
        wait_until(lambda: bus.stats("gone")["done"] > 10, 15, "tasks are running")
        _kill(own_server)

        assert _terminated(child) == 0


def test_a_handler_that_ignores_its_cancellation_cannot_hold_the_agent(
    test_topic: str,
) -> None:
    task_id = bus.enqueue_task(test_topic, "x")

    with agents.process(test_topic, "tests.support.work:stubborn") as child:
        wait_until(
            lambda: bus.get_task(task_id, test_topic).state == "running", 15, "it runs"
        )
        began = time.monotonic()

        assert _terminated(child) == 0
        assert time.monotonic() - began < LIMIT_S

    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.attempt) == ("waiting", 0)


def test_one_stop_that_comes_as_several_signals_drains_all_the_same(
    test_topic: str, tmp_path: Path
) -> None:
    began = tmp_path / "began"
    task_id = bus.enqueue_task(test_topic, str(began))

    with agents.process(test_topic, "tests.support.work:told") as child:
        # A claimed task that has not begun would be handed back.
        wait_until(began.exists, 15)
        for signum in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            child.send_signal(signum)
            time.sleep(0.05)  # pending signals of one kind are one signal

        assert child.wait(LIMIT_S) == 0

    assert bus.get_task(task_id, test_topic).state == "done"


@pytest.mark.parametrize(
    ("signals", "repeat_s", "insists"),
    [
        ([signal.SIGTERM] * 4, 60, False),
        ([signal.SIGTERM, signal.SIGINT], 60, False),
        ([signal.SIGINT, signal.SIGINT], 60, True),
        ([signal.SIGTERM, signal.SIGTERM], 0, True),
        ([signal.SIGTERM, signal.SIGINT], 0, True),
    ],
)
def test_who_insists_ends_an_agent_at_once(
    monkeypatch: pytest.MonkeyPatch,
    signals: list[int],
    repeat_s: float,
    insists: bool,
) -> None:
    exits: list[int] = []
    monkeypatch.setattr(os, "_exit", exits.append)
    monkeypatch.setattr(agent, "_REPEAT_S", repeat_s)
    one = agent.Agent([Handler("mail", work.echo)])
    one._stopping = asyncio.Event()

    for signum in signals:
        one._signalled(signum)

    assert one._stopping.is_set()
    assert exits == ([130] if insists else [])
