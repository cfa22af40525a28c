"""A stream under whose last possible id somebody wrote takes nothing more: a verb is
refused whole, and says where."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import auditor, keys, refusals, scripts
from tests.integration.test_wrong_types import VERBS, dumped
from tests.support.desk import Desk
from tests.support.keyspace import wounds
from tests.support.town import Town, build_town

LAST = "18446744073709551615-18446744073709551615"
STREAMS = ("tasks_stream", "results", "dead", "bin")


MORE: dict[str, Callable[[Town, Desk], Any]] = {
    "complete many": lambda t, d: d.complete(*d.recover()),
    "send many": lambda t, d: bus.enqueue_many(t.topic, range(9)),
    "purge": lambda t, d: bus.purge_topic(t.topic),
    "release what is cancelled": lambda t, d: d.release(*d.recover()),
    "its time comes": lambda t, d: scripts.run("promote", t.topic, [100]),
}
READY: dict[str, Callable[[Town, Desk], Any]] = {
    "complete many": lambda t, d: d.claim(9),
    "release what is cancelled": lambda t, d: bus.cancel(t.running, t.topic),
    "its time comes": lambda t, d: t.client.zadd(t.key("delayed"), {t.delayed: 1}),
}
# What no stream at its end keeps from its work.
FREE = {"settle", "make the group", "ack"}


@pytest.mark.parametrize("verb", [*VERBS, *MORE])
def test_no_verb_stops_half_way(
    redis_client: redis.Redis, test_topic: str, verb: str
) -> None:
    refused = []
    for name in STREAMS:
        redis_client.flushall()
        town = build_town(redis_client, test_topic)
        desk = Desk(test_topic)
        READY.get(verb, lambda t, d: None)(town, desk)
        redis_client.sadd(keys.TOPICS, test_topic)
        redis_client.xadd(town.key(name), {"by": "hand"}, id=LAST)
        before = dumped(redis_client)
        try:
            (VERBS | MORE)[verb](town, desk)
        except bus.BusError as exc:
            assert isinstance(exc, refusals.DamagedKey), exc
            assert exc.key in (town.key(name), "")
            refused.append(name)
            after = dumped(redis_client)
            assert after == before, name
    assert bool(refused) == (verb not in FREE)


@pytest.mark.parametrize("verb", [*VERBS, *MORE])
def test_no_verb_takes_a_task_from_its_place_for_a_stream_whose_end_was_deleted(
    redis_client: redis.Redis, test_topic: str, verb: str
) -> None:
    """No look ahead sees that end, so what may be refused is written first."""
    for name in ("tasks_stream", "results", "dead"):
        redis_client.flushall()
        town = build_town(redis_client, test_topic)
        desk = Desk(test_topic)
        READY.get(verb, lambda t, d: None)(town, desk)
        redis_client.sadd(keys.TOPICS, test_topic)
        redis_client.xadd(town.key(name), {"by": "hand"}, id=LAST)
        redis_client.xdel(town.key(name), LAST)
        before = dumped(redis_client)
        try:
            (VERBS | MORE)[verb](town, desk)
        except refusals.DamagedKey:
            after = dumped(redis_client)
            changed = {
                each for each in before | after if before.get(each) != after.get(each)
            }
            # A line of history too many; a due time that the audit makes now.
            assert changed <= {town.key("attempts"), town.key("delayed")}, name
        for task_id in (town.waiting, town.delayed, town.running, town.dead):
            assert bus.get_task(task_id, test_topic).id == task_id, name


def test_a_log_at_its_end_stops_nobody(
    redis_client: redis.Redis, test_topic: str
) -> None:
    town, desk = build_town(redis_client, test_topic), Desk(test_topic)
    redis_client.xadd(town.key("events"), {"by": "hand"}, id=LAST)

    bus.cancel(town.waiting, test_topic)
    bus.run_now(town.delayed, test_topic)
    bus.replay(town.dead, test_topic)
    desk.fail(desk.recover()[0], final=True)

    assert bus.get_task(town.running, test_topic).state == "dead"
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


@pytest.mark.parametrize("deleted", [False, True])
@pytest.mark.parametrize("name", [*STREAMS, "events"])
def test_the_audit_gives_it_ids_of_this_time_again(
    redis_client: redis.Redis, test_topic: str, name: str, deleted: bool
) -> None:
    town, desk = build_town(redis_client, test_topic), Desk(test_topic)
    held = [item.fence for item in desk.recover()]
    redis_client.xadd(town.key(name), {"json": '"by hand"'}, id=LAST)
    if deleted:
        redis_client.xdel(town.key(name), LAST)

    for _ in range(3):  # facts of a stream are asked for in each eighth round
        auditor.audit(test_topic)

    found = auditor.audit(test_topic)
    assert (found.mended, found.seen) == ([], [])
    rows = redis_client.xrange(town.key(name))
    assert all(int(sid.partition("-")[0]) < 10**13 for sid, _ in rows)  # type: ignore[union-attr]
    by_hand = [fields for _, fields in rows if fields == {"json": '"by hand"'}]  # type: ignore[union-attr]
    assert len(by_hand) == (not deleted)
    redis_client.xadd(town.key(name), {"one": "more"})
    redis_client.xdel(town.key(name), redis_client.xrevrange(town.key(name))[0][0])  # type: ignore[index]
    # Nobody lost what it had in hand, no letter its place.
    assert [item.fence for item in desk.recover()] == held
    assert desk.complete(*desk.recover()) == ["ok"]
    assert bus.get_dead(town.dead, test_topic).id == town.dead


def test_a_topic_goes_on_behind_an_entry_at_its_end(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Also where it was read, and its task is in somebody's hand."""
    town, desk = build_town(redis_client, test_topic), Desk(test_topic)
    redis_client.xadd(town.key("tasks_stream"), {"json": '"by hand"'}, id=LAST)
    mine = [*desk.recover(), *desk.claim(9)]
    assert "by hand" in [item.json.strip('"') for item in mine]

    for _ in range(3):
        auditor.audit(test_topic)
    after = bus.enqueue_task(test_topic, "after")
    desk.complete(*mine)
    rest = desk.claim(9)
    desk.complete(*rest)

    assert bus.get_task(after, test_topic).state == "done"
    assert bus.stats(test_topic)["waiting"] == bus.stats(test_topic)["running"] == 0
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_no_letter_is_lost_while_the_audit_cannot_write_one(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Letters are gone whose stream takes no new one, and the index that names them
    waits. Its end was deleted, so only the facts of the stream tell of it."""
    desk = Desk(test_topic)
    ids = bus.enqueue_many(test_topic, range(5))
    for item in desk.claim(5):
        desk.fail(item, final=True)
    auditor.audit(test_topic)
    stream = bus.dead_stream(test_topic)
    rows: Any = redis_client.xrange(stream)
    redis_client.xadd(stream, {"by": "hand"}, id=LAST)
    redis_client.xdel(stream, LAST, *(sid for sid, _ in rows[:3]))

    with contextlib.suppress(bus.BusError):
        auditor.audit(test_topic)
    auditor.audit(test_topic)

    letters = {each.id: each.error["reason"] for each in bus.list_dead(test_topic, 10)}
    assert sorted(letters) == sorted(ids)
    assert [letters[i] for i in ids].count("lost") == 3
    assert wounds(redis_client, test_topic) == []


def test_a_task_is_given_up_once_its_letter_can_be_written(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """Its payload is gone, and the stream of dead letters takes none."""
    desk = Desk(test_topic)
    ids = bus.enqueue_many(test_topic, range(3))
    for item in desk.claim(1):
        desk.fail(item, final=True)
    stream = bus.dead_stream(test_topic)
    redis_client.xadd(stream, {"by": "hand"}, id=LAST)
    redis_client.xdel(stream, LAST)
    redis_client.delete(bus.task_stream(test_topic))

    for _ in range(2):
        auditor.audit(test_topic)

    letters = {each.id: each.error["reason"] for each in bus.list_dead(test_topic, 10)}
    assert sorted(letters) == sorted(ids)
    assert [letters[i] for i in ids].count("lost") == 2
    assert wounds(redis_client, test_topic) == []


def test_a_letter_is_brought_back_whose_row_was_given_another_id(
    redis_client: redis.Redis, test_topic: str
) -> None:
    """The bin names the row of the discard by the id that it had first."""
    town = build_town(redis_client, test_topic)
    redis_client.xadd(town.key("results"), {"by": "hand"}, id="9999999999999999-0")
    rows = redis_client.xlen(town.key("results"))
    bus.discard(town.dead, test_topic)
    for _ in range(3):
        auditor.audit(test_topic)

    bus.undo(town.dead, test_topic)

    assert bus.get_task(town.dead, test_topic).state == "dead"
    assert redis_client.xlen(town.key("results")) == rows
    assert wounds(redis_client, test_topic) == []


@pytest.mark.parametrize("sid", ["1-1", "9999999999999999-0"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_that_cannot_be_written_anew_keeps_all_it_has(
    redis_client: redis.Redis, test_topic: str, name: str, sid: str
) -> None:
    """Until somebody takes out what is in the way."""
    town = build_town(redis_client, test_topic)
    stream = town.key(name)
    wide: Any = {f"field {n}": n for n in range(4_500)}
    held: Any = redis_client.xrange(stream)
    redis_client.delete(stream)
    redis_client.xadd(stream, wide, id=sid)
    for each, fields in held if sid == "1-1" else []:
        redis_client.xadd(stream, fields, id=each)
    redis_client.xadd(stream, {"by": "hand"}, id=LAST)
    before = redis_client.xrange(stream)

    with pytest.raises(bus.BusError, match=f"{sid} has more fields than one call"):
        renumber(test_topic, stream)

    assert redis_client.xrange(stream) == before
    redis_client.xdel(stream, sid)
    renumber(test_topic, stream)
    assert redis_client.xlen(stream) == len(before) - 1  # type: ignore[arg-type]
    redis_client.xadd(stream, {"one": "more"})


def test_what_was_put_aside_is_never_deleted(
    redis_client: redis.Redis, test_topic: str
) -> None:
    town = build_town(redis_client, test_topic)
    stream, aside = town.key("results"), keys.group_key(test_topic, "aside")
    redis_client.xadd(aside, {"by": "an earlier attempt"})
    redis_client.xadd(stream, {"by": "hand"}, id=LAST)

    with pytest.raises(bus.BusError, match="what it held before is still in"):
        renumber(test_topic, stream)

    assert redis_client.xlen(aside) == 1
    assert redis_client.xrevrange(stream, count=1)[0][0] == LAST  # type: ignore[index]


def renumber(topic: str, stream: str) -> None:
    auditor._renumber(topic, [stream], auditor.Findings())
