"""A task that has ended keeps what went before: its failed attempts and its replays."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import errors, history, keys, looks, results, timeline
from bus.deliveries import Delivery
from bus.live import window
from tests.support import agents
from tests.support.desk import Desk
from tests.support.waiting import wait_until


def lived(desk: Desk, *, replayed: bool = True) -> Delivery:
    """A task in hand that failed once, lost an agent, died and was replayed."""
    bus.enqueue_task(desk.topic, {"n": 1})
    desk.fail(desk.one(), delay_s=0, message="no ink")
    promote(desk)
    desk.claim()
    desk.lose()
    if not replayed:
        return desk.one()
    item = desk.one()
    desk.fail(item, final=True, message="no paper")
    bus.replay(item.id, desk.topic, by="ann")
    return desk.one()


def promote(desk: Desk) -> None:
    looks.promote(desk.topic)


def past(task: bus.Task) -> list[tuple[int, int, str]]:
    return [
        (row["epoch"], row["attempt"], row["error"]["type"]) for row in task.attempts
    ]


ENDS: dict[str, Callable[[Desk, Delivery], Any]] = {
    "done": lambda desk, item: desk.complete(item),
    "dead": lambda desk, item: desk.fail(item, final=True),
    "cancelled": lambda desk, item: (bus.cancel(item.id), desk.release(item)),
    "discarded": lambda desk, item: (
        desk.fail(item, final=True),
        bus.discard(item.id),
    ),
}
LIVED = [(0, 1, "ValueError"), (0, 2, "LeaseLost"), (0, 2, "ValueError")]


@pytest.mark.parametrize("end", ENDS)
def test_every_end_keeps_attempts_and_replays(
    test_topic: str, redis_client: redis.Redis, end: str
) -> None:
    desk = Desk(test_topic)
    item = lived(desk)

    ENDS[end](desk, item)

    task = bus.get_task(item.id)
    failed_last = [(1, 1, "ValueError")] if end in ("dead", "discarded") else []
    assert (task.state, task.epoch, past(task)) == (end, 1, LIVED + failed_last)
    [replay] = task.replays
    assert (replay["epoch"], replay["by"], replay["edited"]) == (1, "ann", False)
    assert redis_client.hlen(keys.named("attempts", test_topic)) == 0
    [listed], _ = bus.list_tasks(test_topic, end)
    assert (past(listed), listed.replays) == (past(task), task.replays)
    told = [row["what"] for row in timeline.timeline(task)]
    assert told.count("failed") == 2 + len(failed_last)
    assert told.index("lost") < told.index("replayed") < told.index(end)


def test_an_attempt_that_ends_cancelled_is_on_record_too(test_topic: str) -> None:
    desk = Desk(test_topic)
    failed, lost = bus.enqueue_many(test_topic, range(2))
    items = {item.id: item for item in desk.claim(2)}
    bus.cancel(failed)
    bus.cancel(lost)

    desk.fail(items[failed], message="stopped")
    desk.lose()

    assert past(bus.get_task(failed)) == [(0, 1, "ValueError")]
    assert past(bus.get_task(lost)) == [(0, 1, "LeaseLost")]
    assert {bus.get_task(each).state for each in (failed, lost)} == {"cancelled"}


def test_a_task_that_succeeds_at_once_pays_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(5))

    desk.complete(*desk.claim(5))

    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    assert {tuple(fields) for _, fields in rows} == {("id", "json")}


def test_those_of_a_batch_that_have_a_past_keep_their_own(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    sent = bus.enqueue_many(test_topic, range(6))
    for item in desk.claim(6):
        if item.json in "135":
            desk.fail(item, delay_s=0, message=item.json)
        else:
            desk.release(item)
    promote(desk)

    desk.complete(*desk.claim(6))

    said = [[a["error"]["message"] for a in bus.get_task(i).attempts] for i in sent]
    assert said == [[], ["1"], [], ["3"], [], ["5"]]


def test_whoever_reads_results_sees_the_row_as_before(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    item = lived(desk, replayed=False)
    desk.complete(item)

    [(_, row)] = bus.tail_results(test_topic)

    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    [(_, fields)] = rows
    assert list(fields)[:2] == ["id", "json"]
    assert row == json.loads(fields["json"])
    assert "attempts" not in row
    [(_, follows)] = results.results_after(test_topic, "0-0")
    assert follows == row


def test_pages_and_the_feed_tell_of_the_past(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    item = lived(desk)
    desk.fail(item, final=True)
    bus.replay(item.id, payload={"n": 2}, by="bob")
    desk.complete(desk.one())

    [(entry_id, row)] = results.page(test_topic)

    assert (row["epoch"], len(row["attempts"])) == (2, 4)
    assert [(each["by"], each["edited"]) for each in row["replays"]] == [
        ("ann", False),
        ("bob", True),
    ]
    assert "payload" in bus.get_task(item.id).replays[1]
    assert "payload" not in row["replays"][1]
    rows: Any = redis_client.xrange(bus.result_stream(test_topic))
    stream = bus.result_stream(test_topic)
    told = window.Item("results", stream, test_topic, entry_id, fields=rows[0][1])
    wired = json.loads(told.wire())
    assert {name: wired[name] for name in row} == row


async def broken(payload: Any, task: Any) -> Any:
    """Fails the first time."""
    if task.attempt == 1:
        raise ValueError("not yet")


def test_tracebacks_are_for_those_who_look_at_the_task(test_topic: str) -> None:
    with agents.running(test_topic, broken, backoff_s=0.001):
        task_id = bus.enqueue_task(test_topic, 1)
        wait_until(lambda: bus.get_task(task_id).state == "done", 20)

    [(_, row)] = results.page(test_topic)

    [attempt] = bus.get_task(task_id).attempts
    assert "test_history.py" in attempt["error"]["traceback"]
    assert attempt["max_attempts"] == 5
    del attempt["error"]["traceback"]
    assert row["attempts"] == [attempt]


def test_a_wait_ends_with_the_whole_task(test_topic: str) -> None:
    desk = Desk(test_topic)
    item = lived(desk)
    desk.complete(item)

    assert bus.wait_result(item.id, timeout_s=1) == bus.get_task(item.id)
    assert len(bus.wait_result(item.id).attempts) == 3


def test_a_history_keeps_the_newest_fifty(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    for _ in range(60):
        desk.fail(desk.one(), delay_s=0, max_attempts=1_000)
        promote(desk)

    desk.complete(desk.one())

    task = bus.get_task(task_id)
    assert [row["attempt"] for row in task.attempts] == list(range(11, 61))
    assert task.attempt == 61


def test_fields_that_somebody_else_wrote_are_no_past(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    [(entry_id, _)] = bus.read_group(test_topic, "g", "c")
    fields = {"id": task_id, "json": '{"ok":1}', "attempts": "3", "epoch": "x"}
    redis_client.xadd(bus.result_stream(test_topic), fields)  # type: ignore[arg-type]
    bus.ack(test_topic, "g", entry_id)

    task = bus.get_task(task_id)

    assert (task.state, task.attempts, task.epoch) == ("done", (), 0)
    assert results.page(test_topic)[0][1] == {"ok": 1}


def test_a_task_acknowledged_by_hand_still_tells_what_the_log_knows(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    item = lived(desk)
    bus.ack(test_topic, "workers", item.sid)

    told = [row["what"] for row in timeline.timeline(bus.get_task(item.id))]

    assert told == ["enqueued", "failed", "lost", "replayed", "done"]


def test_at_maxmemory_a_completion_keeps_its_past_too(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    item = lived(desk)
    cancelled = bus.enqueue_task(test_topic, 2)
    other = desk.one()
    bus.cancel(cancelled)
    redis_client.config_set("maxmemory", 1)

    outcomes = desk.complete(item)
    desk.fail(other)

    redis_client.config_set("maxmemory", 0)
    assert outcomes == ["ok"]
    assert len(bus.get_task(item.id).attempts) == 3
    assert len(bus.get_task(cancelled).attempts) == 1


# --- replays


def dead(desk: Desk, payload: Any = "first") -> str:
    task_id = bus.enqueue_task(desk.topic, payload)
    desk.fail(desk.one(), final=True)
    return task_id


def test_an_edited_payload_keeps_the_original(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk, {"to": "a@b"})
    letter = bus.get_dead(task_id)

    bus.replay(task_id, payload={"to": "a@b.c"}, by="ann")
    desk.complete(desk.one())

    task = bus.get_task(task_id)
    [replay] = task.replays
    assert task.payload == {"to": "a@b.c"}
    assert replay["at"] >= letter.died_at
    assert {name: replay[name] for name in replay if name != "at"} == {
        "epoch": 1,
        "by": "ann",
        "letter": letter.entry_id,
        "edited": True,
        "payload": {"to": "a@b"},
    }
    [told] = [row for row in timeline.timeline(task) if row["what"] == "replayed"]
    assert told["detail"] == "with an edited payload by ann"


def test_every_edit_keeps_what_it_replaced_in_the_letter_too(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk, 0)
    for edit in (1, 2):
        bus.replay(task_id, payload=edit)
        desk.fail(desk.one(), final=True)
    bus.discard(task_id)
    bus.undo(task_id)

    letter = bus.get_dead(task_id)

    assert [replay["payload"] for replay in letter.replays] == [0, 1]
    assert (letter.payload, letter.epoch) == (2, 2)
    assert [replay["by"] for replay in letter.replays] == [None, None]


def test_the_same_payload_again_is_no_edit(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk, {"a": 1, "b": 2})

    bus.replay(task_id, payload={"b": 2, "a": 1})

    [replay] = bus.get_task(task_id).replays
    assert (replay["edited"], "payload" in replay) == (False, False)


def test_an_original_that_is_too_large_leaves_its_size(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk, "x" * history.ORIGINAL_MOST)

    bus.replay(task_id, payload="short")

    [replay] = bus.get_task(task_id).replays
    assert replay["payload_bytes"] == history.ORIGINAL_MOST + 2
    assert "payload" not in replay


@pytest.mark.parametrize(
    ("text", "payload"),
    [('{\n  "a": 1\n}', {"a": 1}), ('{"a":', '{"a":'), ("[1,\r\n\t2]", [1, 2])],
)
def test_an_original_that_somebody_else_wrote_stays_one_line(
    test_topic: str, redis_client: redis.Redis, text: str, payload: Any
) -> None:
    sid = redis_client.xadd(bus.task_stream(test_topic), {"json": text})
    task_id = keys.foreign_id(test_topic, str(sid))
    desk = Desk(test_topic)
    desk.fail(desk.one(), final=True)
    was = bus.get_dead(task_id).payload

    bus.replay(task_id, payload="short")

    task = bus.get_task(task_id)
    [replay] = task.replays
    assert replay["payload"] == was == payload
    assert len(task.attempts) == 1


def test_odd_names_do_no_harm(test_topic: str) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk)

    bus.replay(task_id, by='a"\n\ud800' + "x" * 500, request_id='%d"\n')

    [replay] = bus.get_task(task_id).replays
    assert replay["by"].startswith('a"\n\\ud800x')
    assert len(replay["by"]) <= 210


def test_a_repeated_request_is_the_same_replay_wherever_the_task_is(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk)

    def again() -> str:
        return bus.replay(task_id, test_topic, entry_id=seen, request_id="click 1")

    seen = bus.get_dead(task_id).entry_id
    for step in (
        lambda: None,  # the replay itself
        lambda: None,
        lambda: desk.fail(desk.one(), delay_s=0),
        lambda: promote(desk),
        lambda: desk.fail(desk.one(), final=True),
        lambda: bus.discard(task_id),
        lambda: bus.undo(task_id),
        lambda: bus.replay(task_id, request_id="click 2"),
        lambda: desk.complete(desk.one()),
    ):
        step()
        assert again() == task_id

    task = bus.get_task(task_id)
    assert (task.state, task.epoch) == ("done", 2)
    assert bus.stats(test_topic)["replayed"] == 2


def test_another_request_for_the_letter_that_was_seen_is_told_how_the_task_stands(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    task_id = dead(desk)
    seen = bus.get_dead(task_id).entry_id
    bus.replay(task_id, entry_id=seen, request_id="ann")

    with pytest.raises(errors.NotDead, match="it is waiting") as waiting:
        bus.replay(task_id, entry_id=seen, request_id="bob")
    desk.fail(desk.one(), final=True)
    with pytest.raises(errors.NotDead, match="another one by now") as dead_again:
        bus.replay(task_id, entry_id=seen, request_id="bob")

    assert waiting.value.facts["state"] == "waiting"
    assert dead_again.value.facts["state"] == "dead"
    assert bus.get_dead(task_id).epoch == 1


def test_what_is_no_letter_is_refused(test_topic: str) -> None:
    task_id = dead(Desk(test_topic))

    with pytest.raises(errors.InvalidName, match="stream id"):
        bus.replay(task_id, entry_id="newest")
