"""What a topic did over time: the rings of its scripts, drawn on its page."""

from __future__ import annotations

import pytest
import redis
from django.test import Client

import bus
from bus import errors, keys, rates
from tests.support.desk import Desk
from tests.support.pages import looked_at

pytestmark = pytest.mark.django_db


def hour_of(client: redis.Redis) -> int:
    return int(client.time()[0]) // 3600


def write(client: redis.Redis, topic: str, hours_ago: int, counts: str) -> None:
    """Counts of an hour as the scripts leave them."""
    at = hour_of(client) - hours_ago
    client.hset(keys.named("hours", topic), str(at % 720), f"{at} {counts}")


# --- the rings


def test_an_hour_counts_its_ring_and_the_minute_that_still_runs(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_many(test_topic, range(3))
    desk = Desk(test_topic)
    desk.complete(*desk.claim(2))
    desk.fail(desk.one(), final=True)
    write(redis_client, test_topic, 5, "a=9 d=7 t=1 x=1 l=2 w3=7 r10=9")

    found = rates.hours(test_topic, 24)

    now = found[-1].at_ms
    assert [each.at_ms for each in found] == [
        now - ago * 3_600_000 for ago in range(23, -1, -1)
    ]
    # An hour may have ended since.
    assert sum(each.accepted for each in found[-2:]) == 3
    assert sum(each.done for each in found[-2:]) == 2
    assert sum(each.dead for each in found[-2:]) == 1
    [old] = [each for each in found if each.accepted == 9]
    assert (old.done, old.retried, old.dead, old.lost) == (7, 1, 1, 2)
    assert (old.wait_ms(0.5), old.run_ms(0.95)) == (8, 1_024)


def test_a_minute_that_ended_is_counted_once(
    test_topic: str, redis_client: redis.Redis
) -> None:
    bus.enqueue_task(test_topic, 1)
    minute = int(redis_client.time()[0]) // 60
    key = keys.named("minutes", test_topic)
    redis_client.delete(key)
    redis_client.hset(key, mapping={"last": minute - 1})
    redis_client.hset(key, str((minute - 1) % 180), f"{minute - 1} A=0 d=4 r0=4")

    before = rates.hours(test_topic, 3)
    bus.enqueue_task(test_topic, 2)  # the first call after it adds it to its hour
    after = rates.hours(test_topic, 3)

    assert sum(each.done for each in before) == 4
    assert sum(each.done for each in after) == 4
    assert sum(each.accepted for each in before) == 1
    assert sum(each.accepted for each in after) == 2


def test_hours_of_a_month_ago_count_nothing(
    test_topic: str, redis_client: redis.Redis
) -> None:
    write(redis_client, test_topic, 720, "a=9 d=9")
    write(redis_client, test_topic, 721, "nonsense d=x w99=3 =")

    found = rates.hours(test_topic, rates.HOURS_MOST)

    assert len(found) == 719
    assert not any(each.done or each.accepted for each in found)


@pytest.mark.parametrize("count", [0, 720])
def test_hours_outside_the_ring_are_refused(test_topic: str, count: int) -> None:
    with pytest.raises(errors.InvalidOption, match="is not 1 to 719"):
        rates.hours(test_topic, count)


# --- the page


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
    write(redis_client, test_topic, 20, "a=1234 d=1200 x=34 w3=1200 r10=1234")

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
    now = hour_of(redis_client)
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
