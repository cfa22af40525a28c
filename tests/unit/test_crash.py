"""What tests have production code do: die at a point, write down transitions."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import bus
from bus import crash, errors, verbs
from tests.support.processes import ROOT


@pytest.mark.parametrize("wish", ["nowhere", "", ":1", "after_claim "])
def test_a_point_that_is_none_is_refused_with_the_list(wish: str) -> None:
    with pytest.raises(errors.InvalidOption, match="after_claim, after_complete_sent"):
        crash.arm(wish)


@pytest.mark.parametrize("number", ["0", "-1", "x", "1.5", "²"])
def test_a_pass_that_is_none_is_refused(number: str) -> None:
    with pytest.raises(errors.InvalidOption, match="a number from 1"):
        crash.arm(f"after_claim:{number}")


LOOK = "import sys, django; django.setup(); print('bus.crash' in sys.modules)"


@pytest.mark.parametrize("point", ["", "after_enqueue_sent"])
def test_only_a_process_that_is_to_die_knows_of_it(point: str) -> None:
    said = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=ROOT,
        env={**os.environ, "MESH_CRASH_AT": point},
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout

    assert said.strip() == str(bool(point))


def test_a_command_says_what_is_wrong_with_the_point() -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "agent"],
        cwd=ROOT,
        env={**os.environ, "MESH_CRASH_AT": "nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("settings: MESH_CRASH_AT names no point: 'nowhere'")
    assert "Traceback" not in done.stderr


def test_scripts_log_nothing_unless_they_are_asked_to() -> None:
    plain, logged = verbs.load(logged=False), verbs.load(logged=True)

    assert not [name for name, each in plain.items() if "log" in each.names]
    assert {"enqueue", "complete", "fail", "replay", "promote"} <= {
        name for name, each in logged.items() if "log" in each.names
    }
    for name, each in logged.items():
        same = each.text == plain[name].text
        assert same == ("log" not in each.names), name


DIES = """
import sys
import django; django.setup()
import bus
from bus import looks
from tests.support.desk import Desk
topic = sys.argv[1]
Desk(topic).claim()
looks.promote(topic)
bus.enqueue_task(topic, 1)
bus.enqueue_task(topic, 2, delay_s=0.001)
while looks.promote(topic) < 1: pass
Desk(topic).claim()
print("lives")
"""


@pytest.mark.parametrize(
    ("point", "left"),
    [
        ("after_enqueue_sent", {"waiting": 1, "delayed": 0}),
        ("after_promote_sent", {"waiting": 2, "delayed": 0}),
        ("after_claim", {"waiting": 1, "running": 1}),
    ],
)
def test_a_process_dies_behind_the_first_pass_that_brought_something(
    redis_url: str, test_topic: str, point: str, left: dict[str, int]
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DIES, test_topic],
        cwd=ROOT,
        env={**os.environ, "MESH_CRASH_AT": point, "REDIS_URL": redis_url},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (done.returncode, done.stdout) == (crash.EXIT_CODE, "")
    stats = bus.stats(test_topic)
    assert {name: stats[name] for name in left} == left
