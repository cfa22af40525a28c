"""Topics are emptied and deleted; every task that goes ends, none just vanishes."""

from __future__ import annotations

import io
import threading
from typing import Any

import pytest
import redis
from django.core.management import CommandError, call_command

import bus
from bus import auditor, errors, janitor, keys, scripts
from tests.support import agents, work
from tests.support.desk import GROUP, Desk
from tests.support.keyspace import wounds
from tests.support.pulse import Steady
from tests.support.town import Town, build_town
from tests.support.waiting import wait_until

pytestmark = pytest.mark.django_db  # what the command does is on the audit trail


@pytest.fixture
def town(redis_client: redis.Redis, test_topic: str) -> Town:
    return build_town(redis_client, test_topic)


def states(town: Town) -> dict[str, str]:
    names = ("waiting", "delayed", "retried", "running", "dead", "done")
    return {n: bus.get_task(getattr(town, n), town.topic).state for n in names}


def keys_of(client: redis.Redis, topic: str) -> list[str]:
    return sorted(client.scan_iter(f"*{{{topic}}}*", count=1_000))


# --- purge


def test_what_waits_is_cancelled_and_the_rest_is_left(town: Town) -> None:
    counts = bus.purge_topic(town.topic)

    assert counts == {"cancelled": 3, "asked": 0, "discarded": 0}
    assert states(town) == {
        "waiting": "cancelled",
        "delayed": "cancelled",
        "retried": "cancelled",
        "running": "running",
        "dead": "dead",
        "done": "done",
    }
    assert wounds(town.client, town.topic) == []


def test_dead_letters_are_discarded_and_can_be_brought_back(town: Town) -> None:
    counts = bus.purge_topic(town.topic, "dead")

    assert counts == {"cancelled": 0, "asked": 0, "discarded": 1}
    assert states(town)["dead"] == "discarded"
    assert wounds(town.client, town.topic) == []
    bus.undo(town.dead, town.topic)
    assert states(town)["dead"] == "dead"
    assert wounds(town.client, town.topic) == []


def test_all_asks_those_that_run_to_stop_and_lets_a_completion_win(
    test_topic: str,
) -> None:
    desk = Desk(test_topic)
    first, second = bus.enqueue_many(test_topic, range(2))
    items = desk.claim(2)

    counts = bus.purge_topic(test_topic, "all")

    assert counts == {"cancelled": 0, "asked": 2, "discarded": 0}
    assert desk.complete(items[0]) == ["ok"]
    assert desk.fail(items[1]) == "cancelled"
    assert bus.get_task(first, test_topic).state == "done"
    assert bus.get_task(second, test_topic).state == "cancelled"


def test_a_purge_of_many_leaves_the_books_even(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(1_500))
    for item in desk.claim(100):
        desk.fail(item, final=True)
    # Handed over, in the stream, and letters that somebody wrote by hand.
    desk.release(*desk.claim(50))
    for n in range(3):
        redis_client.xadd(bus.dead_stream(test_topic), {"json": f'{{"payload": {n}}}'})

    counts = bus.purge_topic(test_topic, "all")

    assert counts == {"cancelled": 1_400, "asked": 0, "discarded": 100}
    standing = bus.stats(test_topic)
    assert (standing["backlog"], standing["dead"], standing["dead_groups"]) == (0, 0, 0)
    assert standing["ledger"]["drift"] == 0
    assert wounds(redis_client, test_topic) == []


def sent_meanwhile(topic: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of two tasks that come once the next purge has begun."""
    late: list[str] = []
    real = scripts.run

    def run(name: str, *args: Any, **options: Any) -> Any:
        reply = real(name, *args, **options)
        if name == "purge" and not late:
            late.append(bus.enqueue_task(topic, "late"))
            late.append(bus.enqueue_task(topic, "later", delay_s=60))
        return reply

    monkeypatch.setattr(scripts, "run", run)
    return late


def test_what_comes_while_a_topic_is_purged_stays(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_many(test_topic, range(1_000))
    late = sent_meanwhile(test_topic, monkeypatch)

    counts = bus.purge_topic(test_topic)

    assert counts["cancelled"] == 1_000
    assert [bus.get_task(i, test_topic).state for i in late] == ["waiting", "delayed"]


def test_what_somebody_else_wrote_and_nobody_read_is_cancelled_too(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, "ours")
    stream = bus.task_stream(test_topic)
    sids = [redis_client.xadd(stream, {"json": str(n)}) for n in range(250)]

    counts = bus.purge_topic(test_topic)

    assert counts == {"cancelled": 251, "asked": 0, "discarded": 0}
    tasks = [
        bus.get_task(keys.foreign_id(test_topic, str(s)), test_topic) for s in sids
    ]
    assert {task.state for task in tasks} == {"cancelled"}
    assert [task.payload for task in tasks] == [*range(250)]
    assert redis_client.xlen(stream) == 0
    assert wounds(redis_client, test_topic) == []


def test_whoever_waits_for_a_purged_task_is_told(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    found: list[bus.Task] = []
    waiter = threading.Thread(
        target=lambda: found.append(bus.wait_result(task_id, test_topic, timeout_s=10))
    )
    waiter.start()

    bus.purge_topic(test_topic)
    waiter.join()

    assert [task.state for task in found] == ["cancelled"]


@pytest.mark.parametrize("call", [bus.purge_topic, bus.delete_topic])
def test_an_unknown_topic_is_not_made(test_topic: str, call: Any) -> None:
    with pytest.raises(errors.TopicNotFound):
        call(test_topic)

    assert bus.list_topics() == []


def test_what_to_purge_is_one_of_three(town: Town) -> None:
    with pytest.raises(errors.InvalidOption, match="waiting, dead, all"):
        bus.purge_topic(town.topic, "everything")


# --- delete


def test_a_deleted_topic_leaves_no_key(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_task(test_topic, 1, idempotency_key="one")
    bus.enqueue_task(test_topic, 2, delay_s=60)
    for n in range(3):
        bus.enqueue_task(test_topic, n)
    for item in desk.claim(3):
        desk.fail(item, final=item.json == "1")
    bus.set_limits(test_topic, backlog_max=5)
    bus.enqueue_task(test_topic, 3)
    auditor.audit(test_topic)

    counts = bus.delete_topic(test_topic)

    assert counts == {"cancelled": 4, "discarded": 2}
    assert keys_of(redis_client, test_topic) == []
    assert bus.list_topics() == []


def test_a_topic_that_agents_work_on_is_not_deleted(town: Town) -> None:
    with pytest.raises(errors.TopicBusy, match="run 1 task of"):
        bus.delete_topic(town.topic)

    assert states(town)["waiting"] == "waiting"
    assert bus.list_topics() == [town.topic]


def test_by_force_a_running_task_is_torn_out(
    test_topic: str, redis_client: redis.Redis
) -> None:
    desk = Desk(test_topic)
    bus.enqueue_many(test_topic, range(3))
    items = desk.claim(2)

    counts = bus.delete_topic(test_topic, force=True)

    assert counts == {"cancelled": 3, "discarded": 0}
    assert keys_of(redis_client, test_topic) == []
    # Nobody may end a task of a topic that is gone.
    assert set(desk.complete(*items)) & {"ok", "duplicate"} == set()
    assert keys_of(redis_client, test_topic) == []


def test_a_deleted_topic_begins_anew(
    test_topic: str, redis_client: redis.Redis
) -> None:
    task_id = bus.enqueue_task(test_topic, 1, idempotency_key="key")
    bus.set_limits(test_topic, max_attempts=1)
    bus.delete_topic(test_topic)

    again = bus.enqueue_task(test_topic, 2, idempotency_key="key")

    assert again == task_id
    standing = bus.stats(test_topic)
    assert (standing["accepted"], standing["cancelled"]) == (1, 0)
    assert standing["limits"]["max_attempts"] == 5
    assert bus.list_topics() == [test_topic]
    with agents.running(test_topic, work.echo):
        assert bus.wait_result(again, test_topic, timeout_s=10).result == 2


def test_tasks_that_come_while_a_topic_is_deleted_begin_a_new_one(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """A producer that never stops loses nothing: what it sent is cancelled or there."""
    sent: list[str] = []
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            sent.extend(bus.enqueue_many(test_topic, range(20)))

    producer = threading.Thread(target=produce)
    producer.start()
    duty = janitor.Janitor("me#00000001", Steady())
    duty.start()
    try:
        cancelled = 0
        for _ in range(5):
            before = len(sent)
            wait_until(lambda before=before: len(sent) > before + 200)
            cancelled += bus.delete_topic(test_topic)["cancelled"]
    finally:
        stop.set()
        producer.join()
    wait_until(lambda: bus.list_topics() == [test_topic])
    duty.close()
    duty.join()

    assert cancelled + bus.stats(test_topic)["backlog"] == len(sent)
    assert wounds(redis_client, test_topic) == []
    assert bus.stats(test_topic)["repaired"] == 0


def test_nothing_that_somebody_else_wrote_just_vanishes(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes before the keys go begins the new topic."""
    stream = bus.task_stream(test_topic)
    for n in range(3):
        bus.enqueue_task(test_topic, n)
        redis_client.xadd(stream, {"json": '"before"'})
    real = scripts.run

    def run(name: str, *args: Any, **options: Any) -> Any:
        if name == "wipe":
            redis_client.xadd(stream, {"json": '"meanwhile"'})
        return real(name, *args, **options)

    monkeypatch.setattr(scripts, "run", run)

    counts = bus.delete_topic(test_topic)

    assert counts == {"cancelled": 6, "discarded": 0}
    assert bus.list_topics() == [test_topic]
    [item] = Desk(test_topic).claim(5)
    assert item.json == '"meanwhile"'
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_an_audit_of_a_topic_that_was_deleted_makes_no_key(
    test_topic: str, redis_client: redis.Redis
) -> None:
    """A janitor that saw it on the list a moment ago."""
    bus.enqueue_task(test_topic, 1)
    bus.delete_topic(test_topic)

    auditor.tick([test_topic], lambda topic, exc: pytest.fail(f"{topic}: {exc}"))

    assert keys_of(redis_client, test_topic) == []


def test_an_agent_goes_on_with_the_new_topic(test_topic: str) -> None:
    with agents.running(test_topic, work.echo):
        first = bus.enqueue_task(test_topic, 1)
        bus.wait_result(first, test_topic, timeout_s=10)
        bus.delete_topic(test_topic)

        second = bus.enqueue_task(test_topic, 2)

        assert bus.wait_result(second, test_topic, timeout_s=10).result == 2
        assert bus.stats(test_topic)["done"] == 1


def test_a_janitor_puts_a_lost_name_back_on_the_list(
    test_topic: str, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(janitor, "_TICK_S", 0.05)
    bus.enqueue_task(test_topic, 1)
    duty = janitor.Janitor("me#00000001", Steady())
    duty.start()
    try:
        wait_until(lambda: redis_client.exists(keys.named("audit", test_topic)))
        redis_client.delete(keys.TOPICS)
        wait_until(lambda: bus.list_topics() == [test_topic])
    finally:
        duty.close()
        duty.join()


# --- the command


def topics(*args: str) -> str:
    out = io.StringIO()
    call_command("topics", *args, stdout=out)
    return out.getvalue()


def test_the_command_purges_and_deletes_when_it_is_told_twice(town: Town) -> None:
    with pytest.raises(CommandError, match=r"of 3 that wait, add --yes"):
        topics(town.topic, "--purge")
    with pytest.raises(CommandError, match=r"to delete .*, add --yes"):
        topics(town.topic, "--delete", "--force")

    said = topics(town.topic, "--purge", "--yes")
    with pytest.raises(CommandError, match="agents run 1 task"):
        topics(town.topic, "--delete", "--yes")
    gone = topics(town.topic, "--delete", "--force", "--yes")

    assert said == (
        f"{town.topic} is purged: 3 cancelled, 0 asked to stop, 0 discarded\n"
    )
    assert gone == f"{town.topic} is deleted: 1 cancelled, 1 discarded\n"
    assert bus.list_topics() == []
    assert GROUP not in str(keys_of(town.client, town.topic))
