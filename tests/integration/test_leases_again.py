"""Agents over HTTP that claim, beat or register again: none forgets what it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import bus
from bus import agents, fences, keys, leases, scripts
from bus.endings import Fence, fence_of
from bus.judge import Judge
from bus.leases import Claim, Lent
from tests.support.desk import idle_for


def join(
    agent_id: str = "a", lease_s: int = 15, ttl_s: float = 60, **meta: Any
) -> None:
    leases.register(agent_id, "t", ttl_s, meta, lease_s)


def claim(topic: str, count: int = 1, agent_id: str = "a") -> list[Lent]:
    return leases.claim(topic, agent_id, count).lent


def held(lent: Lent) -> Fence:
    return fence_of(lent.topic, lent.id, lent.fence)


def complete(*lent: Lent) -> list[str]:
    return fences.complete([(held(each), b"1") for each in lent])


# --- a claim of an agent that drains


def test_a_claim_sent_again_while_it_drains_gives_what_it_gave(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    join()
    lent = leases.claim(test_topic, "a", 2, "one").lent
    agents.drain_agent("a")

    again = leases.claim(test_topic, "a", 2, "one")

    assert again == Claim(lent, True) and len(lent) == 2
    assert complete(*again.lent) == ["ok", "ok"]
    assert leases.claim(test_topic, "a", 2, "one") == Claim([], True)


@pytest.mark.parametrize("claim_id", [None, "another"])
def test_who_drains_is_lent_nothing_new(test_topic: str, claim_id: str | None) -> None:
    bus.enqueue_many(test_topic, range(3))
    join()
    leases.claim(test_topic, "a", 1, "one")
    agents.drain_agent("a")

    assert leases.claim(test_topic, "a", 1, claim_id) == Claim([], True)
    assert bus.stats(test_topic)["waiting"] == 2


def test_who_drains_makes_no_topic_by_asking_for_one(test_topic: str) -> None:
    join()
    agents.drain_agent("a")

    assert leases.claim(test_topic, "a", 1, "one") == Claim([], True)
    assert bus.list_topics() == []


# --- another lease than before


def test_who_leaves_hands_on_what_it_holds_under_any_lease(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(3))
    for lease_s in (600, 60, 15):
        join(lease_s=lease_s)
        assert claim(test_topic)

    leases.leave("a")

    stats = bus.stats(test_topic)
    assert (stats["waiting"], stats["running"]) == (3, 0)


def test_who_leaves_takes_nothing_from_others(test_topic: str) -> None:
    bus.enqueue_many(test_topic, range(2))
    join("a")
    join("ab")
    [_], [other] = claim(test_topic, 1, "a"), claim(test_topic, 1, "ab")

    leases.leave("a")

    assert complete(other) == ["ok"]


def test_what_was_lent_under_another_lease_keeps_it(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join(lease_s=600)
    [lent] = claim(test_topic)
    join(lease_s=15)

    idle_for(test_topic, keys.lender_of("a", 600), 500)

    assert Judge("me").reclaim(test_topic) == 0
    assert fences.extend([held(lent)]) == ["ok"]
    assert complete(lent) == ["ok"]


def test_a_claim_sent_again_tells_the_lease_it_was_made_with(test_topic: str) -> None:
    bus.enqueue_task(test_topic, 1)
    join(lease_s=15)
    first = leases.claim(test_topic, "a", 1, "one")
    join(lease_s=600)

    assert leases.claim(test_topic, "a", 1, "one") == first
    assert [each.lease_s for each in first.lent] == [15]


def suspect(topic: str) -> str:
    """A task that was lost twice, and waits."""
    task_id = bus.enqueue_task(topic, "kills")
    join("loses")
    for _ in range(2):
        assert claim(topic, 1, "loses")
        leases.leave("loses")
        join("loses")
    return task_id


def test_a_suspect_is_not_lent_beside_what_is_held_under_another_lease(
    test_topic: str,
) -> None:
    bus.enqueue_task(test_topic, 1)
    join(lease_s=600)
    [lent] = claim(test_topic)
    task_id = suspect(test_topic)
    join(lease_s=15)

    assert claim(test_topic) == []
    complete(lent)

    assert [each.id for each in claim(test_topic)] == [task_id]


def test_nothing_is_lent_beside_a_suspect_under_another_lease(test_topic: str) -> None:
    suspect(test_topic)
    join(lease_s=600)
    [alone] = claim(test_topic)
    bus.enqueue_task(test_topic, 1)
    for _ in range(2):  # and it is not forgotten with the next registration
        join(lease_s=15)
        assert claim(test_topic) == []
    complete(alone)

    assert len(claim(test_topic)) == 1


# --- what comes while a claim is made


def amid_a_claim(
    monkeypatch: pytest.MonkeyPatch, topic: str, happens: Callable[[], object]
) -> None:
    """Have something happen just before a claim has the record name its topic."""
    run, left = scripts.run, [happens]

    def late(name: str, of: str, args: Any = (), *rest: Any, **how: Any) -> Any:
        if not of and topic in str(args) and left:
            left.pop()()
        return run(name, of, args, *rest, **how)

    monkeypatch.setattr(scripts, "run", late)


def test_a_heartbeat_amid_a_claim_counts(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(ttl_s=20)
    amid_a_claim(monkeypatch, test_topic, lambda: bus.heartbeat_agent("a", 60))

    claim(test_topic)

    row = agents.get_agent("a")
    assert row["topics"] == [test_topic]
    assert row["expires_in_s"] > 30
    assert int(bus.get_redis().ttl(bus.agent_key("a"))) > 30


def test_a_registration_amid_a_claim_counts(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(ttl_s=20)
    amid_a_claim(monkeypatch, test_topic, lambda: join(lease_s=30, on="a phone"))

    claim(test_topic)

    row = agents.get_agent("a")
    assert (row["lease_s"], row["meta"]) == (30, {"on": "a phone"})
    assert row["topics"] == [test_topic]
    assert row["expires_in_s"] > 30


def test_who_leaves_amid_a_claim_is_gone(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    join()
    amid_a_claim(monkeypatch, test_topic, lambda: leases.leave("a"))

    claim(test_topic)

    assert bus.list_agents() == []
    assert agents.get_agent("a")["state"] == "gone"
