"""Dead letters and results as files: all of them, step by step, safe to open."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import pytest
import redis

import bus
from bus import accounts, audit, letters, results
from tests.integration.test_feed_follows import publish
from tests.support.api import ROOT, a_dead_one, api, finish, problem, send
from tests.support.desk import Desk
from tests.support.site import LiveSite

pytestmark = pytest.mark.django_db(transaction=True, serialized_rollback=True)


def text_of(response: Any) -> str:
    assert response.status_code == 200
    return b"".join(response.streaming_content).decode()


def jsonl(response: Any) -> list[dict[str, Any]]:
    assert response["Content-Type"].startswith("application/jsonl")
    return [json.loads(line) for line in text_of(response).splitlines()]


def table(response: Any) -> list[dict[str, str]]:
    assert response["Content-Type"].startswith("text/csv")
    return list(csv.DictReader(io.StringIO(text_of(response))))


def dying(topic: str, count: int) -> list[str]:
    """Dead letters, the oldest first."""
    ids = bus.enqueue_many(topic, range(count))
    desk = Desk(topic)
    while items := desk.claim(100):
        desk.fail_all(*(desk.failure(item, final=True) for item in items))
    return list(ids)


def test_letters_as_lines_are_those_of_the_pages(test_topic: str) -> None:
    client = api()
    for n in range(3):
        a_dead_one(client, test_topic, {"n": n})

    rows = jsonl(client.get("dead", topic=test_topic, format="jsonl"))

    assert rows == client.get("dead", topic=test_topic).json()["dead"]


def test_a_file_has_all_letters_of_all_topics_once(test_topic: str) -> None:
    client = api("viewer")
    ids = dying(test_topic, 450) + dying(f"{test_topic}-b", 30)

    rows = jsonl(client.get("dead", format="jsonl"))

    assert sorted(row["id"] for row in rows) == sorted(ids)
    places = [(row["entry_id"].partition("-")[0], row["topic"]) for row in rows]
    assert [ms for ms, _ in places] == sorted((ms for ms, _ in places), reverse=True)


def test_a_file_reads_each_letter_once_however_many_topics_there_are(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 letters of 100 topics took six minutes where each page asked them all."""
    ids = [id for n in range(6) for id in dying(f"{test_topic}-{n}", 120)]
    read: list[str] = []
    parse = letters.parse_letter

    def parsed(*args: Any) -> Any:
        letter = parse(*args)
        read.append(letter.id)
        return letter

    monkeypatch.setattr(letters, "parse_letter", parsed)

    rows = jsonl(api().get("dead", format="jsonl"))

    assert sorted(row["id"] for row in rows) == sorted(ids) == sorted(read)
    read.clear()
    page = api().get("dead", count=60).json()["dead"]
    assert page == rows[:60]
    assert len(read) <= 60 + 2 * 6 * 10


def test_letters_that_leave_while_they_are_read_end_neither_list_nor_file(
    test_topic: str, redis_client: redis.Redis
) -> None:
    client = api()
    dying(test_topic, 210)
    first, *others = bus.list_dead(test_topic, 210)
    redis_client.xdel(bus.dead_stream(test_topic), first.entry_id)
    group = {"topic": test_topic, "group": first.fingerprint}

    rows = jsonl(client.get("dead", format="jsonl", **group))
    assert sorted(row["id"] for row in rows) == sorted(each.id for each in others)


@pytest.mark.parametrize("count", [7, 50])
def test_pages_of_what_failed_alike_skip_and_repeat_nothing(
    test_topic: str, redis_client: redis.Redis, count: int
) -> None:
    """Of a hundred that die in one call many share a millisecond."""
    client = api()
    topics = [test_topic, f"{test_topic}-b"]
    for topic in topics:
        dying(topic, 110)
    [left, *_] = bus.list_dead(test_topic, 1)
    redis_client.xdel(bus.dead_stream(test_topic), left.entry_id)
    expected = {each.id for topic in topics for each in bus.list_dead(topic, 110)}
    paged: list[str] = []
    query: dict[str, Any] = {"group": left.fingerprint, "count": count}

    while True:
        page = client.get("dead", **query).json()
        paged += [row["id"] for row in page["dead"]]
        if page["next"] is None:
            break
        query["cursor"] = page["next"]

    assert sorted(paged) == sorted(expected)


def test_the_filters_of_the_list_are_those_of_the_file(test_topic: str) -> None:
    client = api()
    first = a_dead_one(client, test_topic)
    letter = client.get(f"dead/{first}").json()
    desk = Desk(test_topic)
    other = send(client, test_topic)
    desk.fail(desk.one(), message="out of paper", final=True)

    def found(**query: str) -> list[str]:
        rows = table(client.get("dead", format="csv", **query))
        return [row["id"] for row in rows]

    assert found() == [other, first]
    assert found(error="PAPER") == [other]
    assert found(group=letter["fingerprint"]) == [first]
    assert found(until=letter["died_at"]) == []
    assert found(topic=f"{test_topic}-b") == []


def test_a_letter_in_a_spreadsheet_has_its_error_in_words(test_topic: str) -> None:
    client = api()
    a_dead_one(client, test_topic, {"to": "a@b.c", "n": -5})

    [row] = table(client.get("dead", topic=test_topic, format="csv"))

    assert (row["error_type"], row["error"], row["attempts"]) == (
        "ValueError",
        "no",
        "1",
    )
    assert json.loads(row["task"]) == {"to": "a@b.c", "n": -5}


EVIL = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1+1", "  =1"]


@pytest.mark.parametrize("text", EVIL)
def test_no_cell_is_a_formula(test_topic: str, text: str) -> None:
    client = api()
    send(client, test_topic, text)
    desk = Desk(test_topic)
    desk.fail(desk.one(), message=text, final=True)
    send(client, test_topic, text)
    finish(test_topic, text)

    [letter] = table(client.get("dead", format="csv"))
    [row] = table(client.get("results", topic=test_topic, format="csv"))

    for cell in (letter["error"], letter["task"], row["task"], row["result"]):
        assert cell.replace("\r", "") == f"'{text}".replace("\r", "")
    [line] = jsonl(client.get("dead", format="jsonl"))
    assert line["task"] == text, "programs get what was sent"


def test_results_as_a_file(test_topic: str, redis_client: redis.Redis) -> None:
    client = api("viewer")
    publish(redis_client, test_topic, range(450))

    newest = jsonl(client.get("results", topic=test_topic, format="jsonl"))
    middle = newest[225]["entry_id"]
    since = table(
        client.get("results", topic=test_topic, after=middle, format="csv", count=7)
    )
    below = jsonl(
        client.get("results", topic=test_topic, before=middle, format="jsonl")
    )

    assert [row["result"] for row in newest] == list(range(450))[::-1]
    assert newest[:50] == client.get("results", topic=test_topic).json()["results"]
    assert [int(row["result"]) for row in since] == list(range(225, 450))
    assert [row["result"] for row in below] == list(range(224))[::-1]


def test_a_file_ends_where_results_come_faster_than_it_is_read(
    test_topic: str, redis_client: redis.Redis
) -> None:
    publish(redis_client, test_topic, range(300))
    rows = results.each(test_topic, after="0-0")
    seen = [next(rows)]
    publish(redis_client, test_topic, range(300, 600))

    seen += rows

    assert [row["result"] for _, row in seen] == list(range(300))


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_somebody_nested_deeply_breaks_no_file(
    test_topic: str, redis_client: redis.Redis, kind: str
) -> None:
    deep = "[" * 300 + "]" * 300
    for stream, name in ((bus.dead_stream, "payload"), (bus.result_stream, "result")):
        text = f'{{"id": "by-hand", "{name}": {deep}}}'
        redis_client.xadd(stream(test_topic), {"id": "by-hand", "json": text})
    client = api("viewer")

    for path in ("dead", "results"):
        assert deep in text_of(client.get(path, topic=test_topic, format=kind))


def test_an_empty_list_is_an_empty_file(test_topic: str) -> None:
    client = api("viewer")

    lines = text_of(client.get("dead", format="jsonl"))
    sheet = text_of(client.get("results", topic=test_topic, format="csv"))

    assert lines == ""
    assert sheet.startswith("topic,id,entry_id,") and sheet.count("\n") == 1


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_head_reads_no_further_than_the_first_step_of_a_file(
    test_topic: str, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    client = api()
    ids = dying(test_topic, 120)
    read: list[Any] = []

    def counted(call: Any) -> Any:
        return lambda *args, **more: (read.append(args), call(*args, **more))[1]

    for room, name in ((letters, "parse_letter"), (results, "_read"), (audit, "find")):
        monkeypatch.setattr(room, name, counted(getattr(room, name)))

    for path in ("dead", "results", "audit"):
        asked = f"{path}?format={kind}&topic={test_topic}"
        head = client.raw(asked, b"", method="HEAD")

        assert (head.status_code, text_of(head)) == (200, "")
        assert head["Content-Disposition"].endswith(f'.{kind}"')
    assert len(read) <= 50 < len(ids)


def test_another_kind_of_file_is_422(redis_client: redis.Redis) -> None:
    client = api("viewer")

    for path in ("dead", "results"):
        query = {} if path == "dead" else {"topic": "a"}
        refused = client.get(path, format="xlsx", **query)
        problem(refused, 422, "invalid")
        assert refused.json()["errors"][0]["pointer"] == "?format"


def test_a_bound_token_gets_its_own_letters(test_topic: str) -> None:
    mine, theirs = dying(test_topic, 1), dying("theirs", 1)

    rows = jsonl(api("viewer", (test_topic,)).get("dead", format="jsonl"))

    assert [row["id"] for row in rows] == mine != theirs


def test_it_leaves_the_server_piece_by_piece(
    live_site: LiveSite, test_topic: str
) -> None:
    ids = dying(test_topic, 700)
    token = accounts.create_token("t", "viewer")[1]
    url = f"{live_site.url}{ROOT}/dead"
    headers = {"Authorization": f"Bearer {token}"}

    with (
        httpx2.Client(headers=headers, timeout=60, trust_env=False) as http,
        http.stream("GET", url, params={"format": "jsonl"}) as response,
    ):
        rows = [json.loads(line) for line in response.iter_lines()]
        told = response.headers

    assert [row["id"] for row in rows] == ids[::-1]
    assert told["Transfer-Encoding"] == "chunked" and "Content-Length" not in told
    assert told["Content-Disposition"].startswith('attachment; filename="dead-letters-')


def test_large_lines_leave_a_few_at_a_time(test_topic: str) -> None:
    client = api("viewer")
    bus.enqueue_many(test_topic, range(20))
    finish(test_topic, "x" * 100_000)

    response = client.get("results", topic=test_topic, format="jsonl")

    pieces = list(response.streaming_content)
    assert len(b"".join(pieces).splitlines()) == 20
    assert max(map(len, pieces)) < 400_000


def test_what_cannot_be_read_is_a_problem_and_not_a_file(
    test_topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise bus.BusUnavailable("away")

    client = api("viewer")
    monkeypatch.setattr(results, "_read", away)

    refused = client.get("results", topic=test_topic, format="csv")

    problem(refused, 503, "bus_unavailable")
