"""How handlers run in an agent, and what every ending of theirs comes to."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import pytest
import redis

import bus
from bus import agent, deliveries
from bus.handlers import Handler
from bus.runtime import coroutines, processes, slots
from tests.support import agents, work
from tests.support.waiting import wait_until

LOOPS = [asyncio.new_event_loop]
if agent.uvloop is not None:
    LOOPS.append(agent.uvloop.new_event_loop)


async def echo(payload: Any, task: Any) -> Any:
    return payload


def _ends(topic: str, task_id: str, state: str, timeout_s: float = 10.0) -> bus.Task:
    """Wait until the task is in the state; the task."""
    wait_until(
        lambda: bus.get_task(task_id, topic).state == state,
        timeout_s,
        f"task {task_id} is {state}",
    )
    return bus.get_task(task_id, topic)


@pytest.mark.parametrize("delay", [float("inf"), "soon", 1e300])
def test_a_retry_with_an_impossible_delay_still_ends_the_attempt(
    test_topic: str, delay: Any
) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        raise bus.Retry(delay)

    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, handler, concurrency=1):
        wait_until(
            lambda: bus.get_task(task_id, test_topic).attempts,
            5,
            "the attempt is on record",
        )


@pytest.mark.parametrize(
    "fields",
    [
        {"json": b"\xff\xfe"},
        {"json": b"\xff\xfe", "meta": b"\x80"},
        {b"\xff": b"\xff"},
        {"json": "{" + "x" * 300_000},
        {"note": "x" * 300_000},
    ],
    ids=["bytes", "bytes in meta", "bytes as name", "too large", "too large, no json"],
)
def test_an_entry_nobody_can_read_is_buried_and_the_agent_goes_on(
    test_topic: str, redis_client: redis.Redis, fields: Any
) -> None:
    with agents.running(test_topic, echo, concurrency=1):
        redis_client.xadd(bus.task_stream(test_topic), fields)
        healthy = bus.enqueue_task(test_topic, "healthy")

        _ends(test_topic, healthy, "done")
        wait_until(
            lambda: bus.stats(test_topic)["dead"] == 1, 5, "the entry is a dead letter"
        )

    assert bus.list_dead(test_topic)[0].error["reason"] == "malformed"


def test_a_slot_survives_a_handler_that_swallows_its_cancellation(
    test_topic: str,
) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        if payload == "swallow":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                return "swallowed"
        if payload == "raise":
            raise asyncio.CancelledError
        return payload

    options = {"concurrency": 1, "timeout_s": 0.3, "max_attempts": 1}
    with agents.running(test_topic, handler, **options):
        for payload in ("swallow", "raise"):
            task_id = bus.enqueue_task(test_topic, payload)
            _ends(test_topic, task_id, "dead")
        after = bus.enqueue_task(test_topic, "after")

        assert _ends(test_topic, after, "done").result == "after"


class Panic(BaseException):
    """What a library in another language raises."""


@pytest.mark.parametrize(
    "raised",
    [
        Panic("index out of bounds"),
        BaseExceptionGroup("several", [Panic("one of them")]),
        SystemExit(1),
        GeneratorExit(),
    ],
    ids=lambda raised: type(raised).__name__,
)
def test_a_slot_survives_whatever_its_handler_raises(
    test_topic: str, raised: BaseException
) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        if payload == "raise":
            raise raised
        return payload

    with agents.running(test_topic, handler, concurrency=1, max_attempts=1):
        bad = bus.enqueue_task(test_topic, "raise")
        after = bus.enqueue_task(test_topic, "after")

        [attempt] = _ends(test_topic, bad, "dead").attempts
        assert _ends(test_topic, after, "done").result == "after"

    said = f"the handler raised {type(raised).__name__}"
    assert attempt["error"]["message"] == said


@pytest.mark.parametrize("awaits", [True, False], ids=["awaits", "returns"])
def test_a_handler_that_cancels_itself_costs_no_slot(
    test_topic: str, awaits: bool
) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        if payload == "cancel":
            own = asyncio.current_task()
            assert own is not None
            own.cancel()
            if awaits:
                await asyncio.sleep(0)
        return payload

    with agents.running(test_topic, handler, concurrency=1, max_attempts=1):
        itself = bus.enqueue_task(test_topic, "cancel")
        _ends(test_topic, itself, "dead" if awaits else "done")
        after = bus.enqueue_task(test_topic, "after")

        assert _ends(test_topic, after, "done").result == "after"


class Later(bus.Retry):
    """One whose author forgot `super().__init__()`."""

    def __init__(self) -> None:
        pass


def _odd_delay() -> bus.Retry:
    asked = bus.Retry()
    asked.delay_s = "soon"  # type: ignore[assignment]
    return asked


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (Later(), "Later"),
        (SyntaxError("bad", ("f.py", 1, 1, b"x = = 1")), "SyntaxError"),
        (_odd_delay(), "RuntimeError"),
    ],
    ids=["no delay", "text of bytes", "a delay that is no number"],
)
def test_an_error_that_is_not_as_it_should_be_ends_its_attempt_only(
    test_topic: str, error: Exception, said: str
) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        if payload == "fail":
            raise error
        return payload

    with agents.running(test_topic, handler, concurrency=1, max_attempts=1):
        bad = bus.enqueue_task(test_topic, "fail")
        after = bus.enqueue_task(test_topic, "after")

        [attempt] = _ends(test_topic, bad, "dead").attempts
        _ends(test_topic, after, "done")

    assert attempt["error"]["type"] == said


@pytest.mark.slow
def test_a_task_beside_a_handler_may_want_to_exit(test_topic: str) -> None:
    """SystemExit of any task leaves the loop; the agent goes on with it."""
    with agents.process(test_topic, "tests.support.work:exits_beside") as process:
        bad = bus.enqueue_task(test_topic, "exit", max_attempts=1)
        [attempt] = _ends(test_topic, bad, "dead", 30).attempts
        after = bus.enqueue_task(test_topic, "after")
        _ends(test_topic, after, "done")

        assert process.poll() is None

    assert attempt["error"]["message"] == "the handler raised SystemExit"


@pytest.mark.parametrize("make", LOOPS)
def test_the_loop_goes_on_to_the_end_of_the_agent(
    make: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    seen: list[BaseException] = []

    async def leave() -> None:
        raise SystemExit(1)

    async def main() -> None:
        for _ in range(2):
            try:
                await asyncio.create_task(leave())
            except SystemExit as exc:
                seen.append(exc)

    with closing(make()) as loop:
        agent._run(loop, loop.create_task(main()))

    assert len(seen) == 2


def test_a_lane_whose_slots_hang_says_so(
    test_topic: str, caplog: pytest.LogCaptureFixture
) -> None:
    freed = threading.Event()

    def handler(payload: Any, task: Any) -> Any:
        if payload == "hang":
            freed.wait(60)
        return payload

    def told() -> list[str]:
        lines = [record.getMessage() for record in caplog.records]
        return [line.partition(";")[0] for line in lines if "taken" in line]

    stuck = "no task is taken any more: too many runs go on that were given up on"
    options = {"concurrency": 1, "timeout_s": 0.1, "max_attempts": 1}
    with agents.running(test_topic, handler, **options):
        bus.enqueue_many(test_topic, ["hang"] * 5)
        wait_until(lambda: told() == [f"{test_topic}: {stuck}"], 10, "it is said")
        after = bus.enqueue_task(test_topic, "after")
        said = (
            "The only agent takes nothing: too many of its runs go on that were given "
            "up on; it is next."
        )
        wait_until(lambda: bus.explain(after) == said, 10, "it is explained")
        freed.set()
        _ends(test_topic, after, "done")
        wait_until(lambda: told()[1:] == [f"{test_topic}: tasks are taken again"], 10)


def test_slots_are_back_when_hung_threads_return(test_topic: str) -> None:
    freed = threading.Event()

    def handler(payload: Any, task: Any) -> Any:
        if payload == "hang":
            freed.wait(30)
        return payload

    options = {"concurrency": 1, "timeout_s": 0.2, "max_attempts": 1}
    with agents.running(test_topic, handler, **options):
        bus.enqueue_many(test_topic, ["hang"] * 8)
        # So many that the agent stops taking tasks until some return.
        wait_until(lambda: bus.stats(test_topic)["dead"] >= 5, 10, "5 tasks timed out")
        freed.set()
        after = bus.enqueue_task(test_topic, "after")

        assert _ends(test_topic, after, "done").result == "after"


def test_coroutines_that_ignore_their_end_are_bounded_and_forgotten(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coroutines, "_IGNORED_S", 0.05)
    freed, begun = threading.Event(), []

    async def handler(payload: Any, task: Any) -> Any:
        begun.append(payload)
        while payload == "hang" and not freed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.02)
        return payload

    options = {"concurrency": 1, "timeout_s": 0.1, "max_attempts": 1}
    with agents.running(test_topic, handler, **options) as live:
        bus.enqueue_many(test_topic, ["hang"] * 8)
        wait_until(lambda: live._lanes and live._lanes[0]._slots.stuck, 10)
        assert len(begun) == 5
        freed.set()
        after = bus.enqueue_task(test_topic, "after")

        assert _ends(test_topic, after, "done").result == "after"
        slots_: Any = live._lanes[0]._slots
        wait_until(lambda: len(slots_._tasks) == 1, 5, "one slot is left")


def test_unstarted_long_tasks_are_left_to_an_agent_that_is_free(
    test_topic: str,
) -> None:
    def handler(payload: Any, task: Any) -> Any:
        time.sleep(1)
        return payload

    ids = bus.enqueue_many(test_topic, range(6))

    with (
        agents.running(test_topic, handler, concurrency=1, agent_id="one"),
        agents.running(test_topic, handler, concurrency=1, agent_id="two"),
    ):
        for task_id in ids:
            _ends(test_topic, task_id, "done", 15)

    per_agent = [row["agent"] for _, row in bus.tail_results(test_topic, 6)]
    assert sorted(per_agent.count(name) for name in ("one", "two")) >= [2, 2]


def test_a_slot_waits_until_the_system_has_a_process_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refusals = [BlockingIOError("fork: resource temporarily unavailable")] * 2
    started: list[processes.Child] = []

    def start(child: processes.Child) -> None:
        if refusals:
            raise refusals.pop()
        started.append(child)

    monkeypatch.setattr(slots, "_NO_PROCESS_S", 0.01)
    monkeypatch.setattr(processes.Child, "_start", start)
    child = processes.Child(Handler("t", work.broken, cpu=True))

    slots._prepare(child)

    assert started == [child]


def test_a_process_handler_keeps_the_reason_of_its_retry(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, work.busy, cpu=True, concurrency=1, max_attempts=1):
        task = _ends(test_topic, task_id, "dead", 20)

    assert task.attempts[0]["error"]["message"] == "the printer is busy"


def test_a_process_handler_leaves_the_traceback_of_its_own_frames(
    test_topic: str,
) -> None:
    options = {"cpu": True, "concurrency": 1, "max_attempts": 1}
    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, work.broken, **options):
        task = _ends(test_topic, task_id, "dead", 20)

    assert "in broken" in task.attempts[0]["error"]["traceback"]
    assert task.attempts[0]["error"]["frame"] == "work.py:broken"


def test_a_handlers_own_decode_error_is_an_ordinary_failure(test_topic: str) -> None:
    async def handler(payload: Any, task: Any) -> Any:
        raise bus.DecodeError("the file it fetched is broken")

    task_id = bus.enqueue_task(test_topic, "x")

    with agents.running(test_topic, handler, max_attempts=2, backoff_s=0.01):
        task = _ends(test_topic, task_id, "dead")

    assert [row["error"]["type"] for row in task.attempts] == ["DecodeError"] * 2


def test_a_thousand_failures_cost_few_calls(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, fail = [], deliveries.fail

    async def counted(seat: Any, items: Sequence[Any]) -> list[str]:
        sizes.append(len(items))
        return await fail(seat, items)

    monkeypatch.setattr(deliveries, "fail", counted)
    bus.enqueue_many(test_topic, range(1_000))
    with agents.running(test_topic, work.failing, max_attempts=1):
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1_000, 20)

    assert sum(sizes) == 1_000
    assert len(sizes) <= 200 and max(sizes) <= deliveries.BATCH
