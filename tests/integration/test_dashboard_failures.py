"""Pages show a failure once, whatever topics it met: how often, when and where."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import redis
from django.test import Client

import bus
from dashboard import queries
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def fresh(redis_client: redis.Redis) -> Iterator[None]:
    """An empty mesh, whatever was known about its server."""
    queries.forget_checks()
    yield
    queries.forget_checks()


@pytest.fixture
def viewer() -> Client:
    return signed_in("viewer")


def die(topic: str, count: int, message: str = "no ink") -> str:
    """Let tasks of a topic die of this; the failure's fingerprint."""
    bus.enqueue_many(topic, range(count))
    desk = Desk(topic)
    for item in desk.claim(count):
        desk.fail(item, final=True, message=message)
    [found] = [
        each["fingerprint"]
        for each in bus.dead_groups(topic)
        if each["error"]["message"] == message
    ]
    return str(found)


def rows_of(client: Client, path: str) -> list[str]:
    """The rows of the table of failures."""
    html = client.get(path).content.decode()
    section = html.partition('id="groups-title"')[2].partition("</table>")[0]
    return re.findall(r"<tr>\n<td.*?</tr>", section, re.S)


def test_a_failure_of_many_topics_is_one_row(test_topic: str, viewer: Client) -> None:
    names = [f"{test_topic}-{at}" for at in range(5)]
    for at, name in enumerate(names):
        fp = die(name, at + 1)
    die(names[0], 1, "no paper")

    for path in ("/dead/", "/", "/dead/?groups=all"):
        first, second = rows_of(viewer, path)

        assert (">15<" in first, "no ink" in first) == (True, True), path
        assert f'href="/dead/groups/{fp}/"' in first
        named = re.findall(r'href="/topics/([^/]+)/"', first)
        assert named == [names[4], names[3], names[2]]  # those with most letters
        assert "+2" in first
        assert ("no paper" in second, "+" in second) == (True, False)


def test_a_topic_shows_its_own_share_and_leads_to_its_own_letters(
    test_topic: str, viewer: Client
) -> None:
    other = f"{test_topic}-b"
    fp = die(test_topic, 2)
    die(other, 3)

    [row] = rows_of(viewer, f"/dead/?topic={other}")

    assert ">3<" in row
    assert f'href="/dead/groups/{fp}/?topic={other}"' in row


def test_a_row_draws_when_its_letters_died_but_not_in_the_list_of_all(
    test_topic: str, viewer: Client
) -> None:
    die(test_topic, 2)

    for path in ("/dead/", "/", f"/topics/{test_topic}/"):
        [row] = rows_of(viewer, path)
        # An hour may have turned between the two of them.
        label = r'aria-label="Died, last 24 hours: 0 to [12] per hour"'
        assert re.search(label, row), path
    [row] = rows_of(viewer, "/dead/?groups=all")
    assert "<svg" not in row


def test_more_failures_than_fit_are_counted_once_each(
    test_topic: str, viewer: Client
) -> None:
    for at, kind in enumerate("abcdefghijkl"):
        die(f"{test_topic}-{at % 2}", 1, f"{kind}{kind}")
    die(f"{test_topic}-0", 1, "everywhere")
    die(f"{test_topic}-1", 1, "everywhere")

    page = looked_at(viewer.get("/dead/"))

    assert "3 more" in page.text
    assert len(rows_of(viewer, "/dead/?groups=all")) == 13


def test_a_failure_tells_its_topics_its_agents_and_its_hours(
    test_topic: str, viewer: Client
) -> None:
    other = f"{test_topic}-b"
    fp = die(test_topic, 2)
    die(other, 3)
    bus.enqueue_task(test_topic, "by hand")
    [(entry_id, _)] = bus.read_group(test_topic, "workers", "me", block_ms=0)
    bus.move_to_dead(test_topic, entry_id, {"error": "by hand"})

    response = viewer.get(f"/dead/groups/{fp}/")
    html, text = response.content.decode(), looked_at(response).text

    assert "5 letters" in text
    assert "last attempts of the 5 letters below" in text
    assert re.search(r'href="/agents/desk/".*?<td class="num"[^>]*>5</td>', html, re.S)
    assert "5 in the last 24 hours" in html  # said of the drawing
    links = re.findall(rf'href="/dead/groups/{fp}/\?topic=([^"]+)"', html)
    assert links[:2] == [other, test_topic]


def test_a_failure_in_one_topic_says_that_it_is_elsewhere_too(
    test_topic: str, viewer: Client
) -> None:
    other = f"{test_topic}-b"
    fp = die(test_topic, 2)
    die(other, 3)

    text = looked_at(viewer.get(f"/dead/groups/{fp}/?topic={test_topic}")).text

    assert "2 letters" in text
    assert "1 other topic" in text
    assert viewer.get(f"/dead/groups/{fp}/?topic={test_topic}-c").status_code == 404


def test_the_overview_counts_the_topics_in_which_something_died(
    test_topic: str, viewer: Client
) -> None:
    die(test_topic, 1)
    die(f"{test_topic}-b", 1)

    assert "in 2 topics" in looked_at(viewer.get("/")).text
