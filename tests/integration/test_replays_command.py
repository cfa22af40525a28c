"""`manage.py replays`: many letters from the command line."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError

import bus
from bus import replays
from bus.bulk.driver import Foreman
from tests.integration.test_commands import Pipe
from tests.support import agents, work
from tests.support.bulk import created, dead, driven

pytestmark = pytest.mark.django_db

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"


def said(*args: str, **options: Any) -> str:
    out = io.StringIO()
    call_command("replays", *args, stdout=out, **options)
    return out.getvalue()


def test_a_dry_run_tells_what_it_would_be_of(test_topic: str) -> None:
    dead(test_topic, 3, "no ink")

    text = said("new", "--topic", test_topic, "--dry-run")

    assert "3 letters; nothing was written" in text
    assert "ValueError: no ink" in text
    assert replays.list_jobs() == []


def test_it_is_driven_to_its_end_without_a_web_server(test_topic: str) -> None:
    dead(test_topic, 25)

    with agents.running(test_topic, work.echo):
        text = said("new", "--topic", test_topic, "--canary", "--wait")

    [job] = replays.list_jobs()
    assert (job.state, job.by, job.counts.done) == ("done", "manage.py", 25)
    assert "done (rest), 25 of 25, 25 done" in text.splitlines()[-1]


def test_whoever_waits_through_a_pipe_reads_along(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead(test_topic, 1)
    out, look = Pipe(), replays.get

    def until_told(job_id: str) -> replays.Job:
        if "\nrunning, " in out.getvalue():
            raise KeyboardInterrupt
        return look(job_id)

    monkeypatch.setattr(replays, "get", until_told)
    with pytest.raises(SystemExit):
        call_command("replays", "new", "--topic", test_topic, "--wait", stdout=out)

    assert out.arrived == out.getvalue()


def test_one_that_stops_itself_ends_the_command_with_1(test_topic: str) -> None:
    dead(test_topic, 3)

    with (
        agents.running(test_topic, work.failing, max_attempts=1),
        pytest.raises(CommandError, match="is stopped") as caught,
    ):
        said("new", "--topic", test_topic, "--canary", "--wait")

    assert caught.value.returncode == 1


def test_jobs_are_listed_shown_paused_resumed_cancelled(test_topic: str) -> None:
    assert said("list") == "No bulk replays.\n"
    ids = dead(test_topic, 3)
    job = created(test_topic, canary=True)

    paused = said("pause", job.id)
    slower = said("resume", job.id, "--rate", "5")
    said("pause", job.id)
    resumed = said("resume", job.id, "--no-canary")
    cancelled = said("cancel", job.id)
    listed = said("list")
    [row] = map(json.loads, said("list", "--json").splitlines())
    shown = json.loads(said("show", job.id, "--json"))

    assert paused == "paused (canary 1 of 2), 0 of 3: by manage.py\n"
    assert slower == "running (canary 1 of 2), 0 of 3\n"
    assert resumed == "running, 0 of 3\n"
    assert cancelled.startswith("cancelled, 0 of 3")
    assert job.id in listed
    assert (row["id"], row["rate"]) == (job.id, 5)
    assert shown["letters"] == []
    assert {letter.id for letter in bus.list_dead(test_topic)} == set(ids)


def test_one_is_shown_with_what_became_of_its_letters(test_topic: str) -> None:
    task_id, again = dead(test_topic, 2)
    job = created(test_topic)
    bus.discard(again, test_topic)

    with agents.running(test_topic, work.echo):
        driven(Foreman(), job)

    head, *letters = said("show", job.id).splitlines()
    assert head.startswith(f"{job.id}  done")
    assert letters == [f"{test_topic}  {again}  skipped: discarded"]
    assert bus.get_task(task_id).state == "done"


@pytest.mark.parametrize(
    ("args", "status", "says"),
    [
        (["new"], 2, "which letters"),
        (["new", "--topic", "UPPER"], 2, "not allowed"),
        (["new", "--topic", "nobody-knows"], 1, "no topic"),
        (["new", NOBODY], 1, "no dead letter is selected"),
        (["new", NOBODY, "--rate", "0"], 2, "rate"),
        (["show", NOBODY], 1, "no bulk replay"),
        (["cancel", "x"], 1, "no bulk replay"),
    ],
)
def test_what_cannot_be_is_told_with_its_status(
    test_topic: str, args: list[str], status: int, says: str
) -> None:
    with pytest.raises(CommandError, match=says) as caught:
        said(*args)

    assert caught.value.returncode == status
