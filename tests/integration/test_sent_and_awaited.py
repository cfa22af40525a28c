"""Numbers that are none are refused before anything is sent or waited for."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

import bus
from bus import errors, wanted


@pytest.mark.parametrize("wait", ["-1", "nan"])
def test_a_wait_that_is_none_is_refused_before_the_task_is_sent(
    test_topic: str, wait: str
) -> None:
    with pytest.raises(CommandError, match="--wait .* is not 0 s or more") as refusal:
        call_command("enqueue", test_topic, "1", f"--wait={wait}")

    assert refusal.value.returncode == 2
    assert bus.stats(test_topic)["backlog"] == 0


def test_a_wait_of_zero_says_how_the_task_stands(test_topic: str) -> None:
    out = io.StringIO()

    with pytest.raises(CommandError, match="no result"):
        call_command("enqueue", test_topic, "1", "--wait", "0", stdout=out)

    assert '"state":"waiting"' in out.getvalue().replace(" ", "")


@pytest.mark.parametrize("timeout_s", [-1, float("nan"), "x", None, True])
def test_a_timeout_that_is_none_is_an_error(test_topic: str, timeout_s: Any) -> None:
    task_id = bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.InvalidOption, match="timeout_s .* is not 0 s or more"):
        bus.wait_result(task_id, test_topic, timeout_s)
    with pytest.raises(errors.InvalidOption, match="timeout_s .* is not 0 s or more"):
        asyncio.run(bus.await_result(task_id, test_topic, timeout_s))


def test_a_file_in_utf_16_is_told(test_topic: str, tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text("1\n2\n", "utf-16")

    with pytest.raises(CommandError, match="the file is not UTF-8"):
        call_command("enqueue", test_topic, "--file", str(file))

    assert bus.stats(test_topic)["backlog"] == 0


@pytest.mark.parametrize("sign", [1, -1])
def test_integers_are_taken_up_to_the_last_that_all_readers_hold(sign: int) -> None:
    assert wanted.item_of("t", wanted.Wanted(sign * (2**53 - 1)))
    with pytest.raises(errors.InvalidPayload, match=r"beyond ±\(2\^53 - 1\)"):
        wanted.item_of("t", wanted.Wanted(sign * 2**53))


@pytest.mark.parametrize("count", [-1, 100_001, True, 1.0, "1"])
def test_a_count_of_results_is_refused_by_the_bounds_it_has(
    test_topic: str, count: Any
) -> None:
    assert bus.tail_results(test_topic, 0) == []
    with pytest.raises(errors.InvalidOption, match="is not 0 to 100000"):
        bus.tail_results(test_topic, count)


def test_no_attempt_is_given_less_than_a_millisecond() -> None:
    assert wanted.options_of(None, 0.001) == "t=0.001"
    with pytest.raises(errors.InvalidOption, match="is not 0.001 s to 7 days"):
        wanted.options_of(None, 1e-9)


def test_a_level_that_the_server_cannot_give_sends_nothing(test_topic: str) -> None:
    with pytest.raises(CommandError, match="replicated:1"):
        call_command("enqueue", test_topic, "1", "--durability", "replicated:1")

    assert bus.stats(test_topic)["backlog"] == 0


def test_a_level_that_it_can_give_is_waited_for(test_topic: str) -> None:
    out = io.StringIO()

    call_command("enqueue", test_topic, "1", "--durability", "memory", stdout=out)

    assert bus.get_task(out.getvalue().strip(), test_topic).state == "waiting"
