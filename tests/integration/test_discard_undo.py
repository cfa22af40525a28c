"""Discarded letters: out for good, or back from the bin as they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import decisions, errors, janitor, keys, results
from tests.integration.test_dead_letters import (
    dead_task,
    drift,
    fail_for_good,
)
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until


def test_a_discarded_letter_is_on_record(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = dead_task(test_topic, "payload")

    bus.discard(task_id, test_topic)

    assert bus.get_task(task_id, test_topic).state == "discarded"
    assert (bus.list_dead(test_topic), bus.dead_groups(test_topic)) == ([], [])
    assert bus.tail_results(test_topic) == []
    [(_, fields)] = redis_client.xrange(bus.result_stream(test_topic))
    assert json.loads(fields["json"])["task"] == "payload"
    assert (bus.stats(test_topic)["discarded"], drift(test_topic)) == (1, 0)


def test_its_row_tells_the_whole_story(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, "x", max_attempts=2)
    fail_for_good(test_topic, task_id)
    bus.replay(task_id, test_topic)
    fail_for_good(test_topic, task_id)
    letter = bus.get_dead(task_id, test_topic)

    bus.discard(task_id, test_topic)

    [(_, row)] = results.page(test_topic)
    history = {name: row.pop(name) for name in ("attempts", "replays")}
    assert row == {
        "id": task_id,
        "topic": test_topic,
        "state": "discarded",
        "task": "x",
        "result": None,
        "error": letter.error,
        "agent": None,
        "attempt": 2,
        "epoch": 1,
        "fence": letter.fence,
        "enqueued_at": letter.enqueued_at,
        "started_at": None,
        "finished_at": letter.died_at,
        "max_attempts": 2,
    }
    assert (len(history["attempts"]), len(history["replays"])) == (4, 1)


def test_an_undone_letter_is_as_it_was(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, "x", max_attempts=2)
    fail_for_good(test_topic, task_id)
    before = bus.get_dead(task_id, test_topic)
    groups = bus.dead_groups(test_topic)
    bus.discard(task_id, test_topic)

    bus.undo(task_id, test_topic)

    after = bus.get_dead(task_id, test_topic)
    names = ("id", "payload", "error", "fingerprint", "fence", "attempts", "epoch")
    for name in (*names, "died_at"):
        assert getattr(after, name) == getattr(before, name), name
    assert (after.options, after.enqueued_at) == (before.options, before.enqueued_at)
    assert [group["count"] for group in bus.dead_groups(test_topic)] == [1]
    assert bus.dead_groups(test_topic)[0]["error"] == groups[0]["error"]
    assert redis_client.xlen(bus.result_stream(test_topic)) == 0
    stats = bus.stats(test_topic)
    assert (stats["discarded"], stats["restored"], drift(test_topic)) == (0, 1, 0)


def test_an_undone_letter_can_be_replayed(test_topic: str) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id, test_topic)
    bus.undo(task_id, test_topic)

    bus.replay(task_id, test_topic)

    assert bus.get_task(task_id, test_topic).state == "waiting"


def test_a_letter_can_be_undone_once(test_topic: str) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id, test_topic)
    bus.undo(task_id, test_topic)

    with pytest.raises(errors.DeadLetterNotFound, match="nothing to undo"):
        bus.undo(task_id, test_topic)

    assert bus.stats(test_topic)["dead"] == 1


def test_a_letter_can_be_discarded_undone_and_discarded_again(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    for _ in range(3):
        bus.discard(task_id, test_topic)
        bus.undo(task_id, test_topic)

    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


def test_many_undos_at_once_bring_back_one_letter(test_topic: str) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id, test_topic)

    def undo(_: int) -> str:
        try:
            return bus.undo(task_id, test_topic)
        except errors.DeadLetterNotFound:
            return "late"

    with ThreadPoolExecutor(8) as pool:
        told = sorted(pool.map(undo, range(16)))

    assert told == [bus.get_dead(task_id, test_topic).entry_id, *["late"] * 15]
    assert (bus.stats(test_topic)["dead"], drift(test_topic)) == (1, 0)


def test_of_many_discards_at_once_one_succeeds(test_topic: str) -> None:
    task_id = dead_task(test_topic)

    def discard(_: int) -> str:
        try:
            bus.discard(task_id, test_topic)
        except errors.NotDead as exc:
            return str(exc.facts["state"])
        return "did"

    with ThreadPoolExecutor(8) as pool:
        told = sorted(pool.map(discard, range(16)))

    assert told == ["did", *["discarded"] * 15]
    assert (bus.stats(test_topic)["discarded"], drift(test_topic)) == (1, 0)


def test_the_same_request_is_the_same_decision_whatever_came_after(
    test_topic: str,
) -> None:
    task_id = dead_task(test_topic)

    def once(request: str) -> tuple[bool, str, bool]:
        gone = decisions.discarded(task_id, test_topic, request)
        return gone, *decisions.undone(task_id, None, request)

    _, dead_id, _ = first = once("click")

    assert first == (True, dead_id, True)
    assert once("click") == (False, dead_id, False)
    assert bus.get_dead(task_id, test_topic).entry_id == dead_id
    bus.discard(task_id, test_topic, request_id="another click")
    with pytest.raises(errors.NotDead):
        bus.discard(task_id, test_topic)
    assert once("click") == (False, dead_id, False)
    assert bus.get_task(task_id).state == "discarded", "its undo is an older one"
    assert drift(test_topic) == 0


def test_a_request_of_one_task_says_nothing_of_another(test_topic: str) -> None:
    one, other = dead_task(test_topic), dead_task(test_topic)

    told = [decisions.discarded(each, test_topic, "same key") for each in (one, other)]
    back = [decisions.undone(each, test_topic, "same key")[1] for each in (one, other)]

    assert told == back == [True, True]


def test_the_bin_is_emptied_after_its_hour(test_topic: str, settings: Settings) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id, test_topic)
    settings.MESH_BIN_KEEP_S = -1

    janitor.trim(test_topic)

    with pytest.raises(errors.DeadLetterNotFound, match="nothing to undo"):
        bus.undo(task_id, test_topic)


def test_the_bin_holds_the_newest(test_topic: str, settings: Settings) -> None:
    settings.MESH_BIN_MAX = 2
    ids = [dead_task(test_topic) for _ in range(3)]
    for task_id in ids:
        bus.discard(task_id, test_topic)

    bus.undo(ids[2], test_topic)
    bus.undo(ids[1], test_topic)

    with pytest.raises(errors.DeadLetterNotFound):
        bus.undo(ids[0], test_topic)


def test_an_undo_is_found_among_many_discarded_letters(
    test_topic: str, redis_client: redis.Redis
) -> None:
    first = dead_task(test_topic)
    bus.discard(first)
    pipe = redis_client.pipeline(transaction=False)
    for _ in range(1_100):  # more than two looks
        pipe.xadd(keys.named("bin", test_topic), {"id": "another"})
    pipe.execute()

    bus.undo(first)

    assert bus.get_task(first, test_topic).state == "dead"


def test_a_round_trip_leaves_the_books_as_they_were(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Groups, index, counters and ledger, with a letter that failed alike beside it."""
    desk = Desk(test_topic)
    ids = bus.enqueue_many(test_topic, range(3))
    for item in desk.claim(3):
        desk.fail(item, final=True, message=f"no ink {item.json == '2' or ''}")
    bus.replay(ids[0], by="ann")
    desk.fail(desk.one(), final=True)

    def books() -> dict[str, Any]:
        groups = bus.dead_groups(test_topic)
        stats = bus.stats(test_topic)
        letters: Any = redis_client.xrange(bus.dead_stream(test_topic))
        names = ("dead", "discarded", "done", "accepted")
        return {
            "groups": sorted(
                (g["fingerprint"], g["count"], g["total"]) for g in groups
            ),
            "errors": sorted(group["error"]["message"] for group in groups),
            "counts": {name: stats[name] for name in names},
            "letters": sorted(
                sorted(fields.items() - {("died", fields.get("died"))})
                for _, fields in letters
            ),
        }

    before = books()
    for task_id in ids:
        bus.discard(task_id)
    assert (bus.stats(test_topic)["discarded"], bus.dead_groups(test_topic)) == (3, [])
    assert wounds(redis_client, test_topic) == []
    for task_id in ids:
        bus.undo(task_id)
    once = books()
    bus.discard(ids[1])
    bus.undo(ids[1])

    # A group that had emptied begins anew; one that had not counts nobody twice.
    assert {**once, "groups": None} == {**before, "groups": None}
    assert [group[:2] for group in once["groups"]] == [g[:2] for g in before["groups"]]
    assert books() == once
    assert wounds(redis_client, test_topic) == []
    assert redis_client.xlen(keys.named("bin", test_topic)) == 0


def test_after_its_hour_an_undo_says_so_also_where_no_janitor_runs(
    test_topic: str, settings: Settings
) -> None:
    task_id = dead_task(test_topic)
    bus.discard(task_id)
    settings.MESH_BIN_KEEP_S = 0
    wait_until(lambda: _refused(task_id))

    with pytest.raises(errors.DeadLetterNotFound, match="nothing to undo"):
        bus.undo(task_id)

    assert bus.get_task(task_id).state == "discarded"
    settings.MESH_BIN_KEEP_S = 7_200
    assert bus.undo(task_id) == bus.get_dead(task_id).entry_id


def _refused(task_id: str) -> bool:
    """Whether the millisecond of the discard is over."""
    try:
        bus.undo(task_id)
    except errors.DeadLetterNotFound:
        return True
    bus.discard(task_id)
    return False


AGAIN: dict[str, Callable[[Desk], Any]] = {
    "waiting": lambda desk: None,
    "running": lambda desk: desk.one(),
    "done": lambda desk: desk.complete(desk.one()),
    "dead": lambda desk: desk.fail(desk.one(), final=True),
}


@pytest.mark.parametrize("state", AGAIN)
def test_an_undo_never_touches_a_task_that_took_its_id_meanwhile(
    test_topic: str, settings: Settings, redis_client: redis.Redis, state: str
) -> None:
    """The id was forgotten with the row of the discard, then sent again."""
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, "first")
    desk.fail(desk.one(), final=True)
    bus.discard(task_id)
    settings.MESH_DONE_WINDOW_S = -1
    settings.MESH_RESULTS_KEEP = 0
    janitor.trim(test_topic)
    settings.MESH_RESULTS_KEEP = 10
    bus.enqueue_task(test_topic, "again", task_id=task_id)
    AGAIN[state](desk)
    before = bus.get_task(task_id)

    with pytest.raises(errors.Conflict, match="sent again since"):
        bus.undo(task_id, test_topic)

    assert bus.get_task(task_id) == before
    assert (before.state, before.payload) == (state, "again")
    assert wounds(redis_client, test_topic) == []


def test_at_maxmemory_letters_are_discarded_and_brought_back(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = dead_task(test_topic)
    redis_client.config_set("maxmemory", 1)

    bus.discard(task_id)
    bus.undo(task_id)

    redis_client.config_set("maxmemory", 0)
    assert bus.get_task(task_id).state == "dead"
    assert drift(test_topic) == 0
