"""Agents are forked from a process that has all loaded, and are as if started."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import bus
from bus.home import cradle
from tests.support import agents
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

ECHO = "tests.support.work:echo"
HEAD = "import os, socket, sys, threading, time; from bus.home import child, cradle\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux", reason="elsewhere every agent is started by itself"
    ),
]


@contextmanager
def nest(*, before: str = "", after: str = "") -> Iterator[cradle.Cradle]:
    """A cradle of a small program: what it does before it forks, and in each fork."""
    source = f"{HEAD}{before}\ncradle.fork_on_request()\n{after}"
    one = cradle.Cradle([sys.executable, "-c", source])
    try:
        yield one
    finally:
        one.close()


@contextmanager
def forked(one: cradle.Cradle) -> Iterator[tuple[cradle.Forked, int]]:
    """A fork of it, and where it tells that it serves."""
    told, tell = os.pipe()
    process = one.fork(tell)
    os.close(tell)
    assert process is not None
    assert process.stdout is not None
    with process.stdout:
        yield process, told
    os.close(told)


def ends(process: cradle.Forked) -> int:
    wait_until(lambda: process.poll() is not None, 10, "it ended")
    code = process.poll()
    assert code is not None
    return code


@pytest.mark.parametrize("code", [0, 7])
def test_a_fork_tells_its_output_and_how_it_ended(code: int) -> None:
    with (
        nest(after=f"print('hello', flush=True); os._exit({code})") as one,
        forked(one) as (process, _),
    ):
        assert process.stdout is not None
        assert process.stdout.read() == b"hello\n"
        assert ends(process) == code


def test_a_fork_tells_that_it_serves() -> None:
    with (
        nest(after="child.tell_serving(); time.sleep(60)") as one,
        forked(one) as (process, told),
    ):
        assert os.read(told, 1) == b"1"
        process.send_signal(signal.SIGKILL)
        assert ends(process) == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)  # nobody is there any more


def test_forks_are_leaders_of_sessions_of_their_own() -> None:
    with nest(after="time.sleep(60)") as one, forked(one) as (process, _):
        assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
        process.send_signal(signal.SIGTERM)
        assert ends(process) == -signal.SIGTERM


def test_forks_do_not_outlive_the_cradle() -> None:
    with nest(after="time.sleep(60)") as one, forked(one) as (process, _):
        one.close()

        assert ends(process) == -signal.SIGTERM


@pytest.mark.parametrize(
    "what",
    [
        "threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
        "mine = socket.socket()",
        "mine = os.pipe()",
    ],
)
def test_nothing_is_forked_where_forks_would_share_more_than_code(what: str) -> None:
    with nest(before=what, after="time.sleep(60)") as one:
        began = time.monotonic()

        assert [one.fork(1), one.fork(1)] == [None, None]

        assert time.monotonic() - began < 30, "it is asked once"


def test_a_program_that_cannot_be_loaded_forks_nothing() -> None:
    with nest(before="raise SystemExit(2)") as one:
        assert one.fork(1) is None


def test_where_the_system_has_no_room_nothing_is_forked_for_now() -> None:
    once = """
fork = os.fork
def full():
    os.fork = fork
    raise OSError(11, "no room")
os.fork = full
"""
    with nest(before=once, after="os._exit(3)") as one:
        assert one.fork(1) is None
        with forked(one) as (process, _):
            assert ends(process) == 3


def test_a_fork_that_dies_before_it_tells_its_pid_takes_no_other_along() -> None:
    second = """
fork, forks = os.fork, []
def once_short_lived():
    forks.append(fork())
    if len(forks) == 2 and not forks[1]:
        os._exit(1)
    return forks[-1]
os.fork = once_short_lived
"""
    with (
        nest(before=second, after="time.sleep(60)") as one,
        forked(one) as (process, _),
    ):
        assert one.fork(1) is None

        assert process.poll() is None, "the first one lives on"
        with forked(one) as (third, _):
            third.send_signal(signal.SIGKILL)
            assert ends(third) == -signal.SIGKILL
        process.send_signal(signal.SIGKILL)
        assert ends(process) == -signal.SIGKILL


def test_a_lost_cradle_is_replaced_for_later_forks() -> None:
    with nest(after="time.sleep(60)") as one:
        with forked(one) as (process, _):
            os.kill(_parent(process.pid), signal.SIGKILL)
            assert ends(process) == -signal.SIGTERM
        told, tell = os.pipe()
        forks: list[cradle.Forked] = []

        def again() -> bool:
            found = one.fork(tell)
            forks.extend([found] if found else [])
            return found is not None

        assert not again(), "nobody waits for the next one"
        wait_until(again, 30, "the next one is there")
        os.close(told)
        os.close(tell)
        [fork] = forks
        fork.send_signal(signal.SIGKILL)
        assert ends(fork) == -signal.SIGKILL
        assert fork.stdout is not None
        fork.stdout.close()


# In a fork: it takes nothing but SIGKILL for an end, once it says so.
STUBBORN = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("here", flush=True)
time.sleep(60)
"""


def stubborn(one: cradle.Cradle) -> cradle.Forked:
    with forked(one) as (process, _):
        assert process.stdout is not None
        assert process.stdout.readline() == b"here\n"
        return process


@pytest.mark.parametrize("loads", [True, False], ids=["loads", "serves"])
def test_a_fork_that_outlives_its_cradle_leaves_the_next_one_alone(
    loads: bool, tmp_path: Path
) -> None:
    cradles, gate = tmp_path / "cradles", tmp_path / "gate"
    cradles.touch()
    before = f"""
with open({str(cradles)!r}, "a") as told:
    print(os.getpid(), file=told)
while os.path.exists({str(gate)!r}):
    time.sleep(0.01)
"""
    with nest(before=before, after=STUBBORN) as one:
        first, late = stubborn(one), stubborn(one)
        os.kill(_parent(late.pid), signal.SIGKILL)
        gate.touch()
        first.send_signal(signal.SIGKILL)
        assert ends(first) == -signal.SIGTERM  # nobody is left to tell its own
        assert one.fork(1) is None, "the next one is only started"
        wait_until(lambda: len(cradles.read_text().split()) == 2, 30)
        if not loads:
            gate.unlink()
            other = wait_until(lambda: one.fork(1), 30, "the next one is there")

        late.send_signal(signal.SIGKILL)
        assert ends(late) == -signal.SIGTERM

        if loads:
            gate.unlink()
            other = wait_until(lambda: one.fork(1), 30, "the next one is there")
        assert _parent(other.pid) == int(cradles.read_text().split()[1])
        other.send_signal(signal.SIGKILL)
        assert ends(other) == -signal.SIGKILL
        assert other.stdout is not None
        other.stdout.close()


def test_who_is_no_cradle_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, "", "x", "-1"):
        if value is None:
            monkeypatch.delenv("MESH_CRADLE_FD", raising=False)
        else:
            monkeypatch.setenv("MESH_CRADLE_FD", value)

        cradle.fork_on_request()

        assert "MESH_CRADLE_FD" not in os.environ


# --- manage.py agent --processes


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _pids() -> set[int]:
    return {row["pid"] for row in bus.list_agents()}


def test_agents_come_from_one_cradle_time_and_again(test_topic: str) -> None:
    with agents.process(test_topic, ECHO, "--processes", "2") as command:
        wait_until(lambda: len(_pids()) == 2, 30, "both are there")
        [cradle_pid] = {_parent(pid) for pid in _pids()}
        assert cradle_pid != command.pid
        first, other = _pids()

        os.kill(first, signal.SIGKILL)

        wait_until(lambda: len(_pids() - {first}) == 2, 30, "there is another")
        [new] = _pids() - {first, other}
        assert _parent(new) == cradle_pid
        task_id = bus.enqueue_task(test_topic, 1)
        assert bus.wait_result(task_id, test_topic, timeout_s=20).result == 1


def test_agents_end_with_a_command_that_is_killed(test_topic: str) -> None:
    with agents.process(test_topic, ECHO, "--processes", "2") as command:
        wait_until(lambda: len(_pids()) == 2, 30, "both are there")
        pids = _pids()
        everyone = pids | {_parent(pid) for pid in pids}

        command.kill()

        wait_until(lambda: all(is_gone(pid) for pid in everyone), 15, "all ended")


def test_agents_are_started_by_themselves_where_the_cradle_is_killed(
    test_topic: str,
) -> None:
    with agents.process(test_topic, ECHO, "--processes", "2"):
        wait_until(lambda: len(_pids()) == 2, 30, "both are there")
        old = _pids()

        os.kill(_parent(min(old)), signal.SIGKILL)

        wait_until(lambda: len(_pids() - old) == 2, 60, "two others are there")
        task_id = bus.enqueue_task(test_topic, 1)
        assert bus.wait_result(task_id, test_topic, timeout_s=20).result == 1
