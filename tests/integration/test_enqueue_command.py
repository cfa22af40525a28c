"""`manage.py enqueue`: files of tasks, and calls that make no sense."""

from __future__ import annotations

import io
import json
import os
import re
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from pytest_django import Settings

import bus
from bus import errors
from tests.support.desk import Desk
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def run(*args: str) -> str:
    """What the command writes."""
    out = io.StringIO()
    call_command("enqueue", *args, stdout=out)
    return out.getvalue()


def refused(*args: str) -> tuple[int, str]:
    """The exit code of a command that is refused, and its words."""
    with pytest.raises(CommandError) as refusal:
        run(*args)
    return refusal.value.returncode, str(refusal.value)


def waiting(topic: str) -> int:
    return int(bus.stats(topic)["waiting"])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "give either a JSON payload or --file"),
        (["1", "--file", "tasks.jsonl"], "give either a JSON payload or --file"),
        (["--file", "tasks.jsonl", "--id", "x"], "--id and --wait are for one task"),
        (["--file", "tasks.jsonl", "--wait", "0"], "--id and --wait are for one task"),
        (["--file", ""], "cannot read a file without a name: No such file or dir"),
        (["--file", "", "--wait", "0"], "--id and --wait are for one task"),
        (["--file", "no-such-file"], "cannot read no-such-file: No such file or dir"),
        (["text"], "the payload is not JSON: "),
        (["Infinity"], "the payload is not JSON: Infinity is none"),
        (['{"a":1,"a":2}'], "the payload has the key 'a' twice in one object"),
        (['{"a":18446744073709551617}'], "the payload has the integer 1844674407"),
        (['"\\u0000"'], "the payload holds the character NUL"),
        (["1", "--id", "7"], "task id"),
        (["1", "--delay", "-1"], "delay_s"),
        (["1", "--max-attempts", "0"], "max_attempts"),
    ],
)
def test_a_call_that_makes_no_sense_sends_nothing(
    test_topic: str, args: list[str], words: str
) -> None:
    code, said = refused(test_topic, *args)

    assert code == 2
    assert words in said
    assert bus.stats(test_topic)["backlog"] == 0


def test_a_name_that_is_none_is_told(redis_client: Any) -> None:
    code, said = refused("No Topic", "1")

    assert (code, "No Topic" in said) == (2, True)


def test_the_same_id_is_the_same_task_and_another_payload_a_conflict(
    test_topic: str,
) -> None:
    task_id = str(uuid.uuid4())

    assert run(test_topic, "1", "--id", task_id) == f"{task_id}\n"
    assert run(test_topic, "1", "--id", task_id) == f"{task_id}\n"
    code, said = refused(test_topic, "2", "--id", task_id)

    assert (code, task_id in said) == (1, True)
    assert waiting(test_topic) == 1


@pytest.mark.parametrize(("lines", "said"), [(1, "1 task"), (250, "250 tasks")])
def test_a_file_is_sent_without_its_empty_lines(
    test_topic: str, tmp_path: Path, lines: int, said: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(f'{{"n": {n}}}\n  ' for n in range(lines)))

    assert run(test_topic, "--file", str(file)) == (
        f"{said} accepted in topic {test_topic}\n"
    )
    assert waiting(test_topic) == lines


def test_a_byte_order_mark_is_no_part_of_the_first_line(
    test_topic: str, tmp_path: Path
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"n": 1}\n2\n')

    assert run(test_topic, "--file", str(file)).startswith("2 tasks accepted")


def test_a_pipe_is_sent_though_its_lines_come_once(test_topic: str) -> None:
    """What a shell makes of `--file <(…)`."""
    source, sink = os.pipe()
    os.write(sink, b"1\n\n2\n3\n")
    os.close(sink)
    try:
        said = run(test_topic, "--file", f"/dev/fd/{source}")
    finally:
        os.close(source)

    assert said == f"3 tasks accepted in topic {test_topic}\n"
    assert waiting(test_topic) == 3


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 102 is not JSON: "),
        ("[" * 100_000, "line 102 is nested deeper than "),
        ("[" * 50 + "]" * 50, "line 102: "),
        (str(2**64), "line 102 has the integer 18446744073709551616, "),
        ('{"a": 1, "a": 2}', "line 102 has the key 'a' twice"),
    ],
)
def test_a_broken_line_is_named_and_what_was_sent_counted(
    test_topic: str, tmp_path: Path, line: str, words: str
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join([*map(str, range(101)), line, "7"]))

    code, said = refused(test_topic, "--file", str(file))

    assert code == 2
    assert said.startswith(words) and said.endswith("(accepted: 100)")
    assert waiting(test_topic) == 100


def test_a_bound_tells_how_many_were_taken_before_it(
    test_topic: str, tmp_path: Path
) -> None:
    bus.set_limits(test_topic, backlog_max=150)
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(str, range(300))))

    code, said = refused(test_topic, "--file", str(file))

    taken = waiting(test_topic)
    assert code == 1
    assert 100 <= taken <= 150
    assert said.endswith(f"(accepted: {taken})")


def test_a_server_that_is_away_is_an_exit_code_of_its_own(
    test_topic: str, failure_simulator: FailureSimulator
) -> None:
    failure_simulator.unreachable()

    assert refused(test_topic, "1")[0] == 69


def test_who_does_not_know_whether_it_was_sent_is_told_how_to_repeat_it(
    test_topic: str, failure_simulator: FailureSimulator, settings: Settings
) -> None:
    settings.MESH_SEND_RETRY_S = 0.1
    bus.enqueue_task(test_topic, 0)
    failure_simulator.lose_replies(every=1)

    code, said = refused(test_topic, "1")
    failure_simulator.heal()
    [task_id] = re.findall(r"repeat it with --id (\S+):", said)

    assert (code, waiting(test_topic)) == (69, 2)
    assert run(test_topic, "1", "--id", task_id) == f"{task_id}\n"
    assert waiting(test_topic) == 2


def test_lines_that_may_have_been_sent_are_told(
    test_topic: str,
    tmp_path: Path,
    failure_simulator: FailureSimulator,
    settings: Settings,
) -> None:
    settings.MESH_SEND_RETRY_S = 0.1
    bus.enqueue_task(test_topic, 0)
    file = tmp_path / "tasks.jsonl"
    file.write_text("\n".join(map(str, range(250))))
    failure_simulator.lose_replies(every=1)

    code, said = refused(test_topic, "--file", str(file))
    failure_simulator.heal()

    assert code == 69
    [ids] = re.findall(r"lines 1 to 100 may be too, .* task (\S+, \S+, \S+) or", said)
    assert said.endswith(" or 97 more)") and "accepted: 0;" in said
    tasks = [bus.get_task(task_id, test_topic) for task_id in ids.split(", ")]
    assert [task.payload for task in tasks] == [0, 1, 2]


def test_a_result_that_cannot_be_waited_for_leaves_its_id(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> None:
        raise errors.BusUnavailable("gone")

    monkeypatch.setattr("bus.results.wait_result", away)

    code, said = refused(test_topic, "1", "--wait", "9")

    [task_id] = re.findall(r"^gone; the task was accepted, its id is (\S+)$", said)
    assert (code, bus.get_task(task_id, test_topic).state) == (69, "waiting")


def test_a_result_that_is_waited_for_is_printed(test_topic: str) -> None:
    task_id = str(uuid.uuid4())
    desk = Desk(test_topic)

    def serve() -> None:
        desk.complete(*wait_until(desk.claim, 60), result='{"sum": 3}')

    server = threading.Thread(target=serve)
    server.start()
    said = run(test_topic, "[1, 2]", "--id", task_id, "--wait", "120")
    server.join(60)

    assert json.loads(said) == {
        "id": task_id,
        "state": "done",
        "result": {"sum": 3},
    }


def test_a_task_that_died_is_told_with_its_error(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    desk, out = Desk(test_topic), io.StringIO()
    desk.fail(desk.one(), message="no paper", final=True)

    with pytest.raises(CommandError, match="no result: ") as refusal:
        call_command(
            "enqueue", test_topic, "1", "--id", task_id, "--wait", "9", stdout=out
        )

    row = json.loads(out.getvalue())
    assert refusal.value.returncode == 1
    assert (row["state"], row["error"]["message"]) == ("dead", "no paper")


@pytest.mark.parametrize(
    ("call", "args", "words"),
    [
        ("bus.results.wait_result", ["1", "--wait", "9"], "not waited for; its id is"),
        ("bus.tasks.enqueue_task", ["1"], "stopped; repeat it with --id "),
        ("bus.many.enqueue_many", ["--file", "FILE"], "stopped; accepted: 0"),
    ],
)
def test_ctrl_c_tells_what_is_in_the_mesh(
    test_topic: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    args: list[str],
    words: str,
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("1\n")

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(call, interrupted)

    code, said = refused(test_topic, *(str(file) if x == "FILE" else x for x in args))

    assert (code, words in said) == (130, True)
