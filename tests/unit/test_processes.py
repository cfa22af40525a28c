"""A process for `cpu=True` handlers: whatever its end, the agent hears what it was."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import errors, failures, messages
from bus.handlers import Handler
from bus.runtime.processes import Child, ProcessDied
from tests.support import far_work
from tests.support.processes import is_gone, program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def child() -> Iterator[Child]:
    """A process that runs `far_work.end`, and ends when nobody can call it any more."""
    made = Child(Handler("far", far_work.end, cpu=True))
    yield made
    assert made._pipe is not None
    made._pipe.close()
    made._process.join(20)
    assert made._process.exitcode == 0


def ends(child: Child, payload: Any) -> Any:
    return child.call(messages.Task("id", "far", payload))


def fails(child: Child, payload: str) -> dict[str, Any]:
    """What an attempt keeps of an end like that."""
    with pytest.raises(Exception) as caught:
        ends(child, payload)
    return failures.describe(caught.value)


def test_one_process_serves_call_after_call(child: Child) -> None:
    child.prepare()

    assert ends(child, "") == ends(child, "")


@pytest.mark.parametrize(
    ("way", "said"),
    [
        ("exit", "the process ended with exit code 3"),
        ("signal", "the process ended with signal SIGKILL"),
    ],
)
def test_a_death_is_told_and_the_next_call_has_a_new_process(
    child: Child, way: str, said: str
) -> None:
    first = ends(child, "")

    with pytest.raises(ProcessDied) as caught:
        ends(child, way)

    assert str(caught.value) == said
    assert ends(child, "") != first


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_to_the_whole_group_ends_no_call(child: Child, name: str) -> None:
    """A closed terminal, a service manager: the agent drains, and has 4 s for it."""
    first = ends(child, "")

    assert ends(child, name) == first


def test_what_a_handler_starts_heeds_signals_as_ever(child: Child) -> None:
    assert ends(child, "program") == -signal.SIGTERM


def test_a_death_is_told_although_a_fork_of_it_lives(
    child: Child, tmp_path: Path
) -> None:
    with pytest.raises(ProcessDied) as caught:
        ends(child, {"fork": str(tmp_path / "pid")})
    left = int((tmp_path / "pid").read_text())

    lived = not is_gone(left)
    os.kill(left, signal.SIGKILL)

    assert lived
    assert str(caught.value) == "the process ended with exit code 3"
    assert ends(child, "")


def test_what_was_killed_between_two_calls_costs_no_attempt(child: Child) -> None:
    first = ends(child, "")
    child.kill()  # which it may outlive for a moment

    assert ends(child, "") != first


def test_a_handler_that_wants_out_ends_its_attempt_only(child: Child) -> None:
    first = ends(child, "")

    assert fails(child, "leave")["message"] == "the handler raised SystemExit"
    assert ends(child, "") == first


def test_a_connection_that_broke_is_not_met_by_the_next_call(child: Child) -> None:
    assert fails(child, "break")["type"] == "ProgrammingError"

    assert ends(child, "ask") == 1


def test_a_value_that_cannot_travel_is_told(child: Child) -> None:
    error = fails(child, "closure")

    assert error["message"].startswith("the handler returned function, which cannot")


def test_an_error_that_cannot_travel_says_what_it_would_in_a_thread(
    child: Child,
) -> None:
    error = fails(child, "sheet")

    assert (error["type"], error["reason"]) == ("Sheet", "failed")
    assert error["message"] == "prices is empty in row 7"
    assert error["frame"] == "far_work.py:end"
    assert 'raise Sheet("prices", 7)' in error["traceback"]


def test_a_final_error_that_cannot_travel_stays_final(child: Child) -> None:
    with pytest.raises(errors.GiveUp) as caught:
        ends(child, "hopeless")

    assert failures.describe(caught.value)["message"] == "prices has no row 7"


def test_a_retry_comes_with_what_is_known_of_it(child: Child) -> None:
    error = fails(child, "again")

    assert (error["type"], error["message"]) == ("Retry", "no paper")
    assert error["frame"] == "far_work.py:end"


def test_a_retry_that_cannot_travel_keeps_its_delay(child: Child) -> None:
    with pytest.raises(errors.Retry) as caught:
        ends(child, "later")

    assert caught.value.delay_s == 90
    assert failures.describe(caught.value)["message"] == "prices are not there yet"


def test_an_error_that_can_say_nothing_has_its_name_at_least(child: Child) -> None:
    error = fails(child, "dumb")

    assert (error["type"], error["message"]) == ("Dumb", "Dumb")


def test_a_handler_that_cannot_be_found_there_fails_each_attempt() -> None:
    def here(payload: Any, task: Any) -> Any:
        return payload

    child = Child(Handler("far", here, cpu=True))
    told = [fails(child, "") for _ in range(2)]
    child.kill()

    assert [error["type"] for error in told] == ["HandlerError"] * 2
    assert "has no attribute '<locals>'" in told[1]["message"]


_AGENT = """
import django
django.setup()
from bus import handlers, messages
from bus.runtime.processes import Child
child = Child(handlers.load("tests.support.far_work:end", "far"))
print(child.call(messages.Task("id", "far", "")), flush=True)
input()
"""


def test_it_ends_with_its_agent_however_that_dies() -> None:
    with program(_AGENT) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        agent.kill()

    wait_until(lambda: is_gone(pid), 20)


def test_an_agent_that_breaks_ends_at_once_and_so_do_its_processes() -> None:
    with program(_AGENT.replace("input()", "raise SystemExit(7)")) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())

        assert agent.wait(20) == 7

    wait_until(lambda: is_gone(pid), 20)
