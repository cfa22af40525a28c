"""What a call had written when it failed: its problem says so, and the trail has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

import bus
from bus import agents, errors, keys, leases, models, replays, scripts, topics
from bus.bulk import room
from tests.integration.test_half_done import fails_after
from tests.support.api import Api, a_dead_one, api, problem, send
from tests.support.bulk import created, dead

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]
Away = Callable[..., None]


@pytest.fixture
def away(monkeypatch: pytest.MonkeyPatch) -> Away:
    """`away(room, name, 1)`: that function works once more, then Redis is gone."""

    def arrange(room: Any, name: str, calls: int = 0) -> None:
        monkeypatch.setattr(room, name, fails_after(calls, getattr(room, name)))

    return arrange


def unknown(answer: Any) -> None:
    assert problem(answer, 503, "outcome_unknown")["outcome"] == "unknown"


def trail() -> list[tuple[str, str, str]]:
    """Verb, topic and target of what was written down, the oldest first."""
    found = models.AuditEntry.objects.order_by("id")
    return list(found.values_list("verb", "topic", "target"))


def change(topic: str, **value: Any) -> Any:
    body = json.dumps(value).encode()
    return api("admin").raw(f"topics/{topic}", body, method="PATCH")


def test_limits_that_cannot_be_read_back(test_topic: str, away: Away) -> None:
    send(api(), test_topic)
    away(bus, "stats")

    unknown(change(test_topic, backlog_max=5))

    assert trail() == [("limit", test_topic, test_topic)]
    assert models.AuditEntry.objects.get().after == {"backlog_max": 5}
    assert bus.topics.own_limits(test_topic)["backlog_max"] == 5


def test_a_pause_that_cannot_be_read_back(test_topic: str, away: Away) -> None:
    send(api(), test_topic)
    away(bus, "stats")

    unknown(change(test_topic, paused=True))

    assert trail() == [("pause", test_topic, test_topic)]


def test_a_change_of_which_nothing_was_made(test_topic: str, away: Away) -> None:
    send(api(), test_topic)
    away(topics, "_set")

    refused = change(test_topic, paused=True)

    assert problem(refused, 503, "bus_unavailable")["outcome"] == "not_written"
    assert trail() == []


@pytest.mark.parametrize("named", [True, False], ids=["in a topic", "anywhere"])
def test_an_undo(test_topic: str, away: Away, named: bool) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)
    bus.discard(task_id, test_topic)
    away(bus, "get_task")

    query = f"?topic={test_topic}" if named else ""
    unknown(client.post(f"dead/{task_id}/undo{query}"))

    assert trail() == [("undo", test_topic, task_id)]
    assert bus.stats(test_topic)["dead"] == 1


@pytest.mark.parametrize("verb", ["replay", "discard", "run"])
def test_a_repeat_that_cannot_say_what_became_of_the_first(
    test_topic: str, away: Away, verb: str
) -> None:
    client = api()
    task_id = a_dead_one(client, test_topic)
    way, method = {
        "replay": (f"dead/{task_id}/replay", "POST"),
        "discard": (f"dead/{task_id}", "DELETE"),
        "run": (f"tasks/{task_id}/run", "POST"),
    }[verb]
    key = {"method": method, "Idempotency_Key": "click"}
    assert client.raw(way, b"", **key).status_code == 200
    away(bus, "get_task")

    unknown(client.raw(way, b"", **key))


def test_an_agent_that_is_gone_with_its_tasks_still_in_its_hands(
    test_topic: str, away: Away
) -> None:
    leases.register("a", "t", 60, {}, None)
    bus.enqueue_task(test_topic, 1)
    assert leases.claim(test_topic, "a", 1).lent
    away(leases.judge, "take")

    unknown(api("admin").delete("agents/a"))

    assert trail() == [("delete", "", "a")]
    assert models.AuditEntry.objects.get().detail == {
        "left": True,
        "broke": "outcome_unknown",
    }
    assert agents.get_agent("a")["state"] == "gone"


def test_an_agent_that_is_registered(away: Away) -> None:
    away(agents, "get_agent", 1)

    unknown(api("agent").post("agents", {"agent_id": "a", "agent_type": "t"}))

    assert [each.agent_id for each in agents.seen()] == ["a"]


def test_an_agent_that_is_to_drain(away: Away) -> None:
    leases.register("a", "t", 60, {}, None)
    away(agents, "get_agent", 1)

    unknown(api().post("agents/a/drain"))

    assert trail() == [("drain", "", "a")]


@pytest.mark.parametrize(
    ("where", "what"),
    [(replays, "get"), (replays, "resume"), (replays, "letters"), (room, "prune")],
    ids=["get", "resume", "letters", "prune"],
)
def test_a_bulk_replay_that_is_made(
    test_topic: str, away: Away, where: Any, what: str
) -> None:
    dead(test_topic, 2)
    away(where, what)

    unknown(api().post("replays", {"topics": [test_topic]}))

    [job] = replays.list_jobs()
    assert trail() == [("bulk replay", test_topic, job.id)]


@pytest.mark.parametrize(("what", "calls"), [("get", 1), ("letters", 0)])
@pytest.mark.parametrize("verb", ["pause", "resume", "cancel"])
def test_a_bulk_replay_that_is_turned(
    test_topic: str, away: Away, verb: str, what: str, calls: int
) -> None:
    dead(test_topic, 2)
    job = created(test_topic)
    if verb == "resume":
        replays.pause(job.id)
    client = api()
    away(replays, what, calls)

    if verb == "cancel":
        unknown(client.delete(f"replays/{job.id}"))
    else:
        unknown(client.post(f"replays/{job.id}/{verb}"))

    assert trail() == [(f"{verb} bulk replay", test_topic, job.id)]
    [now] = replays.list_jobs()
    states = {"pause": "paused", "resume": "running", "cancel": "cancelled"}
    assert now.state == states[verb]


ENDS: dict[str, dict[str, Any]] = {
    "complete": {"result": 1},
    "fail": {"error": {"type": "E", "message": "no"}, "final": True},
    "extend": {},
    "release": {},
}


def held(client: Api, *topics: str) -> list[dict[str, Any]]:
    """A task of each topic, in the hands of an agent over HTTP."""
    leases.register("a", "t", 60, {}, None)
    rows = []
    for topic in topics:
        bus.enqueue_task(topic, 1)
        claim = client.post(f"topics/{topic}/claim", {"agent_id": "a"}).json()
        [row] = claim["deliveries"]
        rows.append({name: row[name] for name in ("topic", "id", "fence")})
    return rows


def end(client: Api, verb: str, rows: list[dict[str, Any]]) -> Any:
    body = {"deliveries": [{**row, **ENDS[verb]} for row in rows]}
    return client.post(f"deliveries/{verb}", body)


@pytest.mark.parametrize("verb", ENDS)
@pytest.mark.parametrize("first", [True, False], ids=["at once", "on the way"])
def test_deliveries_that_redis_leaves(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, verb: str, first: bool
) -> None:
    client = api("agent")
    rows = held(client, test_topic, f"{test_topic}-b")
    run, looks = scripts.run, iter(range(0 if first else 1))

    def leaving(name: str, *args: Any, **more: Any) -> Any:
        if name == "held" and next(looks, None) is None:
            raise errors.BusUnavailable("gone")
        return run(name, *args, **more)

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "run", leaving)
        answer = end(client, verb, rows)

    if first:
        said = problem(answer, 503, "bus_unavailable")
        assert said["outcome"] == "not_written"
    else:
        unknown(answer)


def test_completions_beside_those_of_a_damaged_topic(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client, other = api("agent"), f"{test_topic}-b"
    rows = held(client, test_topic, other)
    key = keys.named("tasks", test_topic)
    kept: Any = redis_client.dump(key)
    redis_client.set(key, "not ours")

    unknown(end(client, "complete", rows))
    again = end(client, "complete", rows)

    assert bus.get_task(rows[1]["id"], other).state == "done"
    said = problem(again, 503, "damaged_key")
    assert (said["outcome"], key in said["detail"]) == ("not_written", True)
    redis_client.restore(key, 0, kept, replace=True)
    told = end(client, "complete", rows).json()["deliveries"]
    assert [row["outcome"] for row in told] == ["ok", "duplicate"]
