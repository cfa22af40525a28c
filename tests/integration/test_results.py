"""Results on the real server: written, bounded, found again, waited for."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import connection, errors, janitor, lookup, messages, recent, results
from tests.support import agents, work
from tests.support.waiting import PATIENCE, wait_until


def blocked(client: redis.Redis) -> int:
    """How many clients wait inside the server."""
    return int(client.info("clients")["blocked_clients"])


def finish(topic: str, count: int) -> list[str]:
    """Have that many tasks done by an agent of the runtime; their ids."""
    ids = bus.enqueue_many(topic, range(count))
    with agents.running(topic, work.echo):
        wait_until(lambda: bus.stats(topic)["backlog"] == 0, 20)
    return ids


# --- rows


def test_a_result_row_tells_the_whole_story_of_its_task(
    test_topic: str, sample_task_data: dict[str, Any]
) -> None:
    task_id = bus.enqueue_task(test_topic, sample_task_data)
    with agents.running(test_topic, work.echo, agent_id="echo-1"):
        task = bus.wait_result(task_id, test_topic)

    [(entry_id, row)] = bus.tail_results(test_topic)
    assert (row["id"], row["topic"], row["state"]) == (task_id, test_topic, "done")
    assert row["task"] == row["result"] == sample_task_data
    assert (row["agent"], row["attempt"]) == ("echo-1", 1)
    assert row["enqueued_at"] <= row["started_at"] <= row["finished_at"]
    assert (task.result, task.fence) == (sample_task_data, row["fence"])


def test_a_result_entry_has_exactly_id_and_json(
    test_topic: str, redis_client: redis.Redis
) -> None:
    [task_id] = finish(test_topic, 1)

    [(_, fields)] = redis_client.xrange(bus.result_stream(test_topic))

    assert list(fields) == ["id", "json"]
    assert fields["id"] == json.loads(fields["json"])["id"] == task_id


def test_a_task_acknowledged_by_hand_is_done_without_a_result(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, "workers", "me", block_ms=0)
    bus.ack(test_topic, "workers", entry_id)

    task = bus.get_task(task_id, test_topic)

    assert (task.state, task.result) == ("done", None)
    assert task.ended_at is not None
    assert bus.tail_results(test_topic) == []


def test_a_cancelled_task_is_on_record_but_is_no_result(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, {"a": 1})
    bus.cancel(task_id, test_topic)

    [(_, fields)] = redis_client.xrange(bus.result_stream(test_topic))

    row = json.loads(fields["json"])
    assert (row["id"], row["state"], row["task"]) == (task_id, "cancelled", {"a": 1})
    assert row["finished_at"] >= row["enqueued_at"]
    assert bus.tail_results(test_topic) == []


@pytest.mark.parametrize("junk", [b"\xff\xfe", b'{"a":"\xff"}', b"\x00", b"{"])
def test_a_result_of_broken_bytes_hides_no_other_result(
    test_topic: str, junk: bytes
) -> None:
    with redis.Redis.from_url(bus._redis_url()) as raw:
        raw.xadd(bus.result_stream(test_topic), {"id": "x", "json": junk})
    [task_id] = finish(test_topic, 1)

    newest, oldest = bus.tail_results(test_topic)

    assert newest[1]["id"] == task_id
    assert set(oldest[1]) == {"id", "json"}


@pytest.mark.parametrize("count", [-1, "5", True, 1.5])
def test_a_tail_of_no_length_is_refused(test_topic: str, count: Any) -> None:
    with pytest.raises(errors.InvalidOption, match="count"):
        bus.tail_results(test_topic, count)


# --- bounds


def test_results_keep_the_newest(test_topic: str, redis_client: redis.Redis) -> None:
    bus.set_limits(test_topic, results_keep=3)

    finish(test_topic, 10)

    kept = [row["task"] for _, row in bus.tail_results(test_topic, 100)]
    assert len(kept) == redis_client.xlen(bus.result_stream(test_topic)) == 3
    assert bus.stats(test_topic)["done"] == 10


def test_the_default_of_results_kept_is_a_setting(
    test_topic: str, settings: Settings
) -> None:
    settings.MESH_RESULTS_KEEP = 2

    ids = bus.enqueue_many(test_topic, range(5))
    for task_id in ids:
        bus.cancel(task_id, test_topic)

    assert bus.stats(test_topic)["results"] == 2


def test_no_results_at_all_can_be_kept(test_topic: str) -> None:
    bus.set_limits(test_topic, results_keep=0)

    [task_id] = finish(test_topic, 1)

    assert bus.tail_results(test_topic) == []
    assert bus.get_task(task_id, test_topic).state == "done"


def test_a_trimmed_result_leaves_the_task_known_as_done(test_topic: str) -> None:
    bus.set_limits(test_topic, results_keep=1)
    ids = bus.enqueue_many(test_topic, range(3))
    for task_id in ids:
        bus.cancel(task_id, test_topic)
    janitor.trim(test_topic)

    states = [bus.get_task(task_id, test_topic).ended for task_id in ids]

    assert states == [True, True, True]  # within half a minute of their end


@pytest.mark.parametrize("end", ["cancelled", "discarded"])
def test_a_task_that_was_not_done_is_never_called_done(
    test_topic: str, end: str
) -> None:
    """Its row is trimmed, but it is still known that it has ended."""
    bus.set_limits(test_topic, results_keep=0)
    task_id = bus.enqueue_task(test_topic, 1)
    if end == "cancelled":
        bus.cancel(task_id, test_topic)
    else:
        [(entry_id, _)] = bus.read_group(test_topic, "workers", "me", block_ms=0)
        bus.move_to_dead(test_topic, entry_id, {})
        bus.discard(task_id, test_topic)

    assert bus.get_task(task_id, test_topic).state == end


def test_ended_tasks_are_forgotten_with_their_results_after_a_while(
    test_topic: str, settings: Settings, redis_client: redis.Redis
) -> None:
    settings.MESH_DONE_WINDOW_S = 0
    bus.set_limits(test_topic, results_keep=2)
    ids = finish(test_topic, 6)

    wait_until(lambda: janitor.trim(test_topic) or known(redis_client, test_topic) == 2)

    found = [task_id for task_id in ids if not forgotten(test_topic, task_id)]
    kept = {row["id"] for _, row in bus.tail_results(test_topic)}
    assert set(found) == kept


def known(client: redis.Redis, topic: str) -> int:
    """How many ended tasks the topic remembers."""
    return int(client.zcard(f"mesh:{{{topic}}}:done"))


def forgotten(topic: str, task_id: str) -> bool:
    try:
        bus.get_task(task_id, topic)
    except errors.TaskNotFound:
        return True
    return False


def test_ended_tasks_are_remembered_for_a_while_without_their_results(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.set_limits(test_topic, results_keep=1)
    finish(test_topic, 6)

    janitor.trim(test_topic)

    assert known(redis_client, test_topic) == 6


def test_what_is_remembered_of_ended_tasks_has_a_bound_of_its_own(
    test_topic: str, settings: Settings, redis_client: redis.Redis
) -> None:
    settings.MESH_DONE_INDEX_MAX = 4
    bus.set_limits(test_topic, results_keep=1)
    finish(test_topic, 6)

    janitor.trim(test_topic)

    assert known(redis_client, test_topic) == 4


def test_results_that_an_agent_by_hand_writes_are_trimmed_like_all_others(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.set_limits(test_topic, results_keep=5)
    key = bus.result_stream(test_topic)
    for n in range(20):
        redis_client.xadd(key, {"anything": str(n)})
    [task_id] = finish(test_topic, 1)

    janitor.trim(test_topic)

    assert redis_client.xlen(key) == 5
    assert bus.tail_results(test_topic, 1)[0][1]["id"] == task_id
    assert bus.get_task(task_id, test_topic).state == "done"


# --- pages


def numbers(rows: list[tuple[str, dict[str, Any]]]) -> list[int]:
    return [row["result"] for _, row in rows]


def test_a_bounded_page_is_as_long_as_it_was_asked_for(test_topic: str) -> None:
    finish(test_topic, 120)

    rows, more = results.bounded(test_topic, 70)
    rest, last = results.bounded(test_topic, 70, before=rows[-1][0])
    oldest, newer = results.bounded(test_topic, 70, after="0-0")

    assert len(results.page(test_topic)) == len(results.bounded(test_topic)[0]) == 50
    assert numbers(rows + rest) == [*reversed(range(120))] and (more, last) == (1, 0)
    assert numbers(oldest) == [*range(70)] and newer


def test_large_rows_make_a_bounded_page_shorter(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 120)
    monkeypatch.setattr(results, "_BOUND_BYTES", 1_000)

    newest, more = results.bounded(test_topic, 100)
    oldest, newer = results.bounded(test_topic, 100, after="0-0")

    assert numbers(newest) == [*range(119, 69, -1)] and more
    assert numbers(oldest) == [*range(50)] and newer


@pytest.mark.parametrize("read", [results.page, results.bounded])
@pytest.mark.parametrize("count", [0, 1_001, True])
def test_a_page_has_its_bounds(test_topic: str, read: Any, count: int) -> None:
    with pytest.raises(errors.InvalidOption, match="1 to 1000"):
        read(test_topic, count)


def test_who_follows_gets_so_many_the_oldest_first(test_topic: str) -> None:
    finish(test_topic, 5)

    first = results.results_after(test_topic, "0-0", 2)
    rest = results.results_after(test_topic, first[-1][0])
    waited = results.results_after(test_topic, "0-0", 3, block_ms=50)

    assert [*map(numbers, (first, rest, waited))] == [[0, 1], [2, 3, 4], [0, 1, 2]]
    assert results.results_after(test_topic, rest[-1][0], block_ms=50) == []


def test_each_row_is_read_whatever_the_steps(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 25)
    for name in ("_LEAF", "_STEP"):
        monkeypatch.setattr(results, name, 10)
    ids = [entry_id for entry_id, _ in results.page(test_topic)]

    assert numbers([*results.each(test_topic)]) == [*reversed(range(25))]
    assert numbers([*results.each(test_topic, before=ids[4])]) == [*reversed(range(20))]
    assert numbers([*results.each(test_topic, ids[-5], ids[4])]) == [*range(5, 20)]


def test_of_large_rows_fewer_are_read_at_once(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 200)
    real, steps = results._read, list[int]()

    def read(topic: str, count: int, *places: str | None) -> list[Any]:
        steps.append(count)
        return real(topic, count, *places)

    monkeypatch.setattr(results, "_read", read)
    of_small = numbers([*results.each(test_topic)])
    small, steps[:] = [*steps], []
    monkeypatch.setattr(results, "_BOUND_BYTES", 5_000)

    of_large = numbers([*results.each(test_topic)])

    assert of_small == of_large == [*reversed(range(200))]
    assert small == [50, 200]
    assert steps[0] == 50 and max(steps[1:]) < 25


def test_rows_that_come_while_others_are_read_are_left_out(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(test_topic, 15)
    monkeypatch.setattr(results, "_LEAF", 10)

    rows = results.each(test_topic, "0-0")
    read = [next(rows)]
    finish(test_topic, 3)

    assert numbers(read + [*rows]) == [*range(15)]


# --- waiting


@pytest.mark.parametrize("sender", ["its sender", "somebody else"])
@pytest.mark.parametrize("end", ["ack", "dead", "cancel"])
def test_a_wait_ends_with_the_task(
    test_topic: str, redis_client: redis.Redis, end: str, sender: str
) -> None:
    bus.create_consumer_group(test_topic, "workers")
    finish(test_topic, 2)
    task_id = bus.enqueue_task(test_topic, 1)
    if sender == "somebody else":
        recent.take(task_id)
    states = {"ack": "done", "dead": "dead", "cancel": "cancelled"}
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(bus.wait_result, task_id, test_topic, 20)
        wait_until(lambda: blocked(redis_client))

        if end == "cancel":
            bus.cancel(task_id, test_topic)
        else:
            [(entry_id, _)] = bus.read_group(test_topic, "workers", "me", block_ms=0)
            if end == "dead":
                bus.move_to_dead(test_topic, entry_id, {})
            else:
                bus.ack(test_topic, "workers", entry_id)

        assert wait.result(10).state == states[end]


def test_a_wait_for_an_agent_by_hand_sees_its_result_before_its_ack(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """The result wakes the wait, the ack comes a little later."""
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, "workers", "me", block_ms=0)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(bus.wait_result, task_id, test_topic, 20)
        wait_until(lambda: blocked(redis_client))

        key, row = bus.result_stream(test_topic), f'{{"id":"{task_id}","result":1}}'
        redis_client.xadd(key, {"id": task_id, "json": row})
        wait_until(lambda: blocked(redis_client))
        bus.ack(test_topic, "workers", entry_id)

        assert wait.result(10).state == "done"


def test_a_row_by_hand_that_looks_like_ours_ends_nothing_before_its_ack(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.read_group(test_topic, "workers", "me", block_ms=0)
    row = json.dumps({"id": task_id, "fence": "1-1.0", "state": "ok", "result": 1})
    redis_client.xadd(bus.result_stream(test_topic), {"id": task_id, "json": row})

    assert bus.wait_result(task_id, test_topic, 0.2).state == "running"


@pytest.mark.parametrize("sender", ["its sender", "somebody else"])
def test_a_wait_that_runs_out_tells_how_the_task_stands(
    test_topic: str, sender: str
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    if sender == "somebody else":
        recent.take(task_id)
    began = time.monotonic()

    task = bus.wait_result(task_id, test_topic, timeout_s=0.05)

    assert time.monotonic() - began >= 0.05
    assert (task.id, task.topic, task.state) == (task_id, test_topic, "waiting")


def test_what_is_told_at_the_end_of_a_wait_is_how_it_stands_then(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.create_consumer_group(test_topic, "workers")
    task_id = bus.enqueue_task(test_topic, 1)
    recent.take(task_id)

    def taken_meanwhile(*args: Any) -> None:
        bus.read_group(test_topic, "workers", "me", block_ms=0)
        time.sleep(args[-1])

    monkeypatch.setattr(results, "_next_look", taken_meanwhile)

    assert bus.wait_result(task_id, test_topic, timeout_s=1.5).state == "running"


def test_an_end_whose_result_is_trimmed_at_once_ends_a_wait(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ever tells of it: who waits has to look."""
    monkeypatch.setattr(results, "LOOK_S", 0.1)
    bus.set_limits(test_topic, results_keep=0)
    task_id = bus.enqueue_task(test_topic, 1)
    recent.take(task_id)
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(bus.wait_result, task_id, test_topic, 60)
        wait_until(lambda: blocked(redis_client))
        with agents.running(test_topic, work.echo):
            wait_until(lambda: bus.stats(test_topic)["done"] == 1, 20)

        assert wait.result(20 * PATIENCE).state == "done"


def test_a_wait_for_an_unknown_task_is_an_error(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    unknown = "0198c0de-0000-7000-8000-00000000abcd"

    with pytest.raises(errors.TaskNotFound, match=unknown):
        bus.wait_result(unknown, test_topic, 0.05)


def test_a_look_begins_behind_what_there_was(test_topic: str) -> None:
    """A topic may have thousands of results already."""
    finish(test_topic, 3)
    task_id = bus.enqueue_task(test_topic, 1)

    cursors, task = results._first_look(task_id, test_topic)

    assert cursors[:2] == [results.last_result_id(test_topic), "0-0"]
    assert (task.id, task.topic, task.state) == (task_id, test_topic, "waiting")


# --- waiting for what was just sent


def test_the_sender_waits_without_looking_first(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with agents.running(test_topic, work.echo):
        bus.wait_result(bus.enqueue_task(test_topic, "warm"), test_topic)
        monkeypatch.setattr(lookup, "get_task", None)
        monkeypatch.setattr(results, "_first_look", None)

        task = bus.wait_result(bus.enqueue_task(test_topic, 7))

    assert (task.state, task.result, task.topic) == ("done", 7, test_topic)


def test_a_result_of_the_same_millisecond_wakes_its_sender(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Ids in two streams may be equal: a wait behind the task's own would miss it."""
    task_id = bus.enqueue_task(test_topic, 1)
    [(sid, _)] = redis_client.xrange(bus.task_stream(test_topic))
    row = {"id": task_id, "state": "done", "fence": f"{sid}.0", "result": 2}
    fields = {"id": task_id, "json": json.dumps(row)}
    redis_client.xadd(bus.result_stream(test_topic), fields, id=str(sid))

    began = time.monotonic()
    task = bus.wait_result(task_id, test_topic, 10)

    assert (task.state, task.result) == ("done", 2)
    assert time.monotonic() - began < 5


def test_a_sender_whose_result_is_trimmed_already_still_learns_its_end(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "BLOCK_MOST_S", 0.2)
    bus.set_limits(test_topic, results_keep=0)
    task_id = bus.enqueue_task(test_topic, 1)
    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 1, 20)

    assert bus.wait_result(task_id, test_topic, 10).state == "done"


def test_who_waits_again_and_again_reads_no_result_twice(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Ends of one millisecond have ids alike: a wait begins behind what it has read."""
    with agents.running(test_topic, work.echo):
        for n in range(5):  # connections, scripts
            bus.wait_result(bus.enqueue_task(test_topic, n), test_topic)
        before = redis_client.info("commandstats")["cmdstat_xread"]["calls"]
        for n in range(200):
            task = bus.wait_result(bus.enqueue_task(test_topic, n), test_topic)
            assert task.result == n
        reads = redis_client.info("commandstats")["cmdstat_xread"]["calls"] - before

    assert reads <= 200 * 1.5  # nearly each of them needs one


def test_what_was_read_before_a_task_is_passed_over_only_in_its_millisecond(
    test_topic: str, redis_client: redis.Redis
) -> None:
    stream = bus.result_stream(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    sent = recent.take(task_id)
    assert sent is not None
    later = messages.entry_ms(sent.sid) + 60_000  # a clock that goes back since
    recent.note(task_id, test_topic, sent.sid, (f"{later}-0", "0-0", "0-0"))
    redis_client.xadd(stream, {"id": "another", "json": "1"})
    with agents.running(test_topic, work.echo):
        began = time.monotonic()
        task = bus.wait_result(task_id, test_topic, 20)

    assert task.state == "done" and time.monotonic() - began < 15


def test_only_so_many_sent_tasks_are_remembered(test_topic: str) -> None:
    first = bus.enqueue_task(test_topic, 0)
    for n in range(1_000):
        recent.note(str(n), test_topic, "1-0")

    assert recent.take(first) is None
    assert recent.take("999") == (test_topic, "1-0", ())
    assert recent.take("999") is None
