"""Health and the page that describes the API: what is told to whom."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from django.db import OperationalError
from django.test import Client

import bus
from bus import accounts, keys
from bus.api.views import health
from tests.support.api import ROOT, Api, api, problem
from tests.support.nemesis import FailureSimulator
from tests.support.waiting import wait_until

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


def test_health_names_a_damaged_key_beside_the_rest(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    redis_client.delete(keys.named("counters", test_topic))
    redis_client.set(keys.named("counters", test_topic), "no hash")
    health.forget()

    answer = api("viewer").get("health")

    assert answer.status_code == 200
    assert answer.json()["status"] == "degraded"
    assert answer.json()["ledgers"] == []


Looks = Callable[[str], list[str]]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """`looks("checks")`: the looks of `bus.health` from now on, each a slow one."""

    def counted(name: str) -> list[str]:
        look, seen = getattr(health.health, name), list[str]()

        def slow() -> Any:
            seen.append(name)
            time.sleep(0.1)  # so that those who ask at once would meet
            return look()

        monkeypatch.setattr(health.health, name, slow)
        return seen

    return counted


@pytest.mark.parametrize(
    ("path", "name"), [("health", "checks"), ("health/ready", "refuses")]
)
def test_of_many_who_ask_at_once_one_looks(
    redis_client: redis.Redis, looks: Looks, path: str, name: str
) -> None:
    seen, gate = looks(name), threading.Barrier(10)

    def one(_: int) -> Any:
        gate.wait()
        return api(None).get(path).json()

    began = time.monotonic()
    with ThreadPoolExecutor(10) as crowd:
        found = list(crowd.map(one, range(10)))

    assert seen == [name] or time.monotonic() - began > 1
    assert all(each["status"] == found[0]["status"] for each in found)


def test_whether_it_is_ready_is_believed_for_a_second(
    redis_client: redis.Redis, looks: Looks, failure_simulator: FailureSimulator
) -> None:
    client, seen = api(None), looks("refuses")
    assert client.get("health/ready").status_code == 200
    asked = time.monotonic()
    failure_simulator.unreachable()

    again = client.get("health/ready")
    took_s = time.monotonic() - asked

    assert len(seen) == 1 or took_s > 1
    assert again.status_code == (200 if len(seen) == 1 else 503)
    wait_until(lambda: client.get("health/ready").status_code == 503, 2)


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


@pytest.mark.parametrize("accept", ["*/*", "text/html"])
def test_the_docs_are_away_while_the_database_is(
    accept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OperationalError("connection to 10.0.0.7 refused")

    monkeypatch.setattr(accounts, "principal_of", away)
    headers = {"Accept": accept, "Authorization": f"Bearer {'a' * 64}"}

    page = Client().get(f"{ROOT}/docs", headers=headers)

    assert "outcome" not in problem(page, 503, "database_unavailable")
    assert page["Retry-After"] == "5" and b"10.0.0.7" not in page.content
    assert "WWW-Authenticate" not in page


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
