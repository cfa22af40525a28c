"""`manage.py agent` as its user meets it: processes, exit codes, sentences."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import management
from django.core.management.base import CommandError

import bus
from examples.stdlib_metrics import corpus
from tests.support import agents
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

ECHO = "tests.support.work:echo"
NAP = "tests.support.work:nap"
START_S = 50.0  # a second of computing, where nobody else computes


def _agent(*args: str) -> subprocess.CompletedProcess[str]:
    """Run the command until it ends by itself."""
    return subprocess.run(
        [sys.executable, str(agents.ROOT / "manage.py"), "agent", *args],
        cwd=agents.ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=60,
    )


def _stdlib_file() -> dict[str, str]:
    """A task of the demo that succeeds."""
    return next(task for task in corpus.iter_corpus() if task["path"] == "abc.py")


@contextmanager
def _plain_agent(*args: str) -> Iterator[subprocess.Popen[bytes]]:
    """The command without --topic or --handler."""
    child = subprocess.Popen(
        [sys.executable, str(agents.ROOT / "manage.py"), "agent", *args],
        cwd=agents.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        child.terminate()
        child.wait(15)


BAD: list[tuple[list[str], str]] = [
    (["--concurrency", "0"], "'0' is no number 1 to 1000"),
    (["--concurrency", "many"], "'many' is no number 1 to 1000"),
    (["--processes", "1001"], "'1001' is no number 1 to 1000"),
    (["--agent-id", "one", "--processes", "2"], "names one process"),
    (["--agent-id", "not allowed", "--handler", ECHO, "--topic", "t"], "agent id"),
    (["--topic", "Not Allowed", "--handler", ECHO], "topic 'Not Allowed'"),
    (["--topic", "nobody-serves-this"], "no handler serves topic"),
    (["--handler", ECHO], "--topic"),
    (["--handler", "no-path", "--topic", "t"], "package.module:function"),
    (["--handler", "tests.nowhere:echo", "--topic", "t"], "cannot be imported"),
    (["--handler", "tests.support.work:nothing", "--topic", "t"], "nothing"),
    (["--group", "~", "--handler", ECHO, "--topic", "t"], "'~'"),
    (["--no-such-option"], "unrecognized arguments"),
]


@pytest.mark.parametrize(("args", "sentence"), BAD)
def test_what_cannot_run_is_refused_with_2_and_a_sentence(
    redis_url: str, own_registry: None, args: list[str], sentence: str
) -> None:
    with pytest.raises(CommandError) as refused:
        management.call_command("agent", *args)

    assert sentence in str(refused.value)
    # What the parser itself refuses is 1 here, 2 for a shell: see below.
    by_parser = "is no number" in sentence or sentence.startswith("unrecognized")
    assert refused.value.returncode == (1 if by_parser else 2)


@pytest.mark.parametrize(("args", "sentence"), [BAD[at] for at in (1, 6)])
def test_a_shell_sees_exit_code_2_and_the_sentence_without_a_traceback(
    redis_url: str, args: list[str], sentence: str
) -> None:
    ended = _agent(*args)

    assert ended.returncode == 2, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_bad_handler_is_refused_before_any_process_starts(
    redis_url: str, processes: str
) -> None:
    ended = _agent("--handler", "tests.nowhere:echo", "--processes", processes)

    assert ended.returncode == 2
    assert ended.stderr.count("cannot be imported") == 1


def test_a_url_that_does_not_parse_ends_with_2_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("REDIS_URL", "http://localhost")

    ended = _agent("--handler", ECHO, "--topic", "t")

    assert ended.returncode == 2, ended.stderr
    assert "REDIS_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_without_a_handler_it_serves_what_the_apps_registered(test_topic: str) -> None:
    payload = _stdlib_file()

    with _plain_agent():
        task_id = bus.enqueue_task("stdlib", payload)
        task = bus.wait_result(task_id, "stdlib", START_S)

    assert task.state == "done"
    assert task.result["lines"]


def test_a_topic_alone_picks_its_registered_handler(test_topic: str) -> None:
    payload = _stdlib_file()

    with _plain_agent("--topic", "stdlib", "--concurrency", "2"):
        task_id = bus.enqueue_task("stdlib", payload)
        task = bus.wait_result(task_id, "stdlib", START_S)
        record = wait_until(bus.list_agents, 5, "the agent is registered")[0]

    assert task.state == "done"
    assert (record["topics"], record["slots"]) == (["stdlib"], 2)


def _two_agents() -> list[dict[str, Any]]:
    """The agents once there are two; never this process, for these are killed."""
    found = [row for row in bus.list_agents() if row["pid"] != os.getpid()]
    return found if len(found) == 2 else []


def test_two_processes_are_two_agents_and_end_together(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3_000))

    options = ("--processes", "2", "--concurrency", "2")
    with agents.process(test_topic, NAP, *options) as parent:
        found = wait_until(_two_agents, START_S, "two agents are registered")
        pids = [row["pid"] for row in found]
        wait_until(
            lambda: bus.stats(test_topic)["done"] > 50, START_S, "they are at work"
        )
        parent.send_signal(signal.SIGTERM)
        code = parent.wait(15)
        stats = bus.stats(test_topic)

    assert code == 0
    assert parent.pid not in pids
    assert [pid for pid in pids if not is_gone(pid)] == []
    assert bus.list_agents() == []
    assert (stats["running"], stats["lost"], stats["retried"]) == (0, 0, 0)
    assert stats["waiting"] + stats["done"] == 3_000


def test_a_killed_one_of_two_processes_is_started_again(test_topic: str) -> None:
    with agents.process(test_topic, ECHO, "--processes", "2"):
        first = wait_until(_two_agents, START_S, "two agents are registered")
        os.kill(first[0]["pid"], signal.SIGKILL)

        again = wait_until(
            lambda: {row["pid"] for row in _two_agents()} - {r["pid"] for r in first},
            START_S,
            "another agent in its place",
        )

    assert len(again) == 1


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGHUP])
def test_ctrl_c_or_a_closed_terminal_ends_an_agent_with_exit_code_zero(
    test_topic: str, signum: signal.Signals
) -> None:
    with agents.process(test_topic, ECHO) as child:
        wait_until(
            lambda: [row["pid"] for row in bus.list_agents()] == [child.pid],
            20,
            "the agent is registered",
        )
        child.send_signal(signum)

        assert child.wait(10) == 0
    assert bus.list_agents() == []
