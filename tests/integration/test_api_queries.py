"""Query strings: what the description names is known, anything else is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

import bus
from bus import browse, keys, results
from bus.api import lists
from bus.api.views.docs import description
from tests.integration.test_dashboard_round_trips import counted
from tests.support.api import ROOT, api, keyspace, problem
from tests.support.desk import Desk

pytestmark = pytest.mark.django_db

TASK = "0198c0de-0000-7000-8000-00000000abcd"


def calls() -> list[tuple[str, str, list[str]]]:
    """Method, path and described query parameters of every call but the gateway's."""
    found = []
    for path, methods in description()["paths"].items():
        filled = path.removeprefix(f"{ROOT}/").format(
            task_id=TASK,
            agent_id="a",
            topic="a",
            job_id=TASK,
            key="a",
            generation_id="a",
        )
        for method, told in methods.items():
            if "ollama" not in path:
                known = told.get("parameters", [])
                names = [each["name"] for each in known if each["in"] == "query"]
                found.append((method.upper(), filled, names))
    return found


def unknown(response: Any) -> list[str]:
    """The parameters that an answer says are unknown."""
    if response.status_code != 422:
        return []
    rows = response.json().get("errors", [])
    return [row["pointer"] for row in rows if row["detail"].startswith("is unknown")]


def test_every_call_knows_its_parameters_and_no_other(
    redis_client: redis.Redis,
) -> None:
    admin, seen = api("admin"), 0
    for method, path, names in calls():
        body = b"" if method in ("GET", "DELETE") else b"{}"
        asked = "&".join(f"{name}=x" for name in [*names, "forma"])

        odd = admin.raw(f"{path}?{asked}", body, method=method)

        assert odd.status_code == 422, (method, path)
        assert unknown(odd) == ["?forma"], (method, path)
        seen += len(names)
    assert seen > 20
    assert keyspace(redis_client) == {}, "what is refused has written nothing"


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("format=json", "?format"),
        ("format=api&count=1", "?format"),
        ("Count=1", "?Count"),
        ("cuont=1", "?cuont"),
        ("count=1&count=2", "?count"),
        ("=1", "?"),
        ("topic", "?topic"),
        ("%00=1", "?\x00"),
        ("x" * 500 + "=1", "?" + "x" * 80),
    ],
)
def test_a_slip_is_named(redis_client: redis.Redis, query: str, pointer: str) -> None:
    response = api().raw(f"topics?{query}", b"", method="GET")

    document = problem(response, 422, "invalid")
    assert [row["pointer"] for row in document["errors"]] == [pointer]


@pytest.mark.parametrize(
    "query",
    [
        "audit?since=9999-12-31T23:59:59-23:59",
        "audit?until=0001-01-01T00:00%2b01:00",
        "dead?since=9999-12-31T23:59:59-23:59",
        *("results?topic=a&count=%D9%A5", "tasks/x?wait=%D9%A5"),
        *("tasks/x?wait=1_0", "tasks/x?wait=%201", "tasks/x?wait=nan"),
    ],
)  # fmt: skip
def test_times_and_numbers_are_those_of_json_and_the_calendar(
    redis_client: redis.Redis, query: str
) -> None:
    """In UTC as well: what lies outside of it by its own offset is no time."""
    client = api("admin")

    problem(client.raw(query, b"", method="GET"), 422, "invalid")
    assert client.raw("tasks/x?wait=1e-3", b"", method="GET").status_code == 404


def test_a_time_out_of_range_is_named_as_it_was_sent(redis_client: redis.Redis) -> None:
    early = {"topic": "early", "task": 1, "run_at": "1969-12-31T23:59:59Z"}

    told = problem(api().post("enqueue", early), 422, "invalid_option")

    assert "run_at is not a time from 1970 to 2099" in told["detail"]


def test_who_may_not_call_hears_of_that_first(redis_client: redis.Redis) -> None:
    problem(api(None).get("topics", nonsense=1), 401, "not_authenticated")
    problem(api("agent").get("topics", nonsense=1), 403, "permission_denied")


def test_a_cursor_of_another_list_is_told_without_what_was_not_asked(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    client = api()

    plain = client.get("tasks", topic=test_topic, cursor="nonsense")
    of_state = client.get("tasks", topic=test_topic, cursor="nonsense", state="done")

    assert "None" not in problem(plain, 422, "invalid_option")["detail"]
    assert "state 'done'" in problem(of_state, 422, "invalid_option")["detail"]


def test_a_cursor_goes_on_in_its_own_list_and_in_no_other(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client, desk = api("admin"), Desk(test_topic)
    api("viewer")  # a second token
    bus.enqueue_many(f"{test_topic}-b", [1, 2])
    bus.enqueue_many(test_topic, range(6))
    for number, task in enumerate(desk.claim(4)):
        desk.fail(task, final=True, message=("full", "timed out")[number % 2])
    for agent_id in ("a", "b"):
        bus.register_agent(agent_id, "by hand", 60)
        client.post("replays", {"topics": [test_topic], "start": False})
    lists = [
        path
        for method, path, names in calls()
        if method == "GET" and "cursor" in names and path != "audit"  # ids, see there
    ]
    cursors = {}
    for path in lists:
        first = client.get(path, **asked(path, test_topic)).json()
        cursors[path] = first["next"]
        behind = client.get(path, **asked(path, test_topic), cursor=first["next"])
        assert behind.status_code == 200, path
        assert behind.json() != first, path

    assert len(lists) == 7
    for path in lists:
        for other in {*lists} - {path}:
            query = asked(path, test_topic)
            told = client.get(path, **query, cursor=cursors[other])
            assert told.status_code == 422, (path, other, told.json())
            problem(told, 422, "invalid_option")


def asked(path: str, topic: str) -> dict[str, Any]:
    return {"count": 1, **({"topic": topic} if path == "tasks" else {})}


@pytest.mark.parametrize("way", ["before", "after"])
def test_pages_of_large_results_are_shorter_and_miss_none(
    way: str,
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand results of a mebibyte each would be the end of a web process."""
    text = json.dumps({"id": TASK, "result": "x" * 1_000})
    stream = bus.result_stream(test_topic)
    sent = [redis_client.xadd(stream, {"id": TASK, "json": text}) for _ in range(90)]
    told: dict[int, list[list[str]]] = {10**6: [], 10**4: []}

    for bound, pages in told.items():
        monkeypatch.setattr(results, "_BOUND_BYTES", bound)
        query: dict[str, Any] = {"after": "0-0"} if way == "after" else {}
        while True:
            asked = {"topic": test_topic, "count": 90, **query}
            page = api().get("results", **asked).json()
            pages.append([row["entry_id"] for row in page["results"]])
            if page["next"] is None:
                break
            query = {way: page["next"]}

    # A full page may be the last: who goes on is told so.
    assert [*map(len, told[10**6])] == [90, 0]
    assert [*map(len, told[10**4])] == [50, 40]
    for pages in told.values():
        assert sum(pages, []) == (sent if way == "after" else sent[::-1])


@pytest.mark.parametrize("path", ["dead", "tasks"])
def test_pages_of_large_letters_are_shorter_and_miss_none(
    path: str,
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A letter holds its payload, the payloads before it and what each attempt said."""
    sent = [f"0198c0de-0000-7000-8000-{n:012}" for n in range(90)]
    for task_id in sent:
        text = json.dumps({"id": task_id, "payload": 1})
        letter = {"id": task_id, "json": text, "attempts": "x" * 1_000}
        redis_client.xadd(keys.dead_stream(test_topic), letter)
    told: dict[int, list[list[str]]] = {10**6: [], 10**4: []}

    for bound, pages in told.items():
        monkeypatch.setattr(lists, "_BOUND_BYTES", bound)
        monkeypatch.setattr(browse, "_LOOK_BYTES", bound)
        query: dict[str, Any] = {"topic": test_topic, "count": 90}
        while True:
            page = api().get(path, **query).json()
            pages.append([row["id"] for row in page[path]])
            if page["next"] is None:
                break
            query["cursor"] = page["next"]

    assert len(told[10**6][0]) == 90
    assert 0 < len(told[10**4][0]) <= 50
    for pages in told.values():
        assert sum(pages, []) == sent[::-1]


@pytest.mark.parametrize("size", [10, 10**4])
def test_letters_of_many_topics_are_read_together(
    size: int,
    test_topic: str,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lists, "_BOUND_BYTES", 10**6)
    client, sent = api(), []
    for n in range(120):
        topic, task_id = f"{test_topic}-{n % 40}", f"0198c0de-0000-7000-8000-{n:012}"
        text = json.dumps({"id": task_id, "payload": "x" * size})
        letter, died = {"id": task_id, "json": text}, f"{1_700_000_000_000 + n}-0"
        redis_client.xadd(keys.dead_stream(topic), letter, died)
        redis_client.sadd(keys.TOPICS, topic)
        sent.append(task_id)
    client.get("dead")

    with counted(monkeypatch) as trips:
        page = client.get("dead", count=30).json()

    assert [row["id"] for row in page["dead"]] == sent[:89:-1]
    # Names, counts, rate limit; the newest of each topic; then what lies below it, of
    # all together where that is little, else one by one where its turn comes.
    assert len(trips) < (12 if size == 10 else 45)


def test_a_refusal_by_maxlen_says_whose_bound_it_was(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client = api()
    task = {"topic": test_topic, "task": 1, "maxlen": 1}
    assert client.post("enqueue", task).status_code == 201

    refused = client.post("enqueue", {**task, "task": 2})

    assert "maxlen 1" in problem(refused, 429, "topic_full")["detail"]
