"""How handlers, senders and topics steer attempts: limits, retries, slots."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_django import Settings

import bus
from tests.support import agents
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# On module level: a process handler is found by its path.


async def async_span(payload: Any, task: Any) -> list[float]:
    """When it ran: start and end."""
    began = time.time()
    await asyncio.sleep(0.05)
    return [began, time.time()]


def sync_span(payload: Any, task: Any) -> list[float]:
    """When it ran: start and end."""
    began = time.time()
    time.sleep(0.05)
    return [began, time.time()]


async def async_sleep(payload: Any, task: Any) -> None:
    """As long as the payload says."""
    await asyncio.sleep(payload)


def sync_sleep(payload: Any, task: Any) -> None:
    """As long as the payload says."""
    time.sleep(payload)


def tell_and_sleep(payload: Any, task: Any) -> None:
    """Writes its process id into the file and stays."""
    Path(payload).write_text(str(os.getpid()))
    time.sleep(30)


def end_process(payload: Any, task: Any) -> None:
    """Ends its process."""
    os._exit(3)


async def refused(payload: Any, task: Any) -> Any:
    """Never succeeds."""
    raise ValueError("refused")


async def told_timeout(payload: Any, task: Any) -> float:
    """The time this attempt may take."""
    return float(task.timeout_s)


KINDS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "async": (async_span, {}),
    "thread": (sync_span, {}),
    "process": (sync_span, {"cpu": True}),
}
SLEEPERS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "async": (async_sleep, {}),
    "thread": (sync_sleep, {}),
    "process": (sync_sleep, {"cpu": True}),
}


def _most_at_once(spans: list[list[float]]) -> int:
    """The largest number of spans that overlap in one moment."""
    steps = [(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans]
    now = most = 0
    for _, step in sorted(steps):
        now += step
        most = max(most, now)
    return most


@pytest.mark.parametrize("kind", KINDS)
def test_an_agent_runs_as_many_at_once_as_it_may_and_never_more(
    test_topic: str, kind: str
) -> None:
    function, options = KINDS[kind]
    spans: list[list[float]] = []

    def all_slots_were_busy() -> bool:
        # A process takes a second or more to start on a busy machine: work comes
        # until all are there.
        done = bus.stats(test_topic)["done"] + 60
        bus.enqueue_many(test_topic, range(60))
        wait_until(lambda: bus.stats(test_topic)["done"] == done, 60, "all are done")
        spans[:] = [row["result"] for _, row in bus.tail_results(test_topic, 1_000)]
        return _most_at_once(spans) >= 3

    with agents.running(test_topic, function, concurrency=3, **options):
        wait_until(all_slots_were_busy, 100, "three tasks ran at once")

    assert _most_at_once(spans) == 3


def test_the_handlers_concurrency_holds_where_the_agent_says_nothing(
    test_topic: str,
) -> None:
    bus.enqueue_many(test_topic, range(20))
    with agents.running(test_topic, async_span, agent_id="told") as agent:
        agent_default = agent._handlers[0].concurrency
        wait_until(lambda: bus.stats(test_topic)["done"] == 20, 20, "all are done")
    spans = [row["result"] for _, row in bus.tail_results(test_topic, 20)]

    assert agent_default is None
    assert _most_at_once(spans) > 3  # an async handler has 100 slots by default


@pytest.mark.parametrize("kind", SLEEPERS)
def test_an_attempt_that_takes_too_long_ends_as_a_timeout(
    test_topic: str, kind: str
) -> None:
    function, options = SLEEPERS[kind]
    warm = bus.enqueue_task(test_topic, 0, timeout_s=20)
    options = {**options, "timeout_s": 0.4, "max_attempts": 1, "concurrency": 1}

    with agents.running(test_topic, function, **options):
        bus.wait_result(warm, test_topic, 60)
        began = time.monotonic()
        task_id = bus.enqueue_task(test_topic, 3)
        task = bus.wait_result(task_id, test_topic, 60)
        took_s = time.monotonic() - began

    [attempt] = task.attempts
    assert task.state == "dead"
    assert 0.4 <= took_s < 20
    assert (attempt["error"]["type"], attempt["error"]["reason"]) == (
        "Timeout",
        "timeout",
    )
    assert attempt["duration_ms"] >= 400


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_a_slot_is_free_again_after_a_timeout(test_topic: str, kind: str) -> None:
    function, options = SLEEPERS[kind]
    options = {**options, "timeout_s": 0.3, "max_attempts": 1, "concurrency": 1}

    with agents.running(test_topic, function, **options):
        bus.enqueue_task(test_topic, 2)
        after = bus.enqueue_task(test_topic, 0)
        task = bus.wait_result(after, test_topic, 60)

    assert task.state == "done"


def test_the_start_of_a_process_is_not_the_tasks_time(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 0)
    options = {"cpu": True, "timeout_s": 0.15, "max_attempts": 1, "concurrency": 1}

    with agents.running(test_topic, sync_sleep, **options):
        task = bus.wait_result(task_id, test_topic, 60)

    assert task.state == "done"


def test_a_process_that_takes_too_long_is_killed(
    test_topic: str, tmp_path: Path
) -> None:
    note = tmp_path / "pid"
    options = {"cpu": True, "timeout_s": 4.0, "max_attempts": 1, "concurrency": 1}

    with agents.running(test_topic, tell_and_sleep, **options):
        task_id = bus.enqueue_task(test_topic, str(note))
        bus.wait_result(task_id, test_topic, 60)

        wait_until(lambda: is_gone(int(note.read_text())), 20, "the process is gone")


def test_a_process_that_dies_fails_its_attempt_and_not_its_agent(
    test_topic: str,
) -> None:
    options = {"cpu": True, "max_attempts": 2, "backoff_s": 0.01, "concurrency": 1}

    with agents.running(test_topic, end_process, **options):
        task_id = bus.enqueue_task(test_topic, "x")
        task = bus.wait_result(task_id, test_topic, 60)

    errors = [row["error"] for row in task.attempts]
    assert [error["type"] for error in errors] == ["ProcessDied"] * 2
    assert "exit code 3" in errors[0]["message"]
    assert bus.stats(test_topic)["lost"] == 0


@pytest.mark.parametrize(
    ("task_says", "topic_says", "handler_says", "expected"),
    [
        (1, 2, 3, 1),
        (3, 1, 1, 3),
        (None, 2, 3, 2),
        (None, None, 2, 2),
        (None, None, None, 5),
    ],
)
def test_the_number_of_attempts_comes_from_the_nearest(
    test_topic: str,
    task_says: int | None,
    topic_says: int | None,
    handler_says: int | None,
    expected: int,
) -> None:
    if topic_says:
        bus.set_limits(test_topic, max_attempts=topic_says)
    task_id = bus.enqueue_task(test_topic, "x", max_attempts=task_says)

    options = {"max_attempts": handler_says, "backoff_s": 0.01}
    with agents.running(test_topic, refused, **options):
        task = bus.wait_result(task_id, test_topic, 60)

    assert task.state == "dead"
    assert [row["attempt"] for row in task.attempts] == list(range(1, expected + 1))


def test_the_default_number_of_attempts_is_a_setting(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_MAX_ATTEMPTS = 2
    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, refused, backoff_s=0.01):
        task = bus.wait_result(task_id, test_topic, 60)

    assert len(task.attempts) == 2


@pytest.mark.parametrize(
    ("task_says", "topic_says", "handler_says", "expected"),
    [
        (2, 3, 4, 2),
        (None, 3, 4, 3),
        (None, None, 4, 4),
        (None, None, None, 60),
        (0.25, None, 4, 0.25),
    ],
)
def test_the_time_an_attempt_may_take_is_told_to_it(
    test_topic: str,
    task_says: float | None,
    topic_says: float | None,
    handler_says: float | None,
    expected: float,
) -> None:
    if topic_says:
        bus.set_limits(test_topic, timeout_s=topic_says)
    task_id = bus.enqueue_task(test_topic, "x", timeout_s=task_says)

    with agents.running(test_topic, told_timeout, timeout_s=handler_says):
        task = bus.wait_result(task_id, test_topic, 60)

    assert task.result == expected


def test_a_changed_limit_of_a_topic_reaches_agents_that_run(test_topic: str) -> None:
    with agents.running(test_topic, told_timeout):
        bus.wait_result(bus.enqueue_task(test_topic, 1), test_topic, 60)
        bus.set_limits(test_topic, timeout_s=7)
        task_id = bus.enqueue_task(test_topic, 2)
        task = bus.wait_result(task_id, test_topic, 60)

    assert task.result == 7


def test_a_retry_comes_when_the_handler_said(test_topic: str) -> None:
    async def later(payload: Any, task: Any) -> int:
        if task.attempt < 3:
            raise bus.Retry(0.6, "the printer is busy")
        return int(task.attempt)

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, later):
        task = bus.wait_result(task_id, test_topic, 60)

    rows = bus.tail_results(test_topic, 1)
    starts = [rows[0][1]["enqueued_at"], rows[0][1]["started_at"]]
    began, ended = (datetime.fromisoformat(text) for text in starts)
    assert (task.state, task.result, task.attempt) == ("done", 3, 3)
    assert 1.2 <= (ended - began).total_seconds() < 4


def test_a_retry_is_an_attempt_and_the_last_one_is_the_end(test_topic: str) -> None:
    async def never(payload: Any, task: Any) -> None:
        raise bus.Retry(0.01, f"busy {task.attempt}")

    task_id = bus.enqueue_task(test_topic, "x", max_attempts=2)
    with agents.running(test_topic, never):
        task = bus.wait_result(task_id, test_topic, 60)

    messages = [row["error"]["message"] for row in task.attempts]
    assert task.state == "dead"
    assert messages == ["busy 1", "busy 2"]
    assert bus.stats(test_topic)["retried"] == 1


def test_a_waiting_retry_shows_when_it_is_due_and_why(test_topic: str) -> None:
    async def later(payload: Any, task: Any) -> None:
        raise bus.Retry(120, "the printer is busy")

    task_id = bus.enqueue_task(test_topic, "x")
    with agents.running(test_topic, later):
        wait_until(
            lambda: bus.get_task(task_id, test_topic).state == "delayed", 10, "it waits"
        )
    task = bus.get_task(task_id, test_topic)

    assert task.due_at is not None and task.enqueued_at is not None
    due = datetime.fromisoformat(task.due_at)
    sent = datetime.fromisoformat(task.enqueued_at)
    assert 120 <= (due - sent).total_seconds() < 130
    assert [row["error"]["message"] for row in task.attempts] == ["the printer is busy"]


def test_giving_up_ends_at_once_whatever_attempts_are_left(test_topic: str) -> None:
    async def hopeless(payload: Any, task: Any) -> None:
        raise bus.GiveUp("no such customer")

    task_id = bus.enqueue_task(test_topic, "x", max_attempts=50)
    with agents.running(test_topic, hopeless):
        task = bus.wait_result(task_id, test_topic, 60)

    assert (task.state, len(task.attempts)) == ("dead", 1)
    assert task.error is not None
    assert (task.error["reason"], task.error["message"]) == (
        "gave_up",
        "no such customer",
    )


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), float("nan"), "x" * 1_100_000],
    ids=["set", "object", "nan", "large"],
)
def test_a_result_that_is_no_json_is_a_failed_attempt(
    test_topic: str, value: Any
) -> None:
    async def wrong(payload: Any, task: Any) -> Any:
        return value if payload == "wrong" else payload

    task_id = bus.enqueue_task(test_topic, "wrong", max_attempts=1)
    with agents.running(test_topic, wrong):
        task = bus.wait_result(task_id, test_topic, 60)
        after = bus.enqueue_task(test_topic, "fine")
        fine = bus.wait_result(after, test_topic, 60)

    assert task.state == "dead"
    assert "result" in task.attempts[0]["error"]["message"]
    assert fine.result == "fine"


# --- short delays, results that are none


def test_a_short_delay_does_not_wait_for_the_janitor(test_topic: str) -> None:
    """Fifty attempts of 10 ms; a look once a second would take most of a minute."""

    async def insistent(payload: Any, task: Any) -> int:
        if task.attempt < 50:
            raise bus.Retry(0.01)
        return int(task.attempt)

    with agents.running(test_topic, insistent, max_attempts=60):
        began = time.monotonic()
        task_id = bus.enqueue_task(test_topic, 1)
        task = bus.wait_result(task_id, test_topic, 30)

    assert (task.state, task.result) == ("done", 50)
    assert time.monotonic() - began < 10


def test_many_short_delays_share_a_timer(test_topic: str) -> None:
    async def once_more(payload: Any, task: Any) -> int:
        if task.attempt == 1:
            raise bus.Retry(payload / 1_000)
        return int(task.attempt)

    with agents.running(test_topic, once_more):
        bus.enqueue_many(test_topic, range(300))
        wait_until(lambda: bus.stats(test_topic)["done"] == 300, 20)

    assert bus.stats(test_topic)["retried"] == 300


def test_a_result_that_is_no_json_names_no_line_of_the_mesh(test_topic: str) -> None:
    async def wrong(payload: Any, task: Any) -> Any:
        return {1, 2}

    with agents.running(test_topic, wrong, max_attempts=1):
        task = bus.wait_result(bus.enqueue_task(test_topic, 1), test_topic, 60)

    assert task.error is not None
    assert (task.error["type"], task.error["frame"]) == ("InvalidPayload", "")
    assert "messages.py" not in task.error["traceback"]
