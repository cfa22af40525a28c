"""Records and books torn out together: what has its payload runs, the rest is told."""

from __future__ import annotations

import pytest
import redis

import bus
from bus import auditor, keys
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds
from tests.support.waiting import wait_until

FORGED = {"id": "0198c0de-0000-7000-8000-00000000abcd", "json": "1", "meta": ""}


def tear(client: redis.Redis, topic: str, *names: str) -> None:
    client.delete(*(keys.named(name, topic) for name in names))


def open_wounds(client: redis.Redis, topic: str) -> list[str]:
    """Without the ledger: counts that somebody deleted, only a person can settle."""
    return [w for w in wounds(client, topic) if not w.startswith("the ledger")]


def sent(topic: str, later: int = 0) -> set[str]:
    """Ids of tasks that wait, and of some that are for later."""
    ids = bus.enqueue_many(topic, range(120))
    return {*ids, *(bus.enqueue_task(topic, n, delay_s=600) for n in range(later))}


@pytest.mark.parametrize("first", ["the audit", "a sender", "a reader"])
def test_tasks_whose_records_and_books_are_gone_are_adopted(
    test_topic: str, redis_client: redis.Redis, first: str
) -> None:
    """Whoever comes first to the new books: the others are still believed."""
    ids = sent(test_topic, later=5)
    bus.create_consumer_group(test_topic, GROUP)
    tear(redis_client, test_topic, "tasks", "counters")
    claimed: set[str] = set()

    if first == "a sender":
        ids.add(bus.enqueue_task(test_topic, "since"))
    elif first == "a reader":
        redis_client.xadd(bus.task_stream(test_topic), {"json": '"by hand"'})
        claimed = {item.id for item in Desk(test_topic).claim(100)}
    found = auditor.audit(test_topic)

    live, _ = bus.list_tasks(test_topic, "waiting", count=1000)
    late, _ = bus.list_tasks(test_topic, "delayed", count=1000)
    assert ids <= claimed | {task.id for task in (*live, *late)}
    assert len(late) == 5
    assert not [told for told in found.mended if told.startswith(("entry", "payload"))]
    assert open_wounds(redis_client, test_topic) == []


def test_agents_run_them_all_even_before_the_audit(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = sent(test_topic)
    tear(redis_client, test_topic, "tasks", "counters")
    ids.add(bus.enqueue_task(test_topic, "since"))

    with agents.running(test_topic, work.echo):
        wait_until(lambda: bus.stats(test_topic)["results"] == len(ids), 30)

    assert {bus.get_task(task_id, test_topic).state for task_id in ids} == {"done"}


@pytest.mark.parametrize("since", [False, True])
def test_records_whose_payload_and_books_are_gone_are_letters_that_say_so(
    test_topic: str, redis_client: redis.Redis, since: bool
) -> None:
    ids = sent(test_topic, later=3)
    tear(redis_client, test_topic, "tasks_stream", "parked", "counters")
    if since:
        bus.enqueue_task(test_topic, "since")

    auditor.audit(test_topic)

    lost = {
        x.id for x in bus.list_dead(test_topic, 1000) if x.error["reason"] == "lost"
    }
    assert lost == ids
    assert bus.stats(test_topic)["backlog"] == since
    assert open_wounds(redis_client, test_topic) == []


@pytest.mark.parametrize("end", ["done", "dead"])
def test_what_ended_runs_no_more_whatever_the_books_say(
    test_topic: str, redis_client: redis.Redis, end: str
) -> None:
    """An entry of its own, copied before it ended."""
    desk = Desk(test_topic)
    task_id = bus.enqueue_task(test_topic, 1)
    stream = bus.task_stream(test_topic)
    [(_, fields)] = redis_client.xrange(stream)  # type: ignore[misc]
    item = desk.one()
    desk.complete(item) if end == "done" else desk.fail(item, final=True)
    tear(redis_client, test_topic, "tasks", "counters")
    for _ in range(2):
        redis_client.xadd(stream, fields)

    claimed = desk.claim(1)
    redis_client.xadd(stream, fields)
    auditor.audit(test_topic)

    assert claimed == []
    assert redis_client.xlen(stream) == 0
    assert bus.get_task(task_id, test_topic).state == end


def test_a_forged_entry_is_not_believed_while_the_books_balance(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """Also in a topic that has never had another task but one."""
    desk = Desk(test_topic)
    bus.enqueue_task(test_topic, 1)
    desk.complete(desk.one())
    redis_client.xadd(bus.task_stream(test_topic), dict(FORGED))

    assert desk.claim(1) == []
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_books_that_count_too_few_believe_what_they_find(
    test_topic: str, redis_client: redis.Redis
) -> None:
    ids = sent(test_topic)
    redis_client.hset(keys.named("counters", test_topic), "accepted", "1")
    kept = next(iter(ids))
    redis_client.hdel(keys.named("tasks", test_topic), *(ids - {kept, *list(ids)[:3]}))

    auditor.audit(test_topic)

    assert bus.stats(test_topic)["backlog"] == len(ids)
