"""Leases over HTTP as the engine keeps them: claimed once, ended once, handed over."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from pytest_django import Settings

import bus
from bus import agents, errors, fences, judge, keys, leases, verbs
from bus.endings import Fence, fence_of
from bus.fences import Failed
from bus.judge import Judge
from bus.leases import Lent
from tests.support import agents as runtime
from tests.support import work
from tests.support.desk import Desk, idle_for
from tests.support.waiting import wait_until


def join(agent_id: str = "a", **more: Any) -> str:
    leases.register(agent_id, "t", 60, more.get("meta"), more.get("lease_s"))
    return agent_id


def claim(topic: str, count: int = 1, agent_id: str = "a") -> list[Lent]:
    return leases.claim(topic, agent_id, count).lent


def held(lent: Lent) -> Fence:
    return fence_of(lent.topic, lent.id, lent.fence)


def complete(*lent: Lent, result: bytes = b'"ok"') -> list[str]:
    return fences.complete([(held(each), result) for each in lent])


def fail(*lent: Lent, **how: Any) -> list[str]:
    failed = Failed("ValueError", "no", **{"delay_s": 3_600, **how})
    return fences.fail([(held(each), failed) for each in lent])


def release(*lent: Lent) -> list[str]:
    return fences.release([held(each) for each in lent])


def extend(*lent: Lent) -> list[str]:
    return fences.extend([held(each) for each in lent])


def lose(topic: str, agent_id: str = "a", lease_s: int = 15) -> int:
    """What a janitor does once the lease is over."""
    group = bus.stats(topic)["group"]
    return judge.take(topic, group, keys.lender_of(agent_id, lease_s), 0)


def drift(topic: str) -> int:
    number: int = bus.stats(topic)["ledger"]["drift"]
    return number


def test_a_task_is_lent_ended_and_told(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 1}, timeout_s=30)
    join()

    [lent] = claim(test_topic, 5)
    running = bus.get_task(task_id, test_topic)
    outcomes = complete(lent, result=b'{"m": 2}')

    assert (lent.id, lent.payload, lent.attempt) == (task_id, {"n": 1}, 1)
    assert (lent.timeout_s, lent.lease_s) == (30, 15)
    assert (running.state, running.agent, running.fence) == ("running", "a", lent.fence)
    assert outcomes == ["ok"]
    task = bus.get_task(task_id, test_topic)
    assert (task.state, task.result, task.agent) == ("done", {"m": 2}, "a")
    assert task.fence == lent.fence
    assert task.started_at is not None and task.enqueued_at is not None
    assert task.enqueued_at <= task.started_at <= (task.ended_at or "")
    assert drift(test_topic) == 0


def test_a_renewed_lease_keeps_when_the_attempt_began(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    join()
    [lent] = claim(test_topic)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.3)

    assert extend(lent) == ["ok"]
    complete(lent)

    row = dict(bus.tail_results(test_topic))
    [told] = [each for each in row.values() if each["id"] == task_id]
    took_s = (_time(told["finished_at"]) - _time(told["started_at"])).total_seconds()
    assert took_s >= 0.3


def _time(text: str) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(text)


def test_a_claim_sent_again_gives_what_it_gave(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(5))
    join()

    first = leases.claim(test_topic, "a", 2, "one")
    again = leases.claim(test_topic, "a", 2, "one")
    other = leases.claim(test_topic, "a", 2, "two")

    assert again == first and len(first.lent) == 2
    assert not {each.id for each in other.lent} & {each.id for each in first.lent}


def test_a_claim_sent_again_gives_only_what_is_still_held(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    join()
    done, given_back, kept = leases.claim(test_topic, "a", 3, "one").lent
    complete(done)
    release(given_back)

    assert leases.claim(test_topic, "a", 3, "one").lent == [kept]

    lose(test_topic)
    assert leases.claim(test_topic, "a", 3, "one").lent == []


def test_the_same_claim_id_of_another_agent_is_another_claim(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(2))
    join("a")
    join("b")

    [one] = leases.claim(test_topic, "a", 1, "same").lent
    [two] = leases.claim(test_topic, "b", 1, "same").lent

    assert one.id != two.id


def test_a_repeat_after_a_lost_reply_is_told_as_such(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    join()
    one, two, three = claim(test_topic, 3)

    assert complete(one) == ["ok"] and fail(two) == ["delayed"]
    assert fail(three, final=True) == ["dead"]

    assert complete(one) == ["duplicate"]
    assert fail(two, three) == ["duplicate", "duplicate"]
    assert bus.stats(test_topic)["done"] == 1
    assert drift(test_topic) == 0


def test_who_lost_the_lease_is_fenced(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(2))
    join("a")
    join("b")
    late, later = claim(test_topic, 2, "a")
    assert lose(test_topic, "a") == 2
    taken = claim(test_topic, 2, "b")

    assert complete(late) == ["fenced"]
    assert fail(late) == extend(late) == release(late) == ["fenced"]
    assert complete(*taken) == ["ok", "ok"]

    assert complete(late, later) == ["fenced", "fenced"]
    assert {row["agent"] for _, row in bus.tail_results(test_topic)} == {"b"}
    assert drift(test_topic) == 0


def test_a_task_given_back_costs_no_attempt(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join()
    [lent] = claim(test_topic)

    assert release(lent) == ["ok"]
    [again] = claim(test_topic)

    assert (again.id, again.attempt) == (lent.id, 1)
    assert again.fence != lent.fence
    assert complete(lent) == ["fenced"]
    assert release(lent) == ["fenced"]
    assert complete(again) == ["ok"]


def test_a_failure_keeps_what_its_agent_told(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    join()
    [lent] = claim(test_topic)

    assert fail(lent, traceback="line 1\nline 2") == ["delayed"]

    task = bus.get_task(task_id, test_topic)
    [attempt] = task.attempts
    assert (task.state, attempt["agent"], attempt["fence"]) == (
        "delayed",
        "a",
        lent.fence,
    )
    assert attempt["error"]["type"] == "ValueError"
    assert attempt["error"]["traceback"] == "line 1\nline 2"


def test_a_final_failure_is_a_dead_letter_at_once(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    join()

    assert fail(*claim(test_topic), final=True) == ["dead"]

    letter = bus.get_dead(task_id, test_topic)
    assert letter.error["reason"] == "gave_up"


def test_a_cancelled_task_is_told_to_its_holder(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(4))
    join()
    lent = claim(test_topic, 4)
    for task_id in ids:
        bus.cancel(task_id, test_topic)

    assert extend(*lent) == ["cancelled"] * 4
    assert complete(lent[0]) == ["ok"]  # a completion that arrives wins
    assert fail(lent[1]) == release(lent[2]) == ["cancelled"]
    lose(test_topic)

    states = [bus.get_task(task_id, test_topic).state for task_id in ids]
    assert states == ["done", "cancelled", "cancelled", "cancelled"]
    assert complete(*lent[1:]) == ["cancelled"] * 3
    assert fail(lent[1]) == ["cancelled"]
    assert drift(test_topic) == 0


def test_a_task_nobody_knows_is_gone(test_topic: str) -> None:
    fence = Fence(test_topic, "0198c0de-0000-7000-8000-00000000abcd", "1-0", 0)

    assert fences.complete([(fence, b"1")]) == ["gone"]
    assert fences.extend([fence]) == fences.release([fence]) == ["gone"]
    assert bus.list_topics() == []


def test_what_the_runtime_holds_is_out_of_reach(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    desk = Desk(test_topic)
    item = desk.one()
    fence = Fence(test_topic, item.id, item.sid, item.record.n)

    assert fences.complete([(fence, b"1")]) == ["fenced"]
    assert fences.release([fence]) == fences.extend([fence]) == ["fenced"]
    assert desk.complete(item) == ["ok"]


def test_only_registered_agents_are_lent_tasks(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)

    with pytest.raises(errors.AgentNotFound, match="'a' is not registered"):
        claim(test_topic)
    assert bus.stats(test_topic)["waiting"] == 1


def test_who_was_told_to_finish_is_lent_nothing_more(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(2))
    join()
    before = leases.claim(test_topic, "a", 1)
    agents.drain_agent("a")

    after = leases.claim(test_topic, "a", 1)

    assert (len(before.lent), before.drain) == (1, False)
    assert (after.lent, after.drain) == ([], True)
    assert complete(*before.lent) == ["ok"]


@pytest.mark.parametrize("count", [0, 101, True])
def test_a_claim_has_its_bounds(test_topic: str, count: int) -> None:
    join()

    with pytest.raises(errors.InvalidOption, match="1 to 100"):
        claim(test_topic, count)


def test_a_task_is_lent_with_what_its_topic_says_and_what_it_went_through(
    test_topic: str,
) -> None:
    bus.set_limits(test_topic, timeout_s=7)
    task_id = bus.enqueue_task(test_topic, 1)
    join()
    [first] = claim(test_topic)
    fail(first, final=True)
    bus.replay(task_id, test_topic)

    [second] = claim(test_topic)

    assert (first.timeout_s, first.attempt, first.epoch) == (7, 1, 0)
    assert (second.timeout_s, second.attempt, second.epoch) == (7, 1, 1)


def test_who_registered_by_hand_is_lent_tasks_for_the_usual_time_and_may_leave(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, 1)
    bus.register_agent("hand", "t", 60)
    bus.register_agent("other", "t", 60)

    [lent] = claim(test_topic, agent_id="hand")

    assert lent.lease_s == 15
    assert leases.leave("hand") and leases.leave("other")
    assert bus.get_task(lent.id, test_topic).state == "waiting"


def test_an_agent_of_the_runtime_claims_for_itself(test_topic: str) -> None:
    with runtime.running(test_topic, work.echo, agent_id="ours"):
        wait_until(lambda: [row["agent_id"] for row in bus.list_agents()] == ["ours"])

        with pytest.raises(errors.Conflict, match="runtime"):
            claim(test_topic, agent_id="ours")


@pytest.mark.parametrize("lease_s", [0, 14, 601])
def test_a_lease_out_of_its_range_is_refused(
    redis_client: redis.Redis, lease_s: int
) -> None:
    with pytest.raises(errors.InvalidOption, match="15 to 600"):
        join(lease_s=lease_s)
    assert bus.list_agents() == []


def test_a_silent_agent_loses_its_tasks_after_its_lease_and_not_before(
    test_topic: str, settings: Settings
) -> None:
    """Nobody judges it by its registration, nor by a connection it does not have."""
    settings.MESH_LEASE_S, settings.MESH_EXPIRY_S = 1, 0.2
    bus.enqueue_many(test_topic, range(2))
    began = time.monotonic()
    join("short", lease_s=1)
    join("long", lease_s=600)
    [brief], [kept] = claim(test_topic, 1, "short"), claim(test_topic, 1, "long")
    agents.deregister("short", "short")
    agents.deregister("long", "long")

    wait_until(lambda: Judge("me").reclaim(test_topic) == 1, 10)

    assert time.monotonic() - began > 1
    assert complete(brief, kept) == ["fenced", "ok"]


def test_a_lease_is_kept_by_who_renews_it(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join(lease_s=60)
    [lent] = claim(test_topic)

    for _ in range(3):
        idle_for(test_topic, keys.lender_of("a", 60), 59)
        assert extend(lent) == ["ok"]
        assert Judge("me").reclaim(test_topic) == 0

    idle_for(test_topic, keys.lender_of("a", 60), 61)
    assert Judge("me").reclaim(test_topic) == 1
    assert complete(lent) == ["fenced"]


def test_an_attempt_beyond_its_time_is_not_renewed(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus.enqueue_task(test_topic, 1, timeout_s=0.05)
    join()
    [lent] = claim(test_topic)
    monkeypatch.setattr(fences, "_GRACE_MS", 0)
    began = time.monotonic()
    wait_until(lambda: time.monotonic() - began > 0.1)

    assert extend(lent) == ["timeout"]
    assert complete(lent) == ["ok"]  # nobody took it yet


def test_a_paused_topic_lends_nothing(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join()
    bus.pause(test_topic)

    assert claim(test_topic) == []
    bus.resume(test_topic)

    assert len(claim(test_topic)) == 1


def test_who_leaves_has_its_tasks_handed_over_at_once(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join()
    [lent] = claim(test_topic)
    join()  # renewed whole, it still knows where it holds tasks

    assert leases.leave("a")

    assert bus.get_task(lent.id, test_topic).state == "waiting"
    assert not leases.leave("a")


def test_pages_see_what_an_agent_takes(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)  # Redis 7.0 knows nobody whose reads were empty
    join(lease_s=30, meta={"on": "a phone"})

    claim(test_topic)

    row = agents.get_agent("a")
    assert (row["topics"], row["lease_s"]) == ([test_topic], 30)
    assert (row["agent_type"], row["meta"]) == ("t", {"on": "a phone"})
    assert bus.stats(test_topic)["readers"] == 1


def test_pages_see_each_topic_once_and_no_more_than_so_many(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = [f"{test_topic}-{n}" for n in range(4)]
    monkeypatch.setattr(leases, "_TOPICS_MOST", 3)
    join()

    for topic in (*topics, *topics):
        bus.enqueue_task(topic, 1)
        claim(topic)

    row = agents.get_agent("a")
    assert row["topics"] == topics[:3]
    assert row["agent_type"] == "t"
    assert 50 < row["expires_in_s"] <= 60, row


def test_what_nobody_can_read_is_buried(
    test_topic: str, redis_client: redis.Redis
) -> None:
    join()
    redis_client.xadd(bus.task_stream(test_topic), {"json": "{broken"})
    good = bus.enqueue_task(test_topic, 1)

    lent = claim(test_topic, 5)

    assert [each.id for each in lent] == [good]
    [letter] = bus.list_dead(test_topic)
    assert letter.error["reason"] == "malformed"
    assert letter.error["message"].startswith("the entry's field `json` is not JSON")


def made_suspect(topic: str, agent_id: str) -> None:
    """Lose all it can get twice."""
    for _ in range(2):
        assert claim(topic, 100, agent_id)
        lose(topic, agent_id)


def test_a_suspect_is_lent_alone(test_topic: str) -> None:
    suspects = set(bus.enqueue_many(test_topic, range(2)))
    join("a")
    join("b")
    made_suspect(test_topic, "a")
    bus.enqueue_many(test_topic, range(3))

    [first] = claim(test_topic, 5, "a")
    assert claim(test_topic, 5, "a") == []  # nothing beside it
    [second] = claim(test_topic, 5, "b")
    assert {first.id, second.id} == suspects
    assert complete(first, second) == ["ok", "ok"]

    assert len(claim(test_topic, 5, "a")) == 3


def test_a_busy_agent_gets_no_suspect_and_nothing_more(test_topic: str) -> None:
    [suspect] = bus.enqueue_many(test_topic, ["kills"])
    join("a")
    made_suspect(test_topic, "a")
    join("b")
    bus.enqueue_many(test_topic, range(2))
    [alone] = claim(test_topic, 1, "a")
    busy = claim(test_topic, 1, "b")
    release(alone)

    assert claim(test_topic, 1, "b") == []
    complete(*busy)

    [lent] = claim(test_topic, 5, "b")
    assert lent.id == suspect


def test_an_idle_agent_gets_a_suspect_that_a_busy_one_waits_for(
    test_topic: str,
) -> None:
    [suspect] = bus.enqueue_many(test_topic, ["kills"])
    join("a")
    made_suspect(test_topic, "a")
    [alone] = claim(test_topic, 1, "a")
    bus.enqueue_many(test_topic, range(4))
    join("busy")
    join("idle")
    join("third")
    [_] = claim(test_topic, 1, "busy")
    [_] = claim(test_topic, 1, "third")
    release(alone)

    assert claim(test_topic, 1, "busy") == []
    assert len(claim(test_topic, 1, "third")) == 1  # one standing still is enough
    [lent] = claim(test_topic, 5, "idle")
    assert lent.id == suspect

    assert len(claim(test_topic, 1, "busy")) == 1


def test_poison_dies_alone(test_topic: str) -> None:
    [poison] = bus.enqueue_many(test_topic, ["kills"])
    join()
    while claim(test_topic):
        lose(test_topic)

    assert bus.get_dead(poison, test_topic).error["reason"] == "poison"
    assert drift(test_topic) == 0


def test_many_agents_at_once_do_everything_once(test_topic: str) -> None:
    ids = bus.enqueue_many(test_topic, range(300))
    names = [join(f"agent-{n}") for n in range(8)]

    def serve(agent_id: str) -> list[str]:
        mine = []
        while lent := claim(test_topic, 7, agent_id):
            outcomes = complete(*lent, result=json.dumps(agent_id).encode())
            assert outcomes == ["ok"] * len(lent)
            mine += [each.id for each in lent]
        return mine

    with ThreadPoolExecutor(len(names)) as pool:
        served = [task_id for mine in pool.map(serve, names) for task_id in mine]

    assert sorted(served) == sorted(ids)
    stats = bus.stats(test_topic)
    assert (stats["done"], stats["running"], stats["waiting"]) == (300, 0, 0)
    assert stats["ledger"]["drift"] == 0


def test_ends_of_many_topics_in_one_call(test_topic: str) -> None:
    other = f"{test_topic}:other"
    join()
    for topic in (test_topic, other):
        bus.enqueue_many(topic, range(30))
    lent = claim(test_topic, 30) + claim(other, 30)
    mixed = lent[::2] + lent[1::2]

    assert complete(*mixed) == ["ok"] * 60
    assert bus.stats(test_topic)["done"] == bus.stats(other)["done"] == 30


def test_a_group_that_was_destroyed_is_made_again(
    test_topic: str, redis_client: redis.Redis
) -> None:
    join()
    claim(test_topic)
    bus.enqueue_task(test_topic, 1)
    redis_client.xgroup_destroy(bus.task_stream(test_topic), "default")

    assert len(claim(test_topic)) == 1


def test_a_claim_at_full_memory_passes(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(2))
    join()
    leases.claim(test_topic, "a", 1, "before")
    redis_client.config_set("maxmemory", 1)
    try:
        [lent] = claim(test_topic)
        assert extend(lent) == ["ok"]
        assert complete(lent) == ["ok"]
    finally:
        redis_client.config_set("maxmemory", 0)


def test_what_a_claim_remembers_is_gone_with_its_lease(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    join(lease_s=20)

    leases.claim(test_topic, "a", 1, "one")

    left_ms = int(redis_client.pttl(keys.claim_key(test_topic, "a", "one")))
    assert 0 < left_ms <= 20_000
    assert "lend" in verbs.SCRIPTS
