"""Bulk replay asked for under the name of a request, which may come again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import errors, replays
from bus.bulk import record
from bus.bulk.driver import Foreman
from bus.replays import Job
from tests.integration.test_lost_replies import Lose, lose, warm
from tests.support.bulk import created, dead

__all__ = ["lose"]


def asked(topic: str, request_id: str = "r-1", **pace: Any) -> tuple[Job, bool]:
    chosen = replays.select(topics=[topic])
    return replays.create_once(request_id, chosen, replays.paced(**pace))


def test_of_many_at_once_one_makes_it_and_all_are_told_which(
    test_topic: str, redis_client: redis.Redis
) -> None:
    dead(test_topic, 50)

    with ThreadPoolExecutor(8) as crowd:
        told = list(crowd.map(lambda _: asked(test_topic), range(8)))

    assert len({job.id for job, _ in told}) == 1
    assert [new for _, new in told].count(True) == 1
    assert [job.total for job in replays.list_jobs()] == [50]
    # What the others had frozen is gone.
    frozen = list(redis_client.scan_iter(f"mesh:{{{test_topic}}}:replay:*"))
    assert all(told[0][0].id in name for name in frozen), frozen


def test_it_is_the_same_when_no_letter_is_left(test_topic: str) -> None:
    dead(test_topic, 5)
    first, _ = asked(test_topic)
    Foreman().round()
    assert bus.stats(test_topic)["dead"] == 0

    again, new = asked(test_topic)

    assert (again.id, new) == (first.id, False)
    assert again.counts.replayed == 5


def test_one_that_is_not_started_yet_is_started_by_a_repeat(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first request may have ended between the two."""
    dead(test_topic, 5)

    def away(job_id: str) -> Job:
        raise errors.BusUnavailable(f"no server for {job_id}")

    with monkeypatch.context() as patched:
        patched.setattr(replays, "resume", away)
        with pytest.raises(errors.BusUnavailable):
            asked(test_topic)
    [left] = replays.list_jobs()

    job, new = asked(test_topic)

    assert left.state == "frozen"
    assert (job.id, job.state, new) == (left.id, "running", False)


def test_a_pause_is_not_undone_by_a_repeat(test_topic: str) -> None:
    dead(test_topic, 5)
    job, _ = asked(test_topic)
    replays.pause(job.id)

    again, _ = asked(test_topic)

    assert (again.id, again.state) == (job.id, "paused")


def test_another_wish_under_the_same_name_is_a_conflict(test_topic: str) -> None:
    dead(test_topic, 5)
    job, _ = asked(test_topic)

    with pytest.raises(errors.Conflict, match=f"has made bulk replay {job.id}"):
        asked(test_topic, rate=5)

    assert len(replays.list_jobs()) == 1


def test_a_repeat_is_known_while_no_further_one_may_be_open(test_topic: str) -> None:
    dead(test_topic, 1)
    job, _ = asked(test_topic)
    for _ in range(record.OPEN_MOST - 1):
        created(test_topic)

    assert asked(test_topic)[0].id == job.id


def test_one_that_was_forgotten_is_not_made_again(test_topic: str) -> None:
    dead(test_topic, 5)
    job, _ = asked(test_topic)
    replays.drop(job.id, job)

    with pytest.raises(replays.ReplayNotFound, match=job.id):
        asked(test_topic)

    assert replays.list_jobs() == []


def test_a_name_is_remembered_for_two_days(
    test_topic: str, redis_client: redis.Redis
) -> None:
    dead(test_topic, 1)
    asked(test_topic, "any text: ä\ud800 " * 1_000)

    [name] = redis_client.scan_iter("*request*")

    assert len(name) < 128
    ttl = int(redis_client.ttl(name))
    assert 86_400 < ttl <= record.REQUEST_S


def test_one_that_was_made_and_never_heard_of_keeps_its_letters(
    test_topic: str, lose: Lose, settings: Settings
) -> None:
    settings.MESH_SEND_RETRY_S = 0.1
    dead(test_topic, 5)
    warm(test_topic)
    with pytest.raises(errors.OutcomeUnknown):
        lose("replays_open", 1_000, fewest=1)
        asked(test_topic)
    lose("replays_open", 0)

    job, new = asked(test_topic)
    Foreman().round()

    assert (job.state, new) == ("running", False)
    assert bus.stats(test_topic)["replayed"] == 5


@pytest.mark.parametrize("times", [1, 3])
def test_one_is_made_where_the_answer_is_lost(
    test_topic: str, lose: Lose, times: int
) -> None:
    dead(test_topic, 5)
    warm(test_topic)
    lose("replays_open", times)

    job, new = asked(test_topic)

    assert (job.state, new) == ("running", True)
    assert [each.id for each in replays.list_jobs()] == [job.id]
