"""Pages of tasks and of results, on the real server."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import redis

import bus
from bus import browse, errors, keys, results
from bus.messages import Task
from tests.support.desk import Desk

STATES = ("waiting", "running", "delayed", "done", "dead", "cancelled", "discarded")


def every(topic: str, state: str | None = None, count: int = 7) -> list[Task]:
    """All pages one after the other."""
    found, cursor = browse.list_tasks(topic, state, count)
    while cursor is not None:
        page, cursor = browse.list_tasks(topic, state, count, cursor)
        assert len(page) <= count
        found += page
    return found


def ids(tasks: list[Task]) -> list[str]:
    return [task.id for task in tasks]


def populated(topic: str) -> dict[str, list[str]]:
    """Two tasks in every state; their ids by state."""
    desk = Desk(topic)
    sent = bus.enqueue_many(topic, range(10))
    held = {item.id: item for item in desk.claim(10)}
    desk.complete(held[sent[0]], held[sent[1]])
    for task_id in sent[2:6]:
        desk.fail(held[task_id], final=True)
    for task_id in sent[4:6]:
        bus.discard(task_id, topic)
    desk.release(held[sent[8]])
    cancelled = bus.enqueue_many(topic, range(2))
    for task_id in cancelled:
        bus.cancel(task_id, topic)
    desk.fail(held[sent[9]], delay_s=50)
    later = bus.enqueue_task(topic, "later", delay_s=100)
    return {
        "done": [sent[1], sent[0]],
        "dead": [sent[3], sent[2]],
        "discarded": [sent[5], sent[4]],
        "running": sent[6:8],
        "waiting": [sent[8], bus.enqueue_task(topic, "new")],
        "cancelled": cancelled[::-1],
        "delayed": [sent[9], later],
    }


@pytest.mark.parametrize("count", [1, 2, 50])
def test_every_state_has_its_pages(test_topic: str, count: int) -> None:
    expected = populated(test_topic)

    for state in STATES:
        found = every(test_topic, state, count)

        assert ids(found) == expected[state], state
        assert {task.state for task in found} == {state}
        assert found == [bus.get_task(task.id, test_topic) for task in found]


@pytest.mark.parametrize("count", [1, 3, 50])
def test_without_a_state_the_live_come_first(test_topic: str, count: int) -> None:
    expected = populated(test_topic)

    found = every(test_topic, None, count)

    order = [task.state for task in found]
    assert order[:8] == [
        *["running"] * 2,
        *["waiting"] * 2,
        *["delayed"] * 2,
        *["dead"] * 2,
    ]
    assert sorted(ids(found)) == sorted(id for each in expected.values() for id in each)


def test_a_topic_nobody_knows_is_an_empty_page(test_topic: str) -> None:
    assert browse.list_tasks(test_topic) == ([], None)


def test_delayed_tasks_due_at_the_same_moment_are_neither_lost_nor_repeated(
    test_topic: str, redis_client: redis.Redis
) -> None:
    sent = bus.enqueue_many(test_topic, range(60), delay_s=3_600)
    due = keys.named("delayed", test_topic)
    redis_client.zadd(due, dict.fromkeys(sent[:50], 4_000_000_000_000))

    first, cursor = browse.list_tasks(test_topic, "delayed", 20)
    # The one the page ended with is gone when the next page is asked for.
    bus.cancel(first[-1].id, test_topic)
    found = list(first)
    while cursor:
        page, cursor = browse.list_tasks(test_topic, "delayed", 20, cursor)
        found += page

    assert len(found) == len(set(ids(found))) == 60


def test_what_started_between_two_pages_does_not_come_again_as_waiting(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    sent = bus.enqueue_many(test_topic, range(30))

    _, cursor = browse.list_tasks(test_topic, "waiting", 5)
    desk.claim(20)
    page, _ = browse.list_tasks(test_topic, "waiting", 50, cursor)

    assert ids(page) == sent[20:]


def test_entries_somebody_else_wrote_are_no_tasks_until_they_are_adopted(
    test_topic: str, redis_client: redis.Redis
) -> None:
    redis_client.xadd(bus.task_stream(test_topic), {"json": "{}"})
    sent = bus.enqueue_task(test_topic, 1)

    assert ids(every(test_topic, "waiting")) == [sent]

    Desk(test_topic).claim(2)
    assert len(every(test_topic, "running")) == 2


def test_rare_rows_are_found_behind_many_others(test_topic: str) -> None:
    """A look is bounded: pages may be empty, and still lead on."""
    early = bus.enqueue_task(test_topic, "early")
    bus.cancel(early, test_topic)
    desk = Desk(test_topic)
    for _ in range(21):
        bus.enqueue_many(test_topic, range(100))
        desk.complete(*desk.claim(100))

    first, cursor = browse.list_tasks(test_topic, "cancelled")

    assert first == [] and cursor is not None
    assert ids(every(test_topic, "cancelled", 50)) == [early]


def test_a_page_costs_the_same_however_long_the_backlog_is(
    test_topic: str, redis_client: redis.Redis
) -> None:
    def once_us(state: str) -> float:
        redis_client.config_resetstat()
        browse.list_tasks(test_topic, state, 50)
        facts: Any = redis_client.info("commandstats")
        return sum(
            facts.get(name, {"usec": 0})["usec"]
            for name in ("cmdstat_evalsha", "cmdstat_eval")
        )

    def spent_us(state: str) -> float:
        """What it takes while nobody else has the core: a server may be held up."""
        return min(once_us(state) for _ in range(20))

    desk = Desk(test_topic)
    bus.set_limits(test_topic, backlog_max=1_000_000)
    for delay_s in (None, 60):
        bus.enqueue_many(test_topic, range(300), delay_s=delay_s)
    desk.claim(100)
    browse.list_tasks(test_topic)
    short = {state: spent_us(state) for state in ("waiting", "running", "delayed")}

    for delay_s in (None, 60):
        bus.enqueue_many(test_topic, range(6_000), delay_s=delay_s)

    for state, before in short.items():
        assert spent_us(state) < 4 * before + 200, state


def test_large_payloads_make_short_pages(test_topic: str) -> None:
    sent = bus.enqueue_many(test_topic, ["x" * 250_000] * 30)

    page, cursor = browse.list_tasks(test_topic, "waiting", 50)

    assert len(page) < 20 and cursor is not None
    assert ids(every(test_topic, "waiting", 50)) == sent


# --- cursors


def forged(*parts: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


BAD: dict[str, Callable[[str], Any]] = {
    "empty": lambda topic: "",
    "no base64": lambda topic: "ä*",
    "no json": lambda topic: "abcd",
    "no list": lambda topic: "MQ",
    "number": lambda topic: 7,
    "bytes": lambda topic: b"abc",
    "other topic": lambda topic: forged("other", "waiting", 0, "1-0"),
    "other state": lambda topic: forged(topic, "running", 0, "1-0"),
    "no such place": lambda topic: forged(topic, "waiting", 2, ""),
    "before the first": lambda topic: forged(topic, "waiting", -1, ""),
    "place that is true": lambda topic: forged(topic, "waiting", True, ""),
    "no entry": lambda topic: forged(topic, "waiting", 0, "x"),
    "another spelling": lambda topic: forged(topic, "waiting", 0, "01-0"),
    "a command": lambda topic: forged(topic, "waiting", 0, "+ COUNT 9"),
    "a long one": lambda topic: "A" * 100_000,
    "deep": lambda topic: base64.urlsafe_b64encode(b"[" * 5000).decode().rstrip("="),
}


@pytest.mark.parametrize("name", BAD)
def test_a_cursor_that_is_none_is_refused(test_topic: str, name: str) -> None:
    with pytest.raises(errors.InvalidOption, match="cursor"):
        browse.list_tasks(test_topic, "waiting", 5, BAD[name](test_topic))


@pytest.mark.parametrize("after", ["x y", "12", "1 nope", "-1 " + "0" * 32, "² x"])
def test_a_cursor_into_the_delayed_is_checked_too(test_topic: str, after: str) -> None:
    with pytest.raises(errors.InvalidOption, match="cursor"):
        browse.list_tasks(
            test_topic, "delayed", 5, forged(test_topic, "delayed", 0, after)
        )


@pytest.mark.parametrize("options", [{"state": "lost"}, {"count": 0}, {"count": 1_001}])
def test_what_a_page_cannot_be_is_refused(
    test_topic: str, options: dict[str, Any]
) -> None:
    with pytest.raises(errors.InvalidOption):
        browse.list_tasks(test_topic, **options)


# --- results


def test_pages_of_results_go_down_from_the_newest_and_up_from_any(
    test_topic: str, redis_client: redis.Redis
) -> None:
    expected = populated(test_topic)
    by_hand = redis_client.xadd(bus.result_stream(test_topic), {"note": "by hand"})

    newest = results.page(test_topic, 3)
    older = results.page(test_topic, 50, before=newest[-1][0])
    upwards = results.page(test_topic, 50, after=older[-1][0])

    assert newest[0] == (by_hand, {"note": "by hand"})
    down = [*newest, *older]
    assert upwards == down[:-1][::-1]
    states = {row["id"]: row["state"] for _, row in down[1:]}
    ended = ("done", "cancelled", "discarded")
    assert states == {id: state for state in ended for id in expected[state]}
    between = results.page(test_topic, 50, after=down[5][0], before=down[2][0])
    assert between == [down[4], down[3]]


@pytest.mark.parametrize(
    "options", [{"count": 0}, {"count": 1_001}, {"after": "x"}, {"before": "1-0 +"}]
)
def test_a_page_of_results_checks_what_it_is_asked(
    test_topic: str, options: dict[str, Any]
) -> None:
    with pytest.raises((errors.InvalidOption, errors.InvalidName)):
        results.page(test_topic, **options)


def test_a_done_task_tells_when_its_last_attempt_started(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    desk.complete(*desk.claim())

    task = bus.get_task(task_id, test_topic)

    assert str(task.enqueued_at) <= str(task.started_at) <= str(task.ended_at)
