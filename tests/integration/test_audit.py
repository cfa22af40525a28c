"""The audit finds every wound in a topic's data, closes what it can, tells the rest."""

from __future__ import annotations

import io
import logging

import pytest
import redis
from django.core.management import CommandError, call_command
from pytest_django import Settings

import bus
from bus import agents as agents_of
from bus import auditor, health, janitor, keys
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds
from tests.support.pulse import Steady
from tests.support.town import SABOTAGE, Town, build_town
from tests.support.waiting import wait_until

# Rows that agents by hand write look the same; a count says nothing of who is missing.
ONLY_TOLD = {"a count too many", "a count too few"}
LEGAL = {"a result twice", "a result of a task that ended never"}


@pytest.fixture
def town(redis_client: redis.Redis, test_topic: str) -> Town:
    return build_town(redis_client, test_topic)


def never(topic: str, exc: Exception) -> None:
    """Nothing goes wrong."""
    raise exc


def key(topic: str, name: str) -> str:
    return keys.named(name, topic)


def test_a_whole_topic_is_left_alone(town: Town) -> None:
    before = {name: town.client.dump(name) for name in town.client.scan_iter()}

    found = auditor.audit(town.topic)

    after = {name: town.client.dump(name) for name in before}
    assert (found.mended, found.seen, found.drift) == ([], [], 0)
    assert after == before
    assert bus.stats(town.topic)["repaired"] == 0


@pytest.mark.parametrize("name", [n for n in SABOTAGE if n not in ONLY_TOLD | LEGAL])
def test_every_wound_is_closed(town: Town, name: str) -> None:
    SABOTAGE[name](town)

    found = auditor.audit(town.topic)

    assert found.mended
    assert found.seen == []
    assert wounds(town.client, town.topic) == []
    assert bus.stats(town.topic)["repaired"] == len(found.mended)
    assert auditor.audit(town.topic).mended == []


@pytest.mark.parametrize("name", sorted(ONLY_TOLD))
def test_a_ledger_that_is_off_is_an_alarm_that_is_raised_once(
    town: Town, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "bus.auditor")
    SABOTAGE[name](town)

    found = auditor.audit(town.topic)
    auditor.audit(town.topic)

    assert found.drift == 1
    assert len([r for r in caplog.records if "off by +1" in r.getMessage()]) == 1


# --- whole keys gone

KEYS_GONE = {
    # What is still there is restored: every task ends in the end.
    "tasks": 4,
    "delayed": 4,
    "dead_index": 4,
    "done": 4,
    "errors": 4,
    "attempts": 4,
    "settings": 4,
    "events": 4,
    "minutes": 4,
    # Payloads are gone: the tasks become letters.
    "tasks_stream": 2,
    "parked": 2,
    "dead": 4,
}


@pytest.mark.parametrize("name", KEYS_GONE)
def test_a_deleted_key_strands_no_task(town: Town, name: str) -> None:
    town.client.delete(town.key(name))

    auditor.audit(town.topic)

    assert wounds(town.client, town.topic) == []
    standing = bus.stats(town.topic)
    assert standing["backlog"] == KEYS_GONE[name]
    assert standing["dead"] == 5 - KEYS_GONE[name]
    for task_id in (town.waiting, town.delayed, town.retried, town.running, town.dead):
        assert bus.get_task(task_id, town.topic).state != "unknown"


@pytest.mark.parametrize("name", [*KEYS_GONE, "audit", "hours", "bin", "seen0"])
def test_a_key_of_the_wrong_type_stops_the_topic_for_a_moment_only(
    town: Town, name: str
) -> None:
    town.client.delete(town.key(name))
    town.client.set(town.key(name), "not ours")

    auditor.audit(town.topic)
    bus.create_consumer_group(town.topic, GROUP)
    task_id = bus.enqueue_task(town.topic, "after")

    assert wounds(town.client, town.topic) == []
    assert bus.get_task(task_id, town.topic).state == "waiting"


def test_a_topic_whose_records_are_gone_runs_every_task_all_the_same(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Even before the audit: a claim believes an entry while the books miss it."""
    ids = bus.enqueue_many(test_topic, range(150))
    redis_client.delete(key(test_topic, "tasks"))

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 150, 20)

    assert wounds(redis_client, test_topic) == []
    assert bus.get_task(ids[-1], test_topic).result == 149
    assert bus.stats(test_topic)["repaired"] == 150


def test_a_copy_by_hand_is_not_believed_while_the_books_miss_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    fields = {"id": "0198c0de-0000-7000-8000-00000000abcd", "json": "1", "meta": ""}
    redis_client.xadd(key(test_topic, "tasks_stream"), fields)

    found = auditor.audit(test_topic)

    assert found.mended == [f"entry {fields['id']}"]
    assert bus.stats(test_topic)["waiting"] == 1


def test_a_forged_entry_takes_nobodys_place(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """A deleted letter leaves the books one short; what comes first is not its task."""
    desk = Desk(test_topic)
    dead = bus.enqueue_task(test_topic, "dies")
    desk.fail(desk.one(), final=True)
    redis_client.delete(key(test_topic, "dead"))
    fields = {"id": "0198c0de-0000-7000-8000-00000000abcd", "json": "1", "meta": ""}
    redis_client.xadd(key(test_topic, "tasks_stream"), fields)
    desk.complete(desk.one())

    found = auditor.audit(test_topic)

    assert f"lost {dead}" in found.mended
    assert bus.get_dead(dead, test_topic).error["reason"] == "lost"
    assert (found.drift, bus.stats(test_topic)["adopted"]) == (0, 1)
    assert wounds(redis_client, test_topic) == []


def test_a_forged_entry_among_lost_records_costs_none_of_them_its_run(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    fields = {"id": "0198c0de-0000-7000-8000-00000000abcd", "json": "1", "meta": ""}
    redis_client.xadd(key(test_topic, "tasks_stream"), fields)
    ids = bus.enqueue_many(test_topic, range(5))
    redis_client.delete(key(test_topic, "tasks"))

    claimed = {item.id for item in Desk(test_topic).claim(10)}

    assert claimed == {*ids, fields["id"]}
    assert auditor.audit(test_topic).drift == 0


def test_a_record_nobody_sent_costs_no_task_whose_payload_is_lost_its_letter(
    town: Town,
) -> None:
    """Of two records without payload, the one whose task ended is too many."""
    town.client.xtrim(town.key("tasks_stream"), maxlen=0, approximate=False)
    town.client.hset(town.key("tasks"), town.done, "1-1|0|0|0|0||")

    auditor.audit(town.topic)

    assert bus.get_task(town.running, town.topic).state == "dead"
    assert bus.get_task(town.waiting, town.topic).state == "dead"
    assert bus.get_task(town.done, town.topic).state == "done"
    assert wounds(town.client, town.topic) == []


def test_letters_moved_by_hand_come_back_under_their_own_ids(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Each is in the index under its entry as well, which is the id of no task."""
    bus.create_consumer_group(test_topic, GROUP)
    ids = bus.enqueue_many(test_topic, range(20))
    rows = bus.read_group(test_topic, GROUP, "by hand", count=20)
    for sid, fields in rows:
        bus.move_to_dead(test_topic, sid, fields["payload"])
    redis_client.delete(key(test_topic, "dead"))

    auditor.audit(test_topic)

    assert {letter.id for letter in bus.list_dead(test_topic, 100)} == set(ids)
    assert wounds(redis_client, test_topic) == []


def test_a_letters_second_name_of_an_older_version_is_marked(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    bus.enqueue_task(test_topic, 1)
    [(sid, _)] = bus.read_group(test_topic, GROUP, "by hand")
    dead_id = bus.move_to_dead(test_topic, sid, 1)
    name = keys.foreign_id(test_topic, sid)
    index = key(test_topic, "dead_index")
    redis_client.hdel(index, f"alias:{name}")
    redis_client.hset(index, name, dead_id)

    found = auditor.audit(test_topic)

    assert found.mended == []
    assert redis_client.hget(index, f"alias:{name}") == dead_id
    assert bus.move_to_dead(test_topic, sid, 1) == dead_id
    assert wounds(redis_client, test_topic) == []


# --- groups and consumers


def test_tasks_of_a_deleted_consumer_are_handed_over(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(3))
    items = desk.claim(3)
    redis_client.xgroup_delconsumer(
        key(test_topic, "tasks_stream"), GROUP, desk.consumer
    )

    found = auditor.audit(test_topic)

    assert len(found.mended) == 3
    assert desk.complete(*items) == ["fenced"] * 3
    again = desk.claim(3)
    assert [item.id for item in again] == [item.id for item in items]
    assert desk.complete(*again) == ["ok"] * 3


def test_a_task_whose_consumer_is_deleted_each_time_is_dead_in_the_end(
    test_topic: str, redis_client: redis.Redis, settings: Settings
) -> None:
    settings.MESH_SUSPECT_AFTER = 100
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, "again")
    for _ in range(5):
        desk.one()
        redis_client.xgroup_delconsumer(
            key(test_topic, "tasks_stream"), GROUP, desk.consumer
        )
        auditor.audit(test_topic)

    letter = bus.get_dead(task_id, test_topic)
    assert (letter.error["type"], letter.payload) == ("Poison", "again")


def test_a_bare_xack_ends_no_task(test_topic: str, redis_client: redis.Redis) -> None:
    bus.create_consumer_group(test_topic, GROUP)
    task_id = bus.enqueue_task(test_topic, 1)
    [(sid, _)] = bus.read_group(test_topic, GROUP, "by hand", block_ms=0)
    redis_client.xack(key(test_topic, "tasks_stream"), GROUP, sid)

    auditor.audit(test_topic)

    [(again, fields)] = bus.read_group(test_topic, GROUP, "by hand", block_ms=0)
    assert (again, fields["id"]) == (sid, task_id)
    assert bus.ack(test_topic, GROUP, again) == 1


def test_a_destroyed_group_strands_no_task(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(20))
    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["done"] == 20, 20)
        redis_client.xgroup_destroy(key(test_topic, "tasks_stream"), "default")
        redis_client.delete(key(test_topic, "settings"))
        ids += bus.enqueue_many(test_topic, range(20))
        wait_until(lambda: bus.stats(test_topic)["done"] == 40, 20)

    assert auditor.audit(test_topic).drift == 0
    assert wounds(redis_client, test_topic) == []


def test_the_working_group_is_found_again_by_its_agents(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.create_consumer_group(test_topic, "watchers", observe=True)
    bus.enqueue_task(test_topic, 1)
    desk.one()
    redis_client.delete(key(test_topic, "settings"))

    auditor.audit(test_topic)

    assert bus.stats(test_topic)["group"] == GROUP


def test_who_only_looks_does_not_hide_it_whatever_its_name(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.create_consumer_group(test_topic, "watchers", observe=True)
    bus.enqueue_task(test_topic, 1)
    desk.one()
    for name in ("watch#1", "watch~"):
        stream = bus.task_stream(test_topic)
        redis_client.xgroup_createconsumer(stream, "watchers", name)
    redis_client.delete(key(test_topic, "settings"))
    redis_client.hdel(key(test_topic, "counters"), "group")

    auditor.audit(test_topic)

    assert bus.stats(test_topic)["group"] == GROUP


# --- lost payloads


def test_a_lost_payload_becomes_a_letter_that_says_so(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(30))
    redis_client.xtrim(key(test_topic, "tasks_stream"), maxlen=0, approximate=False)

    auditor.audit(test_topic)

    assert bus.stats(test_topic)["dead"] == 30
    letter = bus.get_dead(ids[7], test_topic)
    assert (letter.error["type"], letter.error["reason"]) == ("Lost", "lost")
    assert letter.payload is None
    [group] = bus.dead_groups(test_topic)
    assert group["count"] == 30


def test_a_lost_task_is_replayed_with_a_new_payload(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    redis_client.delete(key(test_topic, "tasks_stream"))
    auditor.audit(test_topic)

    bus.replay(task_id, test_topic, payload=21)

    with agents.running(test_topic, work.echo):
        assert bus.wait_result(task_id, test_topic, timeout_s=10).result == 21


def test_a_record_in_a_foreign_shape_finds_its_entry_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = bus.enqueue_many(test_topic, range(3))
    late = bus.enqueue_task(test_topic, 3, delay_s=60)
    texts = ["", "x|0|0|0|0||", "1-1", "x|y"]
    for task_id, text in zip([*ids, late], texts, strict=True):
        redis_client.hset(key(test_topic, "tasks"), task_id, text)
    redis_client.hset(key(test_topic, "tasks"), "no id at all", "1")

    auditor.audit(test_topic)

    standing = bus.stats(test_topic)
    assert (standing["waiting"], standing["delayed"]) == (3, 1)
    assert wounds(redis_client, test_topic) == []


def test_a_record_that_nobody_sent_is_taken_out(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    forged = "0198c0de-0000-7000-8000-00000000abcd"
    redis_client.hset(key(test_topic, "tasks"), forged, "1-1|0|0|0|0||")

    found = auditor.audit(test_topic)

    assert (found.mended, found.drift) == ([f"record {forged}"], 0)
    assert bus.stats(test_topic)["dead"] == 0


# --- the duty


def test_janitors_do_it_without_being_asked(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_TICK_S", 0.05)
    monkeypatch.setattr(auditor, "PACE_MS", 40)
    ids = bus.enqueue_many(test_topic, range(500))
    redis_client.xtrim(key(test_topic, "tasks_stream"), maxlen=100, approximate=False)
    duty = janitor.Janitor("me#00000001", Steady())

    duty.start()
    try:
        wait_until(lambda: bus.stats(test_topic)["dead"] == 400, 15)
    finally:
        duty.close()
        duty.join()

    assert bus.get_task(ids[0], test_topic).state == "dead"
    assert bus.get_task(ids[-1], test_topic).state == "waiting"


def test_a_mistake_of_ours_in_one_topic_leaves_the_others_audited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def mistaken(topic: str, _: str) -> None:
        raise LookupError(topic)

    monkeypatch.setattr(auditor, "_pace", mistaken)
    told: list[str] = []

    auditor.tick(["first", "second"], lambda topic, _: told.append(topic))

    assert sorted(told) == ["first", "first", "second", "second"]


def test_many_janitors_walk_one_walk(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(1_000))

    for _ in range(10):
        auditor.tick([test_topic], never)

    assert redis_client.hget(key(test_topic, "audit"), "live.place") == "1"
    assert redis_client.hget(key(test_topic, "audit"), "live.at") not in (None, "0")


@pytest.mark.parametrize("clock", ["back", "ahead"])
def test_a_clock_that_was_set_back_does_not_stop_the_walk(
    test_topic: str, redis_client: redis.Redis, clock: str
) -> None:
    bus.enqueue_task(test_topic, 1)
    auditor.tick([test_topic], never)
    before = redis_client.hget(key(test_topic, "audit"), "live.round")
    hour_ms = 3_600_000 if clock == "back" else -3_600_000
    redis_client.hincrby(key(test_topic, "audit"), "live.next", hour_ms)

    auditor.tick([test_topic], never)

    assert redis_client.hget(key(test_topic, "audit"), "live.round") != before


# --- where it is told


def check(topic: str) -> health.Check:
    [found] = [c for c in health.checks() if c.name == f"topic {topic}"]
    return found


def test_doctor_tells_of_repairs_for_a_day(town: Town) -> None:
    SABOTAGE["a forgotten due time"](town)
    auditor.audit(town.topic)

    standing = bus.stats(town.topic)
    told = check(town.topic)

    assert standing["repaired"] == 1
    assert standing["repaired_at"] is not None
    assert (told.status, told.word) == ("warn", "repaired")
    assert standing["repaired_at"] in told.says
    town.client.hset(town.key("counters"), "repaired_at", "1732287600000")
    assert check(town.topic).status != "bad"
    assert "repaired" not in check(town.topic).says


def test_a_task_in_two_states_is_an_alarm_until_somebody_chose(town: Town) -> None:
    result = town.client.xadd(
        town.key("results"), {"id": town.running, "json": '{"by": "hand"}'}
    )
    ms, seq = str(result).split("-")
    score = int(ms) * 4096 + int(seq)
    town.client.zadd(town.key("done"), {town.running: score})

    found = auditor.audit(town.topic)

    assert (found.mended, found.seen) == ([], [f"live and done {town.running}"])
    assert bus.stats(town.topic)["unmended"] == 1
    assert (check(town.topic).status, check(town.topic).word) == ("bad", "unmended")
    out = io.StringIO()
    with pytest.raises(CommandError, match="1 task is in two states at once"):
        call_command("topics", town.topic, "--audit", stdout=out)
    assert f"not mended: live and done {town.running}" in out.getvalue()
    town.client.zrem(town.key("done"), town.running)
    auditor.audit(town.topic)
    assert bus.stats(town.topic)["unmended"] == 0


# --- what all topics share


@pytest.mark.parametrize("name", [keys.TOPICS, keys.AGENTS, keys.GONE])
@pytest.mark.parametrize("how", ["deleted", "of the wrong type"])
def test_the_mesh_goes_on_when_a_shared_list_is_lost(
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    how: str,
) -> None:
    monkeypatch.setattr(janitor, "_TICK_S", 0.1)
    with agents.running(test_topic, work.echo, agent_id="echo-1"):
        wait_until(lambda: redis_client.exists(key(test_topic, "audit")), 10)
        redis_client.delete(name)
        if how != "deleted":
            redis_client.set(name, "not ours")
        wait_until(lambda: stands(test_topic), 10)
        task_id = bus.enqueue_task(test_topic, 1, delay_s=0.01)

        assert bus.wait_result(task_id, test_topic, timeout_s=10).result == 1


def stands(topic: str) -> bool:
    """Whether the topic is listed and its agent is there."""
    try:
        there = [row["agent_id"] for row in agents_of.overview()]
        return bus.list_topics() == [topic] and there == ["echo-1"]
    except bus.BusError:
        return False


def test_a_duty_that_fails_is_told_once(
    test_topic: str, redis_client: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    bus.enqueue_task(test_topic, 1)
    duty = janitor.Janitor("me#00000001", Steady())

    for _ in range(3):
        duty._say(test_topic, bus.BusError("odd"))
        duty._say(test_topic, bus.BusUnavailable("away"))

    said = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert said == [f"janitor: {test_topic}: odd"]
