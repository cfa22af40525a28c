"""Health and the page that describes the API: what is told to whom."""

from __future__ import annotations

import pytest
import redis
from django.test import Client

import bus
from bus import accounts, keys
from bus.api.views import health
from tests.support.api import ROOT, Api, api, problem

pytestmark = pytest.mark.django_db


def test_health_is_open_and_says_more_to_who_may_read(
    redis_client: redis.Redis,
) -> None:
    for path in ("health/live", "health/ready"):
        response = api(None).get(path)
        assert (response.status_code, response.json()) == (200, {"status": "ok"})

    open_one = api(None).get("health").json()
    told = api("viewer").get("health").json()

    assert {row["name"] for row in open_one["checks"]} >= {"redis", "eviction"}
    for row in open_one["checks"]:
        assert row["why"].isalpha() if row["status"] != "ok" else "why" not in row
        assert "says" not in row
    assert all(row["says"] for row in told["checks"])


def test_health_tells_strangers_what_is_wrong_and_of_whom_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    redis_client.hincrby(keys.named("counters", test_topic), "accepted", 5)
    health.forget()

    stranger = api(None).get("health")
    told = api("viewer").get("health").json()
    _, text = accounts.create_token("bound", "viewer", ("other-",))
    bound = Api(text).get("health")

    assert stranger.json()["status"] == "degraded"
    found = {row["name"]: row.get("why") for row in stranger.json()["checks"]}
    assert (found["topics"], found["agents"]) == ("drift", "none")
    assert test_topic.encode() not in stranger.content + bound.content
    assert "ledgers" not in stranger.json()
    [ledger] = told["ledgers"]
    assert (ledger["topic"], ledger["drift"], ledger["live"]) == (test_topic, 5, 1)
    assert bound.json()["ledgers"] == []


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "nonsense"])
def test_whoever_is_no_browser_gets_the_docs_with_a_token_and_401_without(
    accept: str,
) -> None:
    headers = {"Accept": accept} if accept else {}
    _, text = accounts.create_token("reader", "viewer")
    own = {**headers, "Authorization": f"Bearer {text}"}

    page = Client().get(f"{ROOT}/docs", headers=own)
    none = Client().get(f"{ROOT}/docs", headers=headers)
    wrong = {**headers, "Authorization": "Bearer nonsense"}
    other = Client().get(f"{ROOT}/docs", headers=wrong)

    assert page.status_code == 200 and b"swagger-ui" in page.content
    problem(none, 401, "not_authenticated")
    problem(other, 401, "invalid_token")
    assert none["WWW-Authenticate"] == other["WWW-Authenticate"] == "Bearer"


def test_the_docs_are_a_page_to_read_whatever_the_method() -> None:
    _, text = accounts.create_token("reader", "viewer")
    own = {"Authorization": f"Bearer {text}"}

    asked = Client().options(f"{ROOT}/docs")
    posted = Client(enforce_csrf_checks=True).post(f"{ROOT}/docs", headers=own)
    traced = Client().generic("TRACE", f"{ROOT}/docs", headers=own)

    assert (asked.status_code, asked.content) == (204, b"")
    problem(posted, 405, "method_not_allowed")
    problem(traced, 405, "method_not_allowed")
    assert {each["Allow"] for each in (asked, posted, traced)} == {"GET, HEAD, OPTIONS"}


def test_the_docs_are_for_whoever_is_signed_in() -> None:
    visitor = Client()
    accounts.ensure_user("reader", "viewer", "a long password")
    reader = Client()
    reader.login(username="reader", password="a long password")

    page = reader.get(f"{ROOT}/docs")

    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    sent = visitor.get(f"{ROOT}/docs", headers=browser)
    assert sent["Location"] == f"/login/?next={ROOT}/docs"
    assert page.status_code == 200
    text = page.content.decode()
    assert "<script>" not in text and "<style" not in text and "//cdn" not in text
