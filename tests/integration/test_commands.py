"""Commands as a stranger meets them: help, pipes, Ctrl-C, narrow terminals."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.core.management import call_command, load_command_class
from django.core.management.base import CommandError

import bus
from bus.management import command, output
from tests.support.agents import ROOT
from tests.support.waiting import wait_until

OURS = ["agent", "dead", "doctor", "enqueue", "results", "token", "topics", "up", "web"]


def manage(*args: str, **options: Any) -> subprocess.Popen[str]:
    """A command as a process, with what it says in a pipe."""
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "manage.py"), *args],
        cwd=ROOT,
        env=dict(os.environ),
        text=True,
        **(streams | options),
    )


class Terminal(io.StringIO):
    """A terminal, as far as commands ask."""

    def isatty(self) -> bool:
        return True


class Pipe(io.StringIO):
    """A pipe, at whose other end is only what was flushed."""

    arrived = ""

    def flush(self) -> None:
        self.arrived = self.getvalue()


@pytest.fixture
def dead_tasks(test_topic: str) -> Iterator[list[str]]:
    """Letters of a topic with ids and errors of the usual length."""
    ids = bus.enqueue_many(test_topic, range(3))
    for entry_id, _ in bus.get_redis().xrange(bus.task_stream(test_topic)):
        bus.move_to_dead(
            test_topic, entry_id, 1, error="the disk of the printer is full"
        )
    yield ids


@pytest.mark.parametrize("name", OURS)
def test_help_is_about_the_command(name: str) -> None:
    shown = load_command_class("bus", name).create_parser("manage.py", name)
    text = shown.format_help()

    assert "--pythonpath" not in text
    assert issubclass(type(load_command_class("bus", name)), command.MeshCommand)


@pytest.mark.parametrize("name", OURS)
def test_every_option_has_help(name: str) -> None:
    parser = load_command_class("bus", name).create_parser("manage.py", name)
    parsers = [parser]
    for action in parser._actions:
        if action.dest == "verb":
            assert isinstance(action.choices, dict)
            parsers += action.choices.values()

    lacking = [
        action.dest for each in parsers for action in each._actions if not action.help
    ]

    assert lacking in ([], ["verb"])


def test_a_reader_that_leaves_ends_it_quietly(dead_tasks: list[str]) -> None:
    with manage("dead", "list", "--json") as child:
        assert child.stdout is not None and child.stderr is not None
        child.stdout.close()

        said = child.stderr.read()

    assert (said, child.returncode) == ("", command.EXIT_UNREAD)


def test_a_full_disk_is_told_in_a_sentence(dead_tasks: list[str]) -> None:
    with open("/dev/full", "w") as full, manage("dead", "list", stdout=full) as child:
        assert child.stderr is not None
        said = child.stderr.read()

    assert "the output cannot be written: No space left on device" in said
    assert "Traceback" not in said
    assert child.returncode == command.EXIT_IO


def test_ctrl_c_leaves_no_traceback(redis_client: redis.Redis) -> None:
    bus.enqueue_task("later", 1)
    with manage("results", "later", "--follow") as child:
        assert child.stderr is not None
        assert "No result of topic later yet" in child.stderr.readline()
        child.send_signal(signal.SIGINT)

        said = child.stderr.read()

    assert (said, child.returncode) == ("", 0)


def test_ctrl_c_in_the_middle_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(bus.topics, "list_topics", interrupted)

    with pytest.raises(SystemExit) as caught:
        call_command("topics", stdout=io.StringIO())

    assert caught.value.code == command.EXIT_STOPPED


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **options: Any) -> None:
        raise FileNotFoundError(2, "no such thing", "x")

    monkeypatch.setattr(bus.topics, "list_topics", broken)

    with pytest.raises(FileNotFoundError):
        call_command("topics", stdout=io.StringIO())


@pytest.mark.parametrize("columns", ["20", "40", "80", "119", "120", "300"])
def test_ids_are_whole_on_any_terminal(
    dead_tasks: list[str], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = Terminal()

    call_command("dead", "list", stdout=out)

    assert all(task_id in out.getvalue() for task_id in dead_tasks)
    assert out.getvalue().count("the disk of the printer is full") == 3


def test_a_narrow_terminal_cuts_no_name(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    bus.enqueue_task(test_topic, 1)
    out = Terminal()

    call_command("topics", stdout=out)

    assert test_topic in out.getvalue()
    assert "…" not in out.getvalue()


def test_a_pipe_gets_a_line_per_letter(dead_tasks: list[str]) -> None:
    out = io.StringIO()

    call_command("dead", "list", stdout=out)

    assert len(out.getvalue().splitlines()) == 1 + len(dead_tasks)
    assert output.NARROW < output.WIDE


def test_a_wait_in_vain_says_why(test_topic: str) -> None:
    with pytest.raises(CommandError, match="no result: No live agent serves topic"):
        call_command("enqueue", test_topic, "1", "--wait", "0.05", stdout=io.StringIO())


def test_what_is_typed_is_asked_for(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b'{"n": 1}\n'))
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)

    call_command("enqueue", test_topic, "--file", "-", stdout=io.StringIO())

    assert "One JSON value a line" in capsys.readouterr().err
    wait_until(lambda: bus.stats(test_topic)["waiting"] == 1, 5)


def test_a_closed_stdin_is_told(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(CommandError, match="stdin, which is closed"):
        call_command("enqueue", test_topic, "--file", "-")
