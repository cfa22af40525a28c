"""Agents over HTTP that claim, beat or register again: none forgets what it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import bus
from bus import agents, fences, leases, scripts
from bus.endings import Fence, fence_of
from bus.leases import Claim, Lent


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
