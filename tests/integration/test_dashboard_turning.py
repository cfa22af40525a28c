"""Lists of the dashboard turned page by page, and where a live page goes on."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

import bus
from tests.integration.test_dashboard_pages import dead_task
from tests.support.pages import looked_at

pytestmark = [
    pytest.mark.django_db,
    pytest.mark.usefixtures("nothing_known"),
]


def test_a_page_goes_on_from_what_it_shows(test_topic: str, viewer: Client) -> None:
    task_id = bus.enqueue_task(test_topic, 1)
    bus.cancel(task_id, test_topic)
    [(newest, _)] = bus.get_redis().xrevrange(bus.result_stream(test_topic), count=1)

    context = viewer.get("/results/", {"topic": test_topic}).context

    assert context["live"] == {
        "after": {bus.result_stream(test_topic): newest},
        "topics": [test_topic],
    }


def test_a_topic_without_results_goes_on_from_the_beginning(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, 1)

    live = viewer.get("/results/").context["live"]

    assert live == {"after": {bus.result_stream(test_topic): "0-0"}, "topics": None}


@pytest.mark.parametrize("path", ["/results/", "/dead/"])
@pytest.mark.parametrize("end", ["after=9999999999999-0", "before=0-1"])
def test_beyond_an_end_of_a_list_there_is_a_way_back(
    path: str, end: str, test_topic: str, viewer: Client
) -> None:
    dead_task(test_topic, 1)
    bus.cancel(bus.enqueue_task(test_topic, 2), test_topic)

    page = viewer.get(f"{path}?{end}@{test_topic}")

    assert "Nothing newer or older here" in looked_at(page).text
    assert "Newest " in looked_at(page).text


@pytest.mark.parametrize("path", ["/results/", "/dead/"])
def test_paging_shows_everything_once_and_comes_back(
    path: str, test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.lists.PAGE", 4)
    sent = []
    for at in range(9):
        topic = f"{test_topic}-{at % 3}"
        if path == "/dead/":
            sent.append(dead_task(topic, at))
        else:
            sent.append(bus.enqueue_task(topic, at))
            bus.cancel(sent[-1], topic)

    def ids(page: Any) -> list[str]:
        rows = page.context["page"].items
        return [row["id"] if isinstance(row, dict) else row.id for row in rows]

    pages = [viewer.get(path)]
    while older := pages[-1].context["page"].older:
        pages.append(viewer.get(path, {"before": older}))
    back = viewer.get(path, {"after": pages[-1].context["page"].newer})

    # Ends within one millisecond may come in any order, but no one twice or never.
    assert sorted(each for page in pages for each in ids(page)) == sorted(sent)
    assert [len(ids(page)) for page in pages] == [4, 4, 1]
    assert ids(back) == ids(pages[-2])
    assert pages[0].context["live"] and pages[1].context["live"] is None


def test_tasks_are_paged_state_by_state(
    test_topic: str, viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.lists.PAGE", 3)
    ended = [bus.enqueue_task(f"{test_topic}-b", at) for at in range(2)]
    for task_id in ended:
        bus.cancel(task_id, f"{test_topic}-b")
    waiting = bus.enqueue_many(f"{test_topic}-a", [1, 2])
    waiting += bus.enqueue_many(f"{test_topic}-b", [1, 2])

    page = viewer.get("/tasks/")
    found = [task.id for task in page.context["page"].tasks]
    while cursor := page.context["page"].next:
        page = viewer.get("/tasks/", {"cursor": cursor})
        found += [task.id for task in page.context["page"].tasks]

    assert found == [*waiting, *ended[::-1]]
