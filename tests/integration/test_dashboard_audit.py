"""The audit trail's page: who opens it, what it shows, what it gives as files."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest
from django.test import Client

import bus
from bus import audit, models, roles, whence
from tests.integration.test_dashboard_pages import dead_task
from tests.support.pages import looked_at, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("redis_client")]

ANN = roles.Principal("user:1", "Ann", roles.ADMIN)
NASTY = "<script>alert(1)</script>\"'&{{ 7*7 }}"


def text_of(response: Any) -> str:
    return str(response.content.decode())


def shown(client: Client, query: str = "") -> list[str]:
    response = client.get(f"/audit/{query}")
    assert response.status_code == 200, text_of(response)
    return [entry["verb"] for entry in response.context["entries"]]


@pytest.mark.parametrize("role", ["", "viewer", "agent"])
def test_it_is_for_operators_and_admins(role: str) -> None:
    assert signed_in(role).get("/audit/").status_code == 403


def test_a_stranger_signs_in_first() -> None:
    response = Client().get("/audit/?who=x")

    assert response.status_code == 302
    assert response["Location"] == "/login/?next=/audit/%3Fwho%3Dx"


def test_an_empty_trail_says_what_will_stand_there(operator: Client) -> None:
    seen = looked_at(operator.get("/audit/"))

    assert seen.wrong == [] and "Nothing was done yet" in seen.text


def test_what_people_do_on_pages_is_there_with_its_door(test_topic: str) -> None:
    operator = signed_in("operator")
    task_id = dead_task(test_topic, {"n": 1})
    operator.post(f"/dead/{task_id}/replay?topic={test_topic}")
    operator.post(f"/topics/{test_topic}/pause")

    response = operator.get("/audit/")

    seen = looked_at(response)
    assert seen.wrong == []
    for words in ("operator", "replay", "pause", "page", test_topic):
        assert words in seen.text
    assert f"/tasks/{task_id}/?topic={test_topic}" in unescape(text_of(response))
    newest = response.context["entries"][0]
    assert (newest["before"], newest["after"]) == ({"paused": False}, {"paused": True})
    assert newest["request_id"] and newest["address"] == "127.0.0.1"


def test_it_is_filtered_by_the_address_bar(operator: Client) -> None:
    audit.record(ANN, "limit", topic="a", target="a")
    audit.record(ANN, "drain", target="agent-7")
    with whence.through(whence.API, "req-1"):
        audit.record(ANN, "replay", topic="b", target="x")

    assert shown(operator, "?who=ann") == ["replay", "drain", "limit"]
    assert shown(operator, "?who=bob") == []
    assert shown(operator, "?verb=drain") == ["drain"]
    assert shown(operator, "?topic=b") == ["replay"]
    assert shown(operator, "?target=agent") == ["drain"]
    assert shown(operator, "?request_id=req-1") == ["replay"]
    page = operator.get("/audit/?who=bob&verb=drain")
    assert "Nothing matches" in text_of(page) and 'value="bob"' in text_of(page)


def test_days_are_whole_and_in_utc(operator: Client) -> None:
    at = datetime(2026, 3, 2, 23, 59, 59, tzinfo=UTC)
    audit.record(ANN, "late")
    models.AuditEntry.objects.update(at=at)

    def found(query: str) -> list[str]:
        return shown(operator, query)

    assert found("?since=2026-03-02&until=2026-03-02") == ["late"]
    assert found("?since=2026-03-03") == []
    assert found("?until=2026-03-01") == []


@pytest.mark.parametrize(
    "query",
    ["?since=yesterday", "?until=9999-12-31", "?before=x", "?before=-1", "?before=²"],
)
def test_odd_addresses_are_not_found(operator: Client, query: str) -> None:
    assert operator.get(f"/audit/{query}").status_code == 404


def test_pages_go_on_where_the_last_ended(operator: Client) -> None:
    for n in range(120):
        audit.record(ANN, f"v{n}")
    found: list[str] = []
    url = "/audit/?who=ann"
    for _ in range(5):
        response = operator.get(url)
        found += [entry["verb"] for entry in response.context["entries"]]
        older = re.search(r'href="([^"]+)" rel="next"', text_of(response))
        if older is None:
            break
        url = f"/audit/{unescape(older[1])}"

    assert found == [f"v{n}" for n in reversed(range(120))]
    assert "who=ann" in url


def test_the_same_entries_are_there_as_files(operator: Client) -> None:
    audit.record(ANN, "limit", topic="a", target="=1+1")
    audit.record(ANN, "drain", target="agent-7")

    response = operator.get("/audit/?verb=limit&since=2020-01-01")
    links = dict(response.context["files"])
    assert unescape(text_of(response)).count(links["CSV"]) == 1
    csv, lines = (operator.get(links[kind]) for kind in ("CSV", "JSON Lines"))

    told = b"".join(csv.streaming_content).decode()
    assert (
        csv["Content-Type"].startswith("text/csv")
        and "attachment" in csv.headers["Content-Disposition"]
    )
    assert "'=1+1" in told and "drain" not in told
    assert b"".join(lines.streaming_content).decode().count("\n") == 1


def test_whatever_somebody_wrote_is_shown_as_text(operator: Client) -> None:
    evil = roles.Principal("user:9", NASTY, roles.ADMIN)
    with whence.through(NASTY[:16], NASTY, NASTY):
        audit.record(
            evil, NASTY[:32], target=NASTY, before=NASTY, after=NASTY, **{NASTY: NASTY}
        )

    response = operator.get("/audit/", {"who": "<script>", "target": NASTY})

    assert len(response.context["entries"]) == 1
    assert "{{ 7*7 }}" in looked_at(response).text
    assert "<script>alert" not in text_of(response)


def test_without_redis_the_trail_is_still_there(failure_simulator: Any) -> None:
    audit.record(ANN, "limit", topic="a", target="a")
    client = signed_in("admin")
    failure_simulator.unreachable()

    assert shown(client) == ["limit"]


def test_reading_it_changes_nothing(operator: Client) -> None:
    audit.record(ANN, "limit")

    assert operator.post("/audit/").status_code == 405
    shown(operator)
    assert models.AuditEntry.objects.count() == 1
    assert bus.list_topics() == []
