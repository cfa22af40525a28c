"""`manage.py results`: rows of one topic or all, old ones first, and those to come."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.management import CommandError, call_command

import bus
from bus import results
from tests.integration.test_commands import Pipe
from tests.support.desk import Desk
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until


def run(*args: str) -> tuple[str, str]:
    """What the command writes to both streams."""
    out, err = io.StringIO(), io.StringIO()
    call_command("results", *args, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def finish(topic: str, *values: int) -> list[str]:
    """Tasks that ended with these results, in this order."""
    desk, ids = Desk(topic), []
    for value in values:
        ids.append(bus.enqueue_task(topic, {"n": value}))
        desk.complete(desk.one(), result=str(value))
    return ids


@contextmanager
def followed(
    monkeypatch: pytest.MonkeyPatch, *args: str
) -> Iterator[tuple[Pipe, io.StringIO]]:
    """The command with `--follow` from its first read on; a Ctrl-C ends it after."""
    out, err = Pipe(), io.StringIO()
    reads, over = threading.Event(), threading.Event()
    real = results.results_after

    def until_over(topic: str, after: str, count: int, block_ms: int) -> Any:
        reads.set()
        if over.is_set():
            raise KeyboardInterrupt
        return real(topic, after, count, min(block_ms, 50))

    monkeypatch.setattr(results, "results_after", until_over)
    ended: list[BaseException | None] = []

    def command() -> None:
        try:
            call_command("results", *args, "--follow", stdout=out, stderr=err)
            ended.append(None)
        except BaseException as exc:
            ended.append(exc)

    thread = threading.Thread(target=command)
    thread.start()
    try:
        assert reads.wait(60)  # what comes from here on comes while it follows
        yield out, err
    finally:
        over.set()
        thread.join(60)
    assert ended == [None]


def test_a_row_of_which_a_hand_made_nonsense_is_a_line_as_well(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    row = '{"id": null, "topic": null, "state": ["ok"], "result": 7}'
    bus.get_redis().xadd(bus.result_stream(test_topic), {"id": "1", "json": row})

    assert run(test_topic)[0].split() == ["None", "['ok']", "None", "7"]


def test_a_topic_is_named_by_itself_or_as_an_option(test_topic: str) -> None:
    finish(test_topic, 1)
    finish(f"{test_topic}-2", 2)

    by_itself = run(test_topic, "--json")

    assert len(by_itself[0].splitlines()) == 1
    assert run("--topic", test_topic, "--json") == by_itself
    assert run("-n", "5", f"--topic={test_topic}", "--json") == by_itself


def test_the_newest_of_all_topics_are_printed_the_oldest_first(
    test_topic: str,
) -> None:
    other = f"{test_topic}-b"
    finish(test_topic, 1)
    finish(other, 2)
    [third] = finish(test_topic, 3)

    said, told = run("--count", "2")

    first, second = said.splitlines()
    assert other in first and first.endswith("  2")
    assert test_topic in second and f"done      {third}  3" in second
    assert told == ""


def test_rows_as_json_have_the_id_of_their_entry(test_topic: str) -> None:
    ids = finish(test_topic, 1, 2)

    said, _ = run(test_topic, "--json")

    rows = [json.loads(line) for line in said.splitlines()]
    assert [(row["id"], row["result"]) for row in rows] == [(ids[0], 1), (ids[1], 2)]
    assert rows[-1]["entry_id"] == results.last_result_id(test_topic)


def test_a_result_is_one_line_that_no_terminal_obeys(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    desk.complete(desk.one(), result='"\u202etxt.exe"')

    said, _ = run(test_topic)

    assert len(said.splitlines()) == 1
    assert "\u202e" not in said and "\\u202e" in said


def test_no_result_yet_is_told_beside_the_output(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    assert run(test_topic) == ("", f"No result of topic {test_topic} yet.\n")
    assert run() == ("", "No result of any topic yet.\n")


def test_none_may_be_asked_for_where_there_are_some(test_topic: str) -> None:
    finish(test_topic, 1)

    assert run(test_topic, "--count", "0") == ("", "")


def test_a_topic_that_is_not_there_is_an_error_unless_it_is_followed(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 1)
    with pytest.raises(CommandError, match="no topic 'to-come'"):
        run("to-come")

    with followed(monkeypatch, "to-come") as (out, err):
        wait_until(lambda: "No result of topic to-come yet" in err.getvalue(), 30)
        [task_id] = finish("to-come", 7)
        wait_until(lambda: task_id in out.getvalue(), 30)

    assert "Waiting: no topic 'to-come'" in err.getvalue()


def test_a_topic_made_meanwhile_is_followed_from_its_first_result(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    [old] = finish(test_topic, 1)
    with followed(monkeypatch, "--count", "0") as (out, _):
        [new, second] = finish(f"{test_topic}-new", 2, 3)
        wait_until(lambda: second in out.getvalue(), 30)
        [last] = finish(test_topic, 4)
        wait_until(lambda: last in out.getvalue(), 30)

    said = out.getvalue()
    assert [said.count(task_id) for task_id in (old, new, second, last)] == [0, 1, 1, 1]


@pytest.mark.parametrize("how", [[], ["--json"]], ids=["short", "json"])
def test_whoever_follows_through_a_pipe_reads_along(
    test_topic: str, how: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 1)
    with followed(monkeypatch, test_topic, *how) as (out, _):
        [task_id] = finish(test_topic, 2)

        wait_until(lambda: task_id in out.arrived, 30)


def test_an_outage_is_told_and_followed_over(
    test_topic: str,
    redis_url: str,
    failure_simulator: FailureSimulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish(test_topic, 1)
    with followed(monkeypatch, test_topic) as (out, err):
        wait_until(lambda: out.getvalue().count("\n") == 1, 30)
        failure_simulator.unreachable()
        wait_until(lambda: "waiting: " in err.getvalue(), 30)
        monkeypatch.setenv("REDIS_URL", redis_url)
        [task_id] = finish(test_topic, 2)
        wait_until(lambda: task_id in out.getvalue(), 30)

    assert out.getvalue().count("\n") == 2
