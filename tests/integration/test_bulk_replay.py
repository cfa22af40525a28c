"""Bulk replay: frozen letters, back to work once each, at a pace, with a report."""

from __future__ import annotations

import time

import pytest
import redis

import bus
from bus import auditor, errors, replays
from bus.bulk import parts, record, room, selection
from bus.bulk.driver import Foreman
from bus.messages import iso_ms
from tests.support import agents, work
from tests.support.bulk import created, dead, driven
from tests.support.desk import Desk
from tests.support.waiting import wait_until

NOBODY = "0198c0de-0000-7000-8000-00000000abcd"


def test_all_letters_of_a_topic_are_replayed_and_done_again(test_topic: str) -> None:
    ids = dead(test_topic, 250)
    foreman = Foreman()

    with agents.running(test_topic, work.echo):
        job = driven(foreman, created(test_topic))

    stats = bus.stats(test_topic)
    assert (job.total, job.counts.replayed, job.counts.done) == (250, 250, 250)
    assert (job.counts.todo, job.counts.open, job.counts.dead) == (0, 0, 0)
    assert (stats["replayed"], stats["done"], stats["dead"]) == (250, 250, 0)
    assert stats["ledger"]["drift"] == 0
    task = bus.get_task(ids[7], test_topic)
    [replay] = task.replays
    assert (task.epoch, replay["by"], replay["job"]) == (1, "alice", job.id)
    assert replays.letters(job) == []


def test_a_letter_that_dies_again_is_told_and_not_taken_twice(test_topic: str) -> None:
    ids = dead(test_topic, 3)
    foreman, desk = Foreman(), Desk(test_topic)
    job = created(test_topic)
    foreman.round()

    desk.fail(desk.one(), final=True)
    desk.complete(*desk.claim(2))
    job = driven(foreman, job)

    assert (job.counts.replayed, job.counts.done, job.counts.dead) == (3, 2, 1)
    [told] = replays.letters(job)
    assert (told.topic, told.id, told.what) == (test_topic, ids[0], "dead")
    assert bus.get_dead(ids[0], test_topic).epoch == 1
    assert bus.stats(test_topic)["replayed"] == 3


def test_letters_that_die_later_are_none_of_it(test_topic: str) -> None:
    dead(test_topic, 5)
    job = created(test_topic)
    later = dead(test_topic, 2, start=5)
    foreman = Foreman()

    foreman.round()

    job = replays.get(job.id)
    assert (job.total, job.counts.replayed) == (5, 5)
    assert {letter.id for letter in bus.list_dead(test_topic)} == set(later)


def test_what_others_did_first_is_skipped_and_told_by_whom(test_topic: str) -> None:
    ids = dead(test_topic, 5)
    job = created(test_topic)
    bus.replay(ids[0], test_topic, by="bob")
    bus.discard(ids[1], test_topic)
    bus.discard(ids[2], test_topic)
    bus.undo(ids[2], test_topic)
    foreman = Foreman()

    with agents.running(test_topic, work.echo):
        job = driven(foreman, job)

    told = {each.id: (each.what, each.why) for each in replays.letters(job)}
    assert told == {
        ids[0]: ("skipped", "replayed by bob"),
        ids[1]: ("skipped", "discarded"),
        ids[2]: ("skipped", "discarded and restored"),
    }
    assert (job.counts.replayed, job.counts.done, job.counts.skipped) == (2, 2, 3)
    assert bus.get_task(ids[0], test_topic).epoch == 1


def test_letters_nobody_can_replay_fail_and_say_why(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The audit would put the third one into the index, perhaps before its turn comes.
    monkeypatch.setattr(auditor, "tick", lambda *_: None)
    dead(test_topic, 1)
    stream = bus.dead_stream(test_topic)
    redis_client.xadd(stream, {"id": "no uuid", "json": "1"})
    redis_client.xadd(stream, {"id": NOBODY, "json": "1"})
    foreman = Foreman()

    with agents.running(test_topic, work.echo):
        job = driven(foreman, created(test_topic))

    told = [(each.what, each.why) for each in replays.letters(job)]
    assert (job.counts.done, job.counts.failed) == (1, 2)
    assert any("no task id" in why for _, why in told)
    assert any("in no index" in why for _, why in told)


def test_cancelled_and_discarded_again_are_told_apart(test_topic: str) -> None:
    ids = dead(test_topic, 3)
    foreman, desk = Foreman(), Desk(test_topic)
    job = created(test_topic)
    foreman.round()

    bus.cancel(ids[0], test_topic)
    desk.fail(desk.one(), final=True)
    bus.discard(ids[1], test_topic)
    desk.fail(desk.one(), final=True)
    bus.replay(ids[2], test_topic)
    desk.complete(desk.one())
    job = driven(foreman, job)

    told = {each.id: each.what for each in replays.letters(job)}
    assert told == {ids[0]: "cancelled", ids[1]: "dead", ids[2]: "dead"}
    assert (job.counts.cancelled, job.counts.dead) == (1, 2)


def test_an_outcome_whose_result_was_trimmed_is_unknown(test_topic: str) -> None:
    ids = dead(test_topic, 1)
    foreman, desk = Foreman(), Desk(test_topic)
    job = created(test_topic)
    foreman.round()
    desk.complete(desk.one())
    client = bus.get_redis()
    client.delete(bus.result_stream(test_topic), f"mesh:{{{test_topic}}}:done")

    job = driven(foreman, job)

    assert (job.counts.unknown, job.counts.done) == (1, 0)
    assert [each.id for each in replays.letters(job)] == ids


def test_several_topics_are_one_job(test_topic: str) -> None:
    other = f"{test_topic}-b"
    dead(test_topic, 30)
    dead(other, 5)
    chosen = replays.select(topics=[test_topic, other])
    job = replays.create(chosen, by="alice")
    foreman = Foreman()

    foreman.round()

    job = replays.get(job.id)
    assert job.topics == {test_topic: 30, other: 5}
    assert job.counts.replayed == 35
    assert bus.stats(other)["replayed"] == 5


class TestSelection:
    def test_a_group_an_error_and_a_time_select(self, test_topic: str) -> None:
        no = dead(test_topic, 3, "no")
        dead(test_topic, 4, "Verboten, ÄRGER")
        letter = bus.get_dead(no[0], test_topic)
        newest = bus.list_dead(test_topic, 1)[0]

        def total(**how: object) -> int:
            chosen = replays.select(topics=[test_topic], **how)  # type: ignore[arg-type]
            return int(replays.preview(chosen)["total"])

        assert total() == 7
        assert total(group=letter.fingerprint) == 3
        assert total(error="ärger") == 4
        assert total(since_ms=(iso_ms(newest.died_at) or 0) + 1) == 0
        assert total(until_ms=(iso_ms(letter.died_at) or 0)) == 0
        assert total(since_ms=iso_ms(letter.died_at)) == 7

    def test_ids_select_wherever_they_lie(self, test_topic: str) -> None:
        ids = dead(test_topic, 3)
        others = dead(f"{test_topic}-b", 2)

        told = replays.preview(replays.select(ids=[ids[1], others[0], NOBODY]))

        assert (told["total"], told["missing"]) == (2, 1)
        assert {row["topic"] for row in told["topics"]} == {
            test_topic,
            f"{test_topic}-b",
        }

    def test_a_preview_tells_groups_and_first_letters(
        self, test_topic: str, redis_client: redis.Redis
    ) -> None:
        ids = dead(test_topic, 6, "no")
        dead(test_topic, 2, "never")
        before = set(redis_client.scan_iter(count=1000))

        told = replays.preview(replays.select(topics=[test_topic]))

        assert [group["count"] for group in told["groups"]] == [6, 2]
        assert told["groups"][0]["error"] == {"type": "ValueError", "message": "no"}
        assert [row["id"] for row in told["sample"]] == ids[:5]
        assert told["oldest_at"] <= told["newest_at"]
        assert set(redis_client.scan_iter(count=1000)) == before

    def test_nothing_selected_is_an_error(self, test_topic: str) -> None:
        dead(test_topic, 1)
        with pytest.raises(errors.InvalidOption, match="which letters"):
            replays.select()
        with pytest.raises(errors.InvalidOption, match="one way"):
            replays.select(ids=[NOBODY], error="x")
        with pytest.raises(errors.InvalidName):
            replays.select(ids=["x"])
        with pytest.raises(errors.TopicNotFound):
            replays.preview(replays.select(topics=["nobody-knows"]))
        with pytest.raises(errors.DeadLetterNotFound):
            replays.create(replays.select(topics=[test_topic], error="nothing"))

    def test_a_selection_beyond_the_bound_is_refused(
        self,
        test_topic: str,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        dead(test_topic, 6)
        monkeypatch.setattr(selection, "LETTERS_MOST", 5)

        with pytest.raises(errors.InvalidOption, match="more than 5 letters"):
            created(test_topic)
        with pytest.raises(errors.InvalidOption, match="more than 5 letters"):
            replays.select(ids=[NOBODY] * 6)

        assert not list(redis_client.scan_iter("*replay*"))


class TestPace:
    def test_a_rate_bounds_letters_per_second(self, test_topic: str) -> None:
        dead(test_topic, 50)
        job = created(test_topic, rate=20)
        foreman, begun = Foreman(), time.monotonic()

        while (now := replays.get(job.id)).counts.replayed < 10:
            foreman.round()
            time.sleep(0.01)

        took = time.monotonic() - begun
        assert now.counts.replayed <= 20 * took + 1

    def test_a_canary_waits_for_each_step(self, test_topic: str) -> None:
        dead(test_topic, 30)
        job = created(test_topic, canary=True)
        foreman, desk = Foreman(), Desk(test_topic)
        sizes = []
        for count in (1, 10, 19):
            wait_until(lambda: foreman.round() and bus.stats(test_topic)["waiting"])
            foreman.round()
            items = desk.claim(100)
            sizes.append(len(items))
            assert len(items) == count
            desk.complete(*items)

        job = driven(foreman, job)

        assert sizes == [1, 10, 19]
        assert (job.counts.done, job.step) == (30, "rest")

    def test_a_canary_that_dies_again_stops_it(self, test_topic: str) -> None:
        dead(test_topic, 30)
        job = created(test_topic, canary=True)
        foreman, desk = Foreman(), Desk(test_topic)
        foreman.round()
        desk.fail(desk.one(), final=True)

        job = driven(foreman, job, "stopped")

        assert job.counts.replayed == 1
        assert job.why == "1 of 1 letter is dead again: 100%, more than 10%"
        foreman.round()
        assert bus.stats(test_topic)["replayed"] == 1
        again = replays.resume(job.id)  # somebody mended the handler
        assert again.state == "running"
        foreman.round()
        desk.complete(*desk.claim(10))
        wait_until(lambda: foreman.round() and bus.stats(test_topic)["waiting"] == 10)

    def test_a_failure_rate_below_the_bound_goes_on(self, test_topic: str) -> None:
        dead(test_topic, 30)
        job = created(test_topic, canary=True, max_failure_rate=0.2)
        foreman, desk = Foreman(), Desk(test_topic)
        foreman.round()
        desk.complete(desk.one())
        items = wait_until(
            lambda: foreman.round() and (bus.stats(test_topic)["waiting"] == 10)
        ) and desk.claim(10)
        desk.fail_all(*(desk.failure(item, final=True) for item in items[:2]))
        desk.complete(*items[2:])

        wait_until(lambda: foreman.round() and bus.stats(test_topic)["waiting"] == 19)

        assert replays.get(job.id).state == "running"

    @pytest.mark.parametrize(
        "pace",
        [
            {"rate": 0},
            {"rate": 10_001},
            {"rate": float("nan")},
            {"rate": "5"},
            {"rate": True},
            {"max_failure_rate": -0.1},
            {"max_failure_rate": 1.1},
        ],
    )
    def test_numbers_outside_their_range_are_refused(
        self, pace: dict[str, object]
    ) -> None:
        with pytest.raises(errors.InvalidOption):
            replays.paced(**pace)  # type: ignore[arg-type]


class TestCourse:
    def test_paused_replays_nothing_until_resumed(self, test_topic: str) -> None:
        dead(test_topic, 50)
        job = created(test_topic, rate=10_000)
        foreman = Foreman()
        paused = replays.pause(job.id, "bob")
        before = bus.stats(test_topic)["replayed"]

        for _ in range(3):
            foreman.round()

        assert (paused.state, paused.why) == ("paused", "by bob")
        assert bus.stats(test_topic)["replayed"] == before
        replays.resume(job.id, replays.paced())
        foreman.round()
        assert bus.stats(test_topic)["replayed"] == 50
        with pytest.raises(errors.Conflict, match="is running"):
            replays.resume(job.id)

    def test_a_batch_that_comes_after_a_pause_is_refused(self, test_topic: str) -> None:
        """The driver read its letters before, and writes after the pause."""
        dead(test_topic, 5)
        job = created(test_topic)
        held = record.hold(job.id, "driver")
        assert held is not None
        parts.halt(test_topic, job.id, held.fence)
        replays.pause(job.id)

        assert parts.replay(test_topic, held, 5) is False

        assert bus.stats(test_topic)["dead"] == 5

    def test_cancelled_leaves_the_rest_dead(
        self, test_topic: str, redis_client: redis.Redis
    ) -> None:
        dead(test_topic, 20)
        job = created(test_topic, canary=True)
        foreman, desk = Foreman(), Desk(test_topic)
        foreman.round()

        replays.cancel(job.id, "bob")
        desk.complete(desk.one())
        wait_until(lambda: foreman.round() and not record.ids(only_open=True))

        now = replays.get(job.id)
        assert (now.state, now.why) == ("cancelled", "by bob")
        assert (now.counts.done, now.counts.left, now.counts.todo) == (1, 19, 0)
        assert bus.stats(test_topic)["dead"] == 19
        with pytest.raises(errors.Conflict, match="is cancelled"):
            replays.cancel(job.id)
        with pytest.raises(errors.Conflict):
            replays.resume(job.id)

    def test_a_frozen_one_waits_for_its_start(self, test_topic: str) -> None:
        dead(test_topic, 3)
        chosen = replays.select(topics=[test_topic])
        job = replays.create(chosen, start=False)
        foreman = Foreman()

        foreman.round()

        assert (job.state, job.total) == ("frozen", 3)
        assert bus.stats(test_topic)["dead"] == 3
        started = replays.resume(job.id, replays.paced(rate=5_000))
        assert (started.state, started.pace.rate) == ("running", 5_000)
        wait_until(lambda: foreman.round() and not bus.stats(test_topic)["dead"])

    def test_one_that_nobody_starts_is_dropped(
        self,
        test_topic: str,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        dead(test_topic, 3)
        job = replays.create(replays.select(topics=[test_topic]), start=False)
        monkeypatch.setattr(replays, "UNSTARTED_S", -1)

        Foreman().round()

        with pytest.raises(replays.ReplayNotFound):
            replays.get(job.id)
        assert not list(redis_client.scan_iter("*replay*"))

    def test_unknown_ones_are_not_found(self, test_topic: str) -> None:
        for job_id in (NOBODY, "x"):
            for call in (replays.get, replays.pause, replays.cancel, replays.resume):
                with pytest.raises(replays.ReplayNotFound):
                    call(job_id)


class TestBounds:
    def test_ten_may_be_open(self, test_topic: str, redis_client: redis.Redis) -> None:
        dead(test_topic, 1)
        chosen = replays.select(topics=[test_topic])
        for _ in range(record.OPEN_MOST):
            replays.create(chosen, start=False)
        names = set(redis_client.scan_iter("*replay*"))

        with pytest.raises(errors.Conflict, match="10 bulk replays are open"):
            replays.create(chosen)

        assert set(redis_client.scan_iter("*replay*")) == names

    def test_looks_make_room_first_ones_own_then_what_others_left_for_a_newer_one(
        self, test_topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(room, "_SETTLED_MS", 0)
        dead(test_topic, 1)

        def look(by: str) -> str:
            chosen = replays.select(topics=[test_topic])
            return replays.create(chosen, by=by, start=False).id

        runs = [created(test_topic).id for _ in range(6)]
        ann, bob = [look("ann") for _ in range(3)], look("bob")

        bob_again, cid = look("bob"), look("cid")

        kept = {job.id for job in replays.list_jobs()}
        assert bob not in kept
        assert kept == {*runs, *ann[1:], bob_again, cid}

    def test_what_is_about_to_start_and_the_newest_look_of_others_stay(
        self, test_topic: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dead(test_topic, 1)
        chosen = replays.select(topics=[test_topic])
        for _ in range(record.OPEN_MOST - 1):
            created(test_topic)
        last = replays.create(chosen, by="ann", start=False)

        with pytest.raises(errors.Conflict):  # it is no 5 s old
            replays.create(chosen, by="ann")
        monkeypatch.setattr(room, "_SETTLED_MS", 0)
        with pytest.raises(errors.Conflict):
            replays.create(chosen, by="bob")

        assert replays.get(last.id).state == "frozen"

    def test_one_that_was_cancelled_makes_room(
        self, test_topic: str, redis_client: redis.Redis
    ) -> None:
        """It would be followed until the tasks it replayed have ended."""
        dead(test_topic, 12)
        job = created(test_topic, canary=True)
        Foreman().round()
        chosen = replays.select(topics=[test_topic])
        for _ in range(record.OPEN_MOST - 1):
            replays.create(chosen, start=False)
        replays.cancel(job.id)

        assert created(test_topic).state == "running"

    def test_the_newest_are_kept(
        self,
        test_topic: str,
        redis_client: redis.Redis,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(record, "KEEP", 2)
        foreman, desk, jobs = Foreman(), Desk(test_topic), []
        for n in range(4):
            dead(test_topic, 1, start=n)
            jobs.append(created(test_topic))
            foreman.round()
            desk.complete(desk.one())
            driven(foreman, jobs[-1])

        kept = [job.id for job in replays.list_jobs()]
        assert kept == [job.id for job in jobs[:1:-1]]
        assert not list(redis_client.scan_iter(f"*{jobs[0].id}*"))

    def test_every_key_of_it_ends_by_itself(
        self, test_topic: str, redis_client: redis.Redis
    ) -> None:
        dead(test_topic, 3)
        bus.discard(dead(test_topic, 1, start=3)[0], test_topic)
        job = created(test_topic, canary=True)
        foreman, desk = Foreman(), Desk(test_topic)
        foreman.round()
        desk.fail(desk.one(), final=True)
        driven(foreman, job, "stopped")

        names = list(redis_client.scan_iter(f"*{job.id}*"))

        assert len(names) == 4  # the record, todo, facts, told; no outcome is open
        ttls = [int(redis_client.ttl(name)) for name in names]  # type: ignore[arg-type]
        assert all(0 < ttl <= record.KEEP_S for ttl in ttls)


def test_a_key_of_a_wrong_type_stops_it_and_says_so(
    test_topic: str, redis_client: redis.Redis
) -> None:
    dead(test_topic, 3)
    key = f"mesh:{{{test_topic}}}:counters"
    kept = redis_client.hgetall(key)
    redis_client.delete(key)
    redis_client.set(key, "not ours")
    job = created(test_topic)

    job = driven(Foreman(), job, "stopped")

    assert "another kind of value" in job.why, job.why
    redis_client.delete(key)
    redis_client.hset(key, mapping=kept)  # type: ignore[arg-type]
    assert bus.stats(test_topic)["dead"] == 3
