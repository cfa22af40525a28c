"""Bulk replay where answers of the server are lost, or its memory is full."""

from __future__ import annotations

import threading
import time

import pytest
import redis

import bus
from bus import errors, keys, replays
from bus.bulk import record
from bus.bulk.driver import Foreman
from bus.replays import Job
from tests.integration.test_lost_replies import Lose, lose, warm
from tests.support.bulk import created, dead
from tests.support.desk import Desk

__all__ = ["lose"]


def rounds(foreman: Foreman, job: Job, desk: Desk) -> Job:
    """To its end, as the thread would: a round that failed is followed by another."""
    deadline = time.monotonic() + 30
    while (now := replays.get(job.id)).state == "running":
        assert time.monotonic() < deadline, now
        try:
            foreman.round()
        except errors.BusUnavailable:
            continue
        if items := desk.claim(100):
            desk.complete(*items)
    return now


@pytest.mark.parametrize("field", ["plan", "pace", "counts", "gauge", "fence"])
def test_a_record_that_somebody_changed_stops_no_other(
    test_topic: str, redis_client: redis.Redis, field: str
) -> None:
    other = f"{test_topic}-2"
    dead(test_topic, 2)
    dead(other, 2)
    broken, whole = created(test_topic), created(other)
    redis_client.hset(keys.job_key(broken.id), field, "no longer ours")

    now = rounds(Foreman(), whole, Desk(other))

    assert now.state == "done"
    assert [job.id for job in replays.list_jobs()] == [whole.id]


def test_a_mistake_of_ours_ends_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = threading.Semaphore(0)

    def mistaken(*, only_open: bool = False) -> list[str]:
        looked.release()
        raise LookupError("of ours")

    monkeypatch.setattr(record, "ids", mistaken)
    foreman = Foreman(lambda: 0.01)
    foreman.start()
    try:
        assert all(looked.acquire(timeout=10) for _ in range(3))
    finally:
        foreman.close()
        foreman.join(5)


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize(
    "verb",
    [
        *("replay_batch", "replay_skip", "replay_settle", "replay_halt"),
        *("replays_hold", "replays_tell"),
    ],
)
def test_each_letter_counts_once_whichever_answer_of_the_driver_is_lost(
    test_topic: str, lose: Lose, verb: str, times: int
) -> None:
    ids, desk = dead(test_topic, 250), Desk(test_topic)
    job = created(test_topic)
    for task_id in ids[:3]:
        bus.discard(task_id, test_topic)
    warm(test_topic)
    lose(verb, times, fewest=1)  # what is done already is not asked for again

    now = rounds(Foreman(), job, desk)

    counts = now.counts
    assert now.state == "done"
    assert (counts.replayed, counts.done, counts.skipped) == (247, 247, 3)
    assert len(replays.letters(now)) == 3
    assert bus.stats(test_topic)["replayed"] == 247
    assert bus.stats(test_topic)["done"] == 247
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("verb", ["replay_freeze", "replays_open", "replays_turn"])
def test_one_is_created_once(
    test_topic: str, lose: Lose, verb: str, times: int
) -> None:
    dead(test_topic, 5)
    warm(test_topic)
    lose(verb, times)

    job = created(test_topic)

    assert [each.id for each in replays.list_jobs()] == [job.id]
    assert (job.state, job.total, job.counts.todo) == ("running", 5, 5)


@pytest.mark.parametrize("verb", ["pause", "cancel"])
def test_a_change_whose_answer_is_lost_is_a_success(
    test_topic: str, lose: Lose, verb: str
) -> None:
    dead(test_topic, 5)
    job = created(test_topic)
    warm(test_topic)
    lose("replays_turn", 2)

    now = getattr(replays, verb)(job.id, "bob")

    assert (now.state, now.why) == (
        {"pause": "paused"}.get(verb, "cancelled"),
        "by bob",
    )
    Foreman().round()
    assert bus.stats(test_topic)["dead"] == 5


def test_without_memory_none_is_created_and_those_that_run_go_on(
    test_topic: str, redis_client: redis.Redis
) -> None:
    dead(test_topic, 30)
    job, desk, foreman = created(test_topic), Desk(test_topic), Foreman()
    redis_client.config_set("maxmemory", 1)

    with pytest.raises(errors.BusUnavailable) as caught:
        created(test_topic)
    now = rounds(foreman, job, desk)

    redis_client.config_set("maxmemory", 0)
    assert caught.value.code == "memory_full"
    assert (now.state, now.counts.done) == ("done", 30)
    assert [each.id for each in replays.list_jobs()] == [job.id]
