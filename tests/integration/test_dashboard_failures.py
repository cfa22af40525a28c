"""Pages show a failure once, whatever topics it met: how often, when and where."""

from __future__ import annotations

import re

import pytest
import redis
from django.test import Client

import bus
from tests.support.desk import Desk
from tests.support.pages import looked_at, signed_in

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("nothing_known"),
]


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


# --- the list, filtered


def listed(client: Client, **asked: str) -> list[str]:
    """The tasks of the letters that the page lists."""
    html = client.get("/dead/", asked).content.decode()
    return re.findall(r'<tr data-entry="[^"]+" data-task="([^"]+)"', html)


def test_letters_are_found_by_what_their_error_says(
    test_topic: str, viewer: Client
) -> None:
    die(test_topic, 2)
    die(test_topic, 1, "no paper")
    [letter] = [
        each
        for each in bus.list_dead(test_topic)
        if each.error["message"] == "no paper"
    ]

    page = looked_at(viewer.get("/dead/?error=NO+pap"))

    assert listed(viewer, error="NO pap") == [letter.id]
    assert "1 among 3 letters." in page.text
    assert "Failures" not in page.text  # these are of all letters
    assert listed(viewer, error="no", topic=f"{test_topic}") != []
    assert "Nothing matches" in looked_at(viewer.get("/dead/?error=nowhere")).text


def test_from_a_later_page_of_a_filter_there_is_a_way_to_the_first(
    test_topic: str, viewer: Client
) -> None:
    die(test_topic, 1)
    way = f'href="?topic={test_topic}&amp;error=no">Newest</a>'
    asked = {"topic": test_topic, "error": "no"}

    first = viewer.get("/dead/", asked).content.decode()
    last = viewer.get("/dead/", asked | {"before": f"1-0@{test_topic}"})

    assert way not in first and way in last.content.decode()
    assert "Nothing more matches" in looked_at(last).text


def test_letters_are_found_by_when_they_died(
    test_topic: str, viewer: Client, redis_client: redis.Redis
) -> None:
    ids = [f"0198c0de-0000-7000-8000-00000000000{at}" for at in range(3)]
    for at, task_id in enumerate(ids):
        sid = f"{1_700_000_000_000 + at * 60_000}-0"
        fields = {"id": task_id, "json": "1"}
        redis_client.xadd(bus.dead_stream(test_topic), fields, id=sid)
    bus.enqueue_task(test_topic, "so that the topic is known")
    first, second = "2023-11-14T22:14:20", "2023-11-14T22:15:20"

    assert listed(viewer) == ids[::-1]
    assert listed(viewer, since=first) == ids[:0:-1]
    assert listed(viewer, until=second) == [ids[1], ids[0]]
    assert listed(viewer, since=first, until="2023-11-14T22:15:20.001") == ids[2:0:-1]
    assert listed(viewer, until="2023-11-14T22:13:20") == []


@pytest.mark.parametrize("asked", ["since=x", "until=99", "error=a&before=x"])
def test_a_filter_that_is_none_is_not_found(
    test_topic: str, viewer: Client, asked: str
) -> None:
    assert viewer.get(f"/dead/?{asked}").status_code == 404


def test_a_filtered_list_is_read_page_by_page(test_topic: str, viewer: Client) -> None:
    die(test_topic, 70)
    die(f"{test_topic}-b", 70)
    die(test_topic, 3, "no paper")

    seen: list[str] = []
    path = "/dead/?error=ink"
    for size in (50, 50, 40):
        html = viewer.get(path).content.decode()
        seen += re.findall(r'<tr data-entry="[^"]+" data-task="([^"]+)"', html)
        assert len(seen) % 50 == size % 50
        older = re.search(r'href="(\?[^"]+)" rel="next"', html)
        path = "/dead/" + (older[1].replace("&amp;", "&") if older else "")

    assert len(seen) == len(set(seen)) == 140
    assert path == "/dead/"


def test_a_filter_goes_into_what_is_chosen_and_into_the_files(
    test_topic: str,
) -> None:
    fp = die(test_topic, 1)
    die(test_topic, 1, "no paper")
    operator = signed_in("operator")
    asked = {"topic": test_topic, "error": "paper", "since": "2023-11-14T22:14:20"}

    html = operator.get("/dead/", asked).content.decode()
    group = operator.get(f"/dead/groups/{fp}/").content.decode()

    assert "Replay all that match" in html
    for name, value in asked.items():
        assert f'<input type="hidden" name="{name}" value="{value}">' in html
    for page, told in ((html, "no paper"), (group, "no ink")):
        links = re.findall(r'href="(/api/v1/mesh/dead\?[^"]+)" download', page)
        assert len(links) == 2
        for link in links:
            file = b"".join(operator.get(link.replace("&amp;", "&"))).decode()
            assert told in file
            assert ("no paper" in file, "no ink" in file).count(True) == 1
