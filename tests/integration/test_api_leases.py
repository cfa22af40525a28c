"""The lease protocol over HTTP: what agents without our runtime live on."""

from __future__ import annotations

from typing import Any

import pytest
import redis

import bus
from bus import agents, keys
from bus.judge import Judge
from tests.support import agents as runtime
from tests.support import work
from tests.support.api import Api, api, keyspace, problem
from tests.support.desk import idle_for
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("cleanup_test_data"),
]

FENCE = {"topic": "a", "id": "0198c0de-0000-7000-8000-00000000abcd", "fence": "1-0.0"}
ERROR = {"type": "ValueError", "message": "no"}
ENDS = {
    "complete": {"result": 1},
    "fail": {"error": ERROR, "delay_s": 3600},
    "extend": {},
    "release": {},
}


@pytest.fixture
def client() -> Api:
    """Calls of an agent."""
    return api("agent")


def join(client: Api, agent_id: str = "a", **more: Any) -> str:
    body = {"agent_id": agent_id, "agent_type": "t", **more}
    assert client.post("agents", body).status_code in (200, 201)
    return agent_id


def claim(client: Api, topic: str, agent_id: str = "a", **more: Any) -> Any:
    body = {"agent_id": agent_id, "count": 100, **more}
    response = client.post(f"topics/{topic}/claim", body)
    assert response.status_code == 200, response.content
    return response.json()["deliveries"]


def end(client: Api, verb: str, *held: Any, **more: Any) -> list[str]:
    """The outcomes of one call."""
    rows = [
        {name: each[name] for name in ("topic", "id", "fence")} | ENDS[verb] | more
        for each in held
    ]
    response = client.post(f"deliveries/{verb}", {"deliveries": rows})
    assert response.status_code == 200, response.content
    told = response.json()["deliveries"]
    assert [row["id"] for row in told] == [each["id"] for each in held]
    return [row["outcome"] for row in told]


def test_the_life_of_a_task_in_an_agent_over_http(test_topic: str, client: Api) -> None:
    join(client, lease_s=30)
    task_id = bus.enqueue_task(test_topic, {"n": 1}, timeout_s=90)

    [held] = claim(client, test_topic)
    outcomes = end(client, "complete", held, result={"n": 2})

    assert outcomes == ["ok"]
    assert held == {
        "fence": held["fence"],
        "id": task_id,
        "topic": test_topic,
        "task": {"n": 1},
        "attempt": 1,
        "epoch": 0,
        "timeout_s": 90,
        "lease_s": 30,
    }
    assert bus.get_task(task_id, test_topic).result == {"n": 2}


@pytest.mark.parametrize("verb", ["complete", "fail"])
def test_a_repeat_is_a_duplicate(test_topic: str, client: Api, verb: str) -> None:
    join(client)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)

    assert end(client, verb, held) == ["ok"]
    assert end(client, verb, held) == ["duplicate"]


def test_a_repeat_is_one_whatever_line_breaks_its_error_holds(
    test_topic: str, client: Api
) -> None:
    join(client)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)
    error = {"type": "ValueError", "message": "one\u2028two\x85three\nfour"}

    assert end(client, "fail", held, error=error) == ["ok"]
    assert end(client, "fail", held, error=error) == ["duplicate"]


@pytest.mark.parametrize("verb", ENDS)
def test_what_is_not_held_any_more_is_fenced(
    test_topic: str, client: Api, verb: str
) -> None:
    join(client)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)
    end(client, "release", held)

    assert end(client, verb, held) == ["fenced"]
    assert bus.stats(test_topic)["waiting"] == 1


@pytest.mark.parametrize("verb", ENDS)
def test_what_nobody_knows_is_gone(client: Api, verb: str) -> None:
    assert end(client, verb, FENCE) == ["gone"]


def test_settings_that_somebody_wrote_by_hand_stop_nobody(
    test_topic: str, client: Api, redis_client: redis.Redis
) -> None:
    join(client)
    task_id = bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)
    odd = {"timeout_s": "soon", "max_attempts": "many"}
    redis_client.hset(keys.named("settings", test_topic), mapping=odd)

    assert end(client, "extend", held) == ["ok"]
    assert "runs it, attempt 1" in bus.explain(task_id, test_topic)
    options = f"{held['fence'].rpartition('.')[0]}|0|0|0|0||m=odd"
    redis_client.hset(keys.named("tasks", test_topic), task_id, options)
    assert bus.get_task(task_id, test_topic).max_attempts is None


def test_a_failure_says_how_its_task_stands(test_topic: str, client: Api) -> None:
    join(client)
    bus.enqueue_many(test_topic, range(2))
    held = claim(client, test_topic)
    rows = [{**FENCE, "topic": test_topic, "error": ERROR} for _ in held]
    for row, each, final in zip(rows, held, (False, True), strict=True):
        row |= {"id": each["id"], "fence": each["fence"], "final": final}

    told = client.post("deliveries/fail", {"deliveries": rows}).json()["deliveries"]

    states = [(row["outcome"], row["state"]) for row in told]
    assert states == [("ok", "delayed"), ("ok", "dead")]
    letter = bus.get_dead(held[1]["id"], test_topic)
    assert letter.error["type"] == "ValueError"


def test_topics_are_mixed_in_one_call(test_topic: str, client: Api) -> None:
    other = f"{test_topic}:other"
    join(client)
    held = []
    for topic in (test_topic, other):
        bus.enqueue_many(topic, range(3))
        held += claim(client, topic)

    assert end(client, "extend", *held[::2], FENCE) == ["ok"] * 3 + ["gone"]
    assert end(client, "complete", *held) == ["ok"] * 6


def test_a_cancelled_task_is_told_by_the_heartbeat(
    test_topic: str, client: Api
) -> None:
    join(client)
    [one, two] = bus.enqueue_many(test_topic, range(2))
    held = {each["id"]: each for each in claim(client, test_topic)}
    bus.cancel(one, test_topic)
    end(client, "release", held[two])
    names = ("topic", "id", "fence")
    rows = [{name: held[each][name] for name in names} for each in (one, two)]

    beat = client.post("agents/a/heartbeat", {"ttl_seconds": 9, "deliveries": rows})

    assert beat.json() == {
        "agent_id": "a",
        "expires_in_s": 9,
        "drain": False,
        "deliveries": [
            {**rows[0], "outcome": "cancelled"},
            {**rows[1], "outcome": "fenced"},
        ],
    }
    assert end(client, "fail", held[one]) == ["cancelled"]
    assert bus.get_task(one, test_topic).state == "cancelled"


def test_a_heartbeat_keeps_what_it_names_and_nothing_else(
    test_topic: str, client: Api
) -> None:
    join(client, lease_s=60)
    bus.enqueue_many(test_topic, range(2))
    kept, left = claim(client, test_topic)
    row = {name: kept[name] for name in ("topic", "id", "fence")}
    idle_for(test_topic, keys.lender_of("a", 60), 61)

    beat = client.post("agents/a/heartbeat", {"deliveries": [row]})

    assert beat.json()["deliveries"][0]["outcome"] == "ok"
    assert Judge("me").reclaim(test_topic) == 1
    assert end(client, "complete", kept, left) == ["ok", "fenced"]


def test_the_same_claim_again_gives_the_same(test_topic: str, client: Api) -> None:
    join(client)
    bus.enqueue_many(test_topic, range(4))

    first = claim(client, test_topic, count=2, claim_id="one")

    assert len(first) == 2
    assert claim(client, test_topic, count=2, claim_id="one") == first
    assert len(claim(client, test_topic, claim_id="two")) == 2


def test_an_agent_that_nobody_knows_is_to_register(
    test_topic: str, client: Api, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    before = keyspace(redis_client)

    response = client.post(f"topics/{test_topic}/claim", {"agent_id": "a"})

    problem(response, 404, "agent_not_found")
    assert keyspace(redis_client) == before


def test_an_agent_of_the_runtime_is_not_claimed_for(
    test_topic: str, client: Api
) -> None:
    with runtime.running(test_topic, work.echo, agent_id="ours"):
        wait_until(lambda: [row["agent_id"] for row in bus.list_agents()] == ["ours"])

        response = client.post(f"topics/{test_topic}/claim", {"agent_id": "ours"})

    problem(response, 409, "conflict")


def test_a_token_reaches_only_its_topics(redis_client: redis.Redis) -> None:
    bound = api("agent", ("mine:",))
    join(bound)
    deliveries = {"deliveries": [{**FENCE, "topic": "mine:a"}, FENCE]}

    for path, body in (
        ("topics/yours/claim", {"agent_id": "a"}),
        ("deliveries/extend", deliveries),
        ("agents/a/heartbeat", deliveries),
    ):
        problem(bound.post(path, body), 403, "topic_not_allowed")

    assert claim(bound, "mine:a") == []


CLAIMS = [
    ({}, "/agent_id"),
    ({"agent_id": 1}, "/agent_id"),
    ({"agent_id": "a", "count": 0}, "/count"),
    ({"agent_id": "a", "count": 101}, "/count"),
    ({"agent_id": "a", "count": 1.5}, "/count"),
    ({"agent_id": "a", "wait_s": -1}, "/wait_s"),
    ({"agent_id": "a", "wait_s": 31}, "/wait_s"),
    ({"agent_id": "a", "claim_id": ""}, "/claim_id"),
    ({"agent_id": "a", "claim_id": "x" * 129}, "/claim_id"),
    ({"agent_id": "a", "claim_id": "a\nb"}, "/claim_id"),
    ({"agent_id": "a", "topic": "a"}, "/topic"),
]


@pytest.mark.parametrize(("body", "pointer"), CLAIMS)
def test_a_wrong_claim_names_what_is_wrong(
    client: Api, redis_client: redis.Redis, body: Any, pointer: str
) -> None:
    document = problem(client.post("topics/a/claim", body), 422, "invalid")

    assert [each["pointer"] for each in document["errors"]] == [pointer]
    assert keyspace(redis_client) == {}


ROWS = [
    ("complete", {}, "/deliveries/0/result"),
    ("complete", {"result": 1, "error": ERROR}, "/deliveries/0/error"),
    ("complete", {"result": 1, "topic": 1}, "/deliveries/0/topic"),
    ("fail", {}, "/deliveries/0/error"),
    ("fail", {"error": "no"}, "/deliveries/0/error"),
    ("fail", {"error": {"type": "T"}}, "/deliveries/0/error/message"),
    ("fail", {"error": {**ERROR, "type": ""}}, "/deliveries/0/error/type"),
    ("fail", {"error": {**ERROR, "code": 1}}, "/deliveries/0/error/code"),
    ("fail", {"error": ERROR, "delay_s": -1}, "/deliveries/0/delay_s"),
    ("fail", {"error": ERROR, "delay_s": 1e9}, "/deliveries/0/delay_s"),
    ("fail", {"error": ERROR, "final": 1}, "/deliveries/0/final"),
    ("extend", {"lease_s": 60}, "/deliveries/0/lease_s"),
    ("release", {"delay_s": 1}, "/deliveries/0/delay_s"),
]


@pytest.mark.parametrize(("verb", "more", "pointer"), ROWS)
def test_a_wrong_delivery_names_what_is_wrong(
    client: Api, verb: str, more: Any, pointer: str
) -> None:
    body = {"deliveries": [{**FENCE, **more}]}

    document = problem(client.post(f"deliveries/{verb}", body), 422, "invalid")

    assert [each["pointer"] for each in document["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("count", "pointer"), [(0, "/deliveries"), (101, "/deliveries")]
)
def test_a_call_has_1_to_100_deliveries(client: Api, count: int, pointer: str) -> None:
    rows = [{**FENCE, "id": f"0198c0de-0000-7000-8000-{n:012d}"} for n in range(count)]

    document = problem(
        client.post("deliveries/extend", {"deliveries": rows}), 422, "invalid"
    )

    assert [each["pointer"] for each in document["errors"]] == [pointer]


def test_a_task_is_named_once_in_a_call(client: Api) -> None:
    rows = [FENCE, {**FENCE, "fence": "1-0.1"}]

    document = problem(
        client.post("deliveries/release", {"deliveries": rows}), 422, "invalid"
    )

    assert document["errors"][0]["pointer"] == "/deliveries/1"


@pytest.mark.parametrize(
    "wrong",
    [
        {"topic": "NO"},
        {"topic": "a}{b"},
        {"id": "x"},
        {"fence": "1-0"},
        {"fence": "1-0.-1"},
        {"fence": f"{2**64}-0.1"},
        {"fence": "\u0661-0.1"},
    ],
)
def test_a_name_that_cannot_be_is_refused(client: Api, wrong: Any) -> None:
    body = {"deliveries": [{**FENCE, **wrong}]}

    problem(client.post("deliveries/extend", body), 422, "invalid_name")


def test_one_wrong_delivery_refuses_them_all(test_topic: str, client: Api) -> None:
    join(client)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)
    good = {name: held[name] for name in ("topic", "id", "fence")}
    rows = [{**good, "result": 1}, {**FENCE, "result": 1, "fence": "x"}]

    response = client.post("deliveries/complete", {"deliveries": rows})

    problem(response, 422, "invalid_name")
    assert bus.get_task(held["id"], test_topic).state == "running"


def test_a_result_may_have_a_mebibyte_and_no_more(test_topic: str, client: Api) -> None:
    join(client)
    bus.enqueue_many(test_topic, range(5))
    held = claim(client, test_topic)
    most = "x" * (2**20 - 2)

    too_large = {"deliveries": [{**FENCE, "result": most + "x"}]}
    problem(client.post("deliveries/complete", too_large), 413, "payload_too_large")
    assert end(client, "complete", *held, result=most) == ["ok"] * 5


@pytest.mark.parametrize("lease_s", [0, 14, 601, 15.5, "15"])
def test_a_lease_has_15_to_600_seconds(client: Api, lease_s: Any) -> None:
    body = {"agent_id": "a", "agent_type": "t", "lease_s": lease_s}

    response = client.post("agents", body)

    assert response.status_code == 422, response.content


def test_a_drained_agent_is_given_nothing_and_told_so(
    test_topic: str, client: Api
) -> None:
    join(client)
    bus.enqueue_many(test_topic, range(2))
    held = claim(client, test_topic, count=1, claim_id="one")

    drained = api().post("agents/a/drain")

    assert (drained.status_code, drained.json()["state"]) == (200, "draining")
    assert client.post("agents/a/heartbeat").json()["drain"] is True
    path = f"topics/{test_topic}/claim"
    for claim_id, given in (("one", held), ("two", [])):
        body = {"agent_id": "a", "wait_s": 20, "claim_id": claim_id}
        assert client.post(path, body).json() == {"deliveries": given, "drain": True}
    assert end(client, "complete", *held) == ["ok"]
    [row] = api("admin").get("audit", verb="drain").json()["entries"]
    assert row["target"] == "a"


def test_the_next_registration_is_free_of_a_drain(test_topic: str, client: Api) -> None:
    join(client)
    api().post("agents/a/drain")
    join(client)  # the same registration, renewed
    assert agents.get_agent("a")["state"] == "draining"

    assert client.delete("agents/a").status_code == 204
    join(client)

    assert agents.get_agent("a")["state"] != "draining"
    bus.enqueue_task(test_topic, 1)
    assert len(claim(client, test_topic)) == 1


@pytest.mark.parametrize("agent_id", ["nobody", "no body", "x" * 200])
def test_only_who_is_there_is_drained(client: Api, agent_id: str) -> None:
    problem(api().post(f"agents/{agent_id}/drain"), 404, "agent_not_found")


def test_one_that_has_gone_is_not_drained(client: Api) -> None:
    join(client)
    client.delete("agents/a")

    problem(api().post("agents/a/drain"), 404, "agent_not_found")


def test_an_agent_of_ours_finishes_what_it_has_and_ends(test_topic: str) -> None:
    """Longer than a stop would let it."""
    caller = api()
    caller.get("agents")  # the first call of a process loads all of the API
    task_id = bus.enqueue_task(test_topic, 4)
    with runtime.running(test_topic, work.rest, agent_id="ours", grace_s=0.05):
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "running")

        caller.post("agents/ours/drain")
        wait_until(lambda: bus.list_agents()[0]["state"] == "draining")
        later = bus.enqueue_task(test_topic, 0)
        wait_until(lambda: bus.get_task(task_id, test_topic).state == "done", 10)

        wait_until(lambda: agents.get_agent("ours")["state"] == "gone", 10)
    assert bus.get_task(later, test_topic).state == "waiting"
    assert bus.get_task(task_id, test_topic).attempts == ()


def test_what_is_left_in_hand_by_who_leaves_is_free_at_once(
    test_topic: str, client: Api
) -> None:
    join(client, lease_s=600)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)

    client.delete("agents/a")

    assert bus.get_task(held["id"], test_topic).state == "waiting"
    assert end(client, "complete", held) == ["fenced"]


def test_a_token_of_other_topics_ends_no_agent_and_takes_nothing_from_it(
    test_topic: str, client: Api
) -> None:
    """Five times, and its task would be dead of poison."""
    join(client)
    bus.enqueue_task(test_topic, 1)
    [held] = claim(client, test_topic)
    bus.register_agent("by-hand", "t")  # it may hold what nobody can tell
    strangers = api("admin", ("other-",))

    for call in (strangers.delete, lambda path: strangers.post(f"{path}/drain")):
        told = problem(call("agents/a"), 403, "topic_not_allowed")
        assert test_topic not in str(told)
    problem(strangers.delete("agents/by-hand"), 403, "topic_not_allowed")
    for name in ("a", "by-hand"):  # nor are they made to last no longer
        again = {"agent_id": name, "agent_type": "t", "ttl_seconds": 1}
        problem(strangers.post("agents", again), 403, "topic_not_allowed")
        beat = strangers.post(f"agents/{name}/heartbeat", {"ttl_seconds": 1})
        problem(beat, 403, "topic_not_allowed")
        # nor shut out by a topic among theirs that their own token does not reach
        taken = strangers.post("topics/other-x/claim", {"agent_id": name})
        problem(taken, 403, "topic_not_allowed")

    assert agents.get_agent("a")["topics"] == [test_topic]
    assert api("agent", (test_topic,)).post("agents/a/heartbeat").status_code == 200
    assert agents.get_agent("a")["state"] in ("live", "idle")
    assert {each["agent_id"] for each in bus.list_agents()} == {"a", "by-hand"}
    assert end(client, "complete", held) == ["ok"]


def test_a_bound_token_drains_and_ends_agents_of_its_topics(test_topic: str) -> None:
    mine = api("admin", (test_topic,))
    join(mine)
    claim(mine, test_topic)

    assert mine.post("agents/a/heartbeat").status_code == 200
    join(mine)
    assert mine.post("agents/a/drain").status_code == 200
    assert mine.delete("agents/a").status_code == 204

    join(mine, "new")  # that has served nothing yet
    assert mine.delete("agents/new").status_code == 204


def test_a_paused_topic_gives_nothing(test_topic: str, client: Api) -> None:
    join(client)
    bus.enqueue_task(test_topic, 1)
    bus.pause(test_topic)

    assert claim(client, test_topic) == []


def test_claims_of_a_topic_that_cannot_be(client: Api) -> None:
    join(client)

    response = client.post("topics/NO/claim", {"agent_id": "a"})

    problem(response, 422, "invalid_name")


def test_who_claims_is_seen_to_serve_the_topic(test_topic: str, client: Api) -> None:
    join(client, meta={"host": "x"})
    claim(client, test_topic)

    row = api().get("agents/a").json()

    assert (row["topics"], row["lease_s"]) == ([test_topic], 15)
    assert row["meta"] == {"host": "x"}
