"""What a topic did over time, drawn on its page."""

from __future__ import annotations

import pytest
import redis
from django.test import Client

import bus
from bus import keys
from tests.support import rings
from tests.support.desk import Desk
from tests.support.pages import looked_at

pytestmark = pytest.mark.django_db


def test_the_last_hour_is_drawn_by_outcome_and_told_in_numbers(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_many(test_topic, range(4))
    desk = Desk(test_topic)
    desk.complete(*desk.claim(2))
    desk.fail(desk.one(), final=True)

    page = viewer.get(f"/topics/{test_topic}/")
    seen = looked_at(page)

    html = page.content.decode()
    assert 'data-live="topic-charts"' in html
    for shape in ("done", "dead", "came", "half", "most"):
        assert f'<path class="{shape}"' in html, shape
    assert '<path class="retried"' not in html
    for words in ("done 2", "dead 1", "came 4", "half within 2 ms"):
        assert words in seen.text, words
    rows = page.context["chart"]["rows"]
    assert sum(row["came"] for row in rows) == 4
    assert sum(row["done"] for row in rows) == 2


@pytest.mark.parametrize(
    ("span", "bars"), [("day", 24), ("week", 168), ("month", 30), ("hour", 60)]
)
def test_a_longer_time_has_its_own_bars(
    span: str, bars: int, test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    hour = rings.hour_of(redis_client) - 20
    rings.write_hour(
        redis_client, test_topic, hour, "a=1234 d=1200 x=34 w3=1200 r10=1234"
    )

    page = viewer.get(f"/topics/{test_topic}/", {"span": span})
    seen = looked_at(page)

    html = page.content.decode()
    assert html.count("<rect ") == 3 * bars
    assert f'href="/topics/{test_topic}/?span={span}#pace" aria-current="page"' in html
    assert ("done 1,200" in seen.text) == (span != "hour")
    # Only the hour is told live: nobody watches a day go by.
    assert ("topic-charts" in html) == (span == "hour")


def test_days_are_counted_together(
    test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    now = rings.hour_of(redis_client)
    rows = {str((now - ago) % 720): f"{now - ago} d=1 w0=1" for ago in range(24, 96)}
    redis_client.hset(keys.named("hours", test_topic), mapping=rows)

    page = viewer.get(f"/topics/{test_topic}/", {"span": "month"})

    done = [row["done"] for row in page.context["chart"]["rows"]]
    assert sum(done) == 72 and max(done) == 24


def test_a_topic_that_did_nothing_says_so(test_topic: str, viewer: Client) -> None:
    bus.create_consumer_group(test_topic, "g")

    text = looked_at(viewer.get(f"/topics/{test_topic}/?span=week")).text

    assert "Nothing came or ended in this time." in text


def test_an_unknown_span_is_no_page(test_topic: str, viewer: Client) -> None:
    bus.enqueue_task(test_topic, 1)

    response = viewer.get(f"/topics/{test_topic}/", {"span": "year"})

    assert response.status_code == 404
    assert "there are hour, day, week, month" in looked_at(response).text


def test_a_topic_tells_what_memory_it_takes(test_topic: str, viewer: Client) -> None:
    bus.enqueue_many(test_topic, ["x" * 2_000] * 50)

    page = viewer.get(f"/topics/{test_topic}/")

    memory = page.context["memory"]
    assert 100_000 < memory["backlog"] < 1_000_000
    assert memory["results"] == 0 < memory["history"]
    assert "Memory it takes" in looked_at(page).text
