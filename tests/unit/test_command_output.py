"""What all commands share: exit codes of errors, lines of a log, numbers of options."""

from __future__ import annotations

import argparse
import getpass
import json
import subprocess
import sys

import pytest
from django.core.management import CommandError
from pytest_django import Settings

from bus import errors
from bus.management import options, output, trail
from tests.support.processes import ROOT


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.BusUnavailable("away"), 69),
        (errors.OutcomeUnknown("perhaps"), 69),
        (errors.InvalidName("odd"), 2),
        (errors.PayloadTooLarge("large"), 2),
        (errors.InvalidOption("none"), 2),
        (errors.DecodeError("no JSON"), 2),
        (errors.HandlerError("no function"), 2),
        (errors.WrongLayout("newer keys"), 78),
        (errors.UnfitServer("evicts"), 78),
        (errors.TaskNotFound("nobody"), 1),
        (errors.TopicFull("full"), 1),
        (errors.ServerError("no binary"), 1),
    ],
)
def test_each_error_ends_a_command_with_its_code_and_its_words(
    error: errors.BusError, code: int
) -> None:
    with pytest.raises(CommandError) as ended, output.bus_errors():
        raise error

    assert (ended.value.returncode, str(ended.value)) == (code, str(error))
    assert ended.value.__cause__ is error


def test_what_somebody_nested_deeply_is_a_line_as_well() -> None:
    deep = "[" * 300 + "]" * 300

    assert output.json_line({"task": json.loads(deep)}) == f'{{"task":{deep}}}'


def test_what_is_no_error_of_ours_passes() -> None:
    with pytest.raises(ZeroDivisionError), output.bus_errors():
        raise ZeroDivisionError


LOGS = """
import logging
from bus.management import output
output.log_lines()
logging.getLogger("bus.test").info("took %s", "a\\nb\\x1b[2J" + "x" * 2_000)
for name in ("bus.test", "django.security.DisallowedHost"):
    try:
        raise LookupError("cause of " + name)
    except LookupError:
        logging.getLogger(name).exception("it failed")
"""


def test_a_line_of_the_log_stays_one_and_only_a_bug_has_its_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-c", LOGS], cwd=ROOT, capture_output=True, text=True
    )

    line, *lines = done.stderr.splitlines()
    assert line.startswith("took a\\nb\\x1b[2Jxxx")
    assert len(line) == output.LOG_MOST
    assert lines[:2] == ["it failed", "Traceback (most recent call last):"]
    assert lines[-2:] == ["LookupError: cause of bus.test", "it failed"]


@pytest.mark.parametrize("text", ["0", "11", "-1", "1.5", "", "x", "٣", "1_0"])
def test_a_number_out_of_its_bounds_is_told_with_them(text: str) -> None:
    parse = options.number(1, 10)

    assert (parse("1"), parse("10")) == (1, 10)
    with pytest.raises(argparse.ArgumentTypeError, match="is no number 1 to 10"):
        parse(text)


def test_production_is_refused_on_one_screen_with_all_that_is_missing(
    settings: Settings,
) -> None:
    settings.MESH_GIVEN = []
    options.check_production(False)

    with pytest.raises(CommandError) as refusal:
        options.check_production(True)

    said = str(refusal.value)
    assert refusal.value.returncode == 2
    assert all(f"* {x} is not" in said for x in ("SECRET_KEY", "ALLOWED_HOSTS"))
    assert said.endswith("docs/running.md has the whole table.")


def test_a_user_without_a_name_is_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container that runs under a number which no table knows."""

    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr(getpass, "getuser", nameless)

    assert trail.who().name == "manage.py by somebody"
