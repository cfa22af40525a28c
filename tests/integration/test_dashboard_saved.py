"""Saved views: filters of a list under a name, for whoever saved them."""

from __future__ import annotations

import re
from urllib.parse import parse_qs, urlencode

import pytest
import redis
from django.test import Client

import bus
from bus.models import AuditEntry, SavedView
from dashboard import saved
from tests.support.pages import looked_at, signed_in

pytestmark = pytest.mark.django_db


def save(client: Client, query: str, name: str, page: str = "tasks") -> tuple[str, str]:
    """Where the form leads, and the text there."""
    form = {"page": page, "query": query, "name": name}
    return led(client, "/views/save", form)


def led(client: Client, path: str, form: dict[str, str]) -> tuple[str, str]:
    response = client.post(path, form)
    assert response.status_code == 303
    return response["Location"], looked_at(client.get(response["Location"])).text


def chips(client: Client, path: str) -> list[tuple[str, str, bool]]:
    """Address, name and "you are here" of each saved view on a page."""
    source = client.get(path).content.decode()
    nav = re.search(r'<nav aria-label="Saved views">(.*?)</nav>', source, re.DOTALL)
    found = re.findall(r'href="([^"]*)"([^>]*)>([^<]*)</a>', nav[1] if nav else "")
    return [(url, name, "aria-current" in more) for url, more, name in found]


def test_a_view_is_saved_found_again_and_forgotten(
    test_topic: str, viewer: Client
) -> None:
    bus.enqueue_task(test_topic, 1)
    here = f"/tasks/?state=waiting&topic={test_topic}"
    before = viewer.get(f"{here}&cursor=").content.decode()
    query = f"state=waiting&amp;topic={test_topic}"

    where, text = save(viewer, f"topic={test_topic}&state=waiting&cursor=x", "Mine now")
    elsewhere = chips(viewer, "/tasks/")
    again = chips(viewer, here)

    assert f'name="query" value="{query}"' in before
    assert where == here
    assert "Saved as “Mine now”" in text and "Forget this view" in text
    assert elsewhere == [(f"/tasks/?{query}", "Mine now", False)]
    assert again == [(f"/tasks/?{query}", "Mine now", True)]
    assert chips(viewer, "/dead/") == []

    gone = {"page": "tasks", "name": "Mine now"}
    where, text = led(viewer, "/views/forget", gone)
    _, twice = led(viewer, "/views/forget", gone)

    assert where == here and "is forgotten" in text
    assert "no such saved view" in twice
    assert chips(viewer, "/tasks/") == []
    assert not AuditEntry.objects.exists()


def test_a_view_of_results_keeps_their_filter(
    viewer: Client, redis_client: redis.Redis
) -> None:
    query = "topic=one&state=done&agent=a-1&q=n%3D1"

    where, _ = save(viewer, f"{query}&before=x", "mine", "results")

    assert where == f"/results/?{query}"


def test_a_list_that_is_not_found_is_forgotten_not_saved(
    viewer: Client, redis_client: redis.Redis
) -> None:
    path = "/results/?topic=gone"
    before = viewer.get(path)

    save(viewer, "topic=gone", "mine", "results")
    after = viewer.get(path)

    assert (before.status_code, after.status_code) == (404, 404)
    assert b"Save this view" not in before.content
    assert b"Forget this view" in after.content


def test_the_same_name_again_replaces_it(viewer: Client) -> None:
    save(viewer, "state=dead", "mine")
    save(viewer, "state=done", " mine ")

    assert chips(viewer, "/tasks/") == [("/tasks/?state=done", "mine", False)]


def test_views_are_ones_own(viewer: Client) -> None:
    save(viewer, "state=dead", "mine")
    other = signed_in("operator")

    _, text = led(other, "/views/forget", {"page": "tasks", "name": "mine"})

    assert chips(other, "/tasks/") == []
    assert "no such saved view" in text
    assert [name for _, name, _ in chips(viewer, "/tasks/")] == ["mine"]


@pytest.mark.parametrize("page", sorted(saved.FILTERS))
def test_every_list_with_filters_has_them(page: str, redis_client: redis.Redis) -> None:
    operator = signed_in("operator")
    bus.enqueue_task("one", 1)
    name = saved.FILTERS[page][-1]
    text = {"groups": "all", "topic": "one"}.get(name, "abc")

    where, _ = save(operator, f"{name}={text}&after=x", "one", page)

    assert where == f"/{page}/?{name}={text}"
    assert chips(operator, f"/{page}/") == [(where, "one", False)]


@pytest.mark.parametrize(
    ("query", "name", "says"),
    [
        ("", "mine", "Choose a filter first"),
        ("cursor=x&nonsense=1", "mine", "Choose a filter first"),
        ("state=dead", "  ", "needs a name"),
        ("state=dead", "x" * 41, "needs a name"),
        ("state=dead", "a\u202eb", "needs a name"),
        (f"q={'x' * 4_000}", "mine", "too long to be saved"),
    ],
)
def test_what_cannot_be_saved_is_told(
    viewer: Client, query: str, name: str, says: str
) -> None:
    _, text = save(viewer, query, name)

    assert says in text
    assert not SavedView.objects.exists()


def test_a_list_has_so_many_and_no_more(
    viewer: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dashboard.saving.MOST", 2)
    for name in "ab":
        save(viewer, "state=dead", name)

    _, full = save(viewer, "state=done", "c")
    _, replaced = save(viewer, "state=done", "a")

    assert "forget one first" in full and "Saved as" in replaced
    assert SavedView.objects.count() == 2


def test_an_unknown_list_is_not_found_and_a_name_is_text(viewer: Client) -> None:
    form = {"page": "settings", "query": "q=1", "name": "x"}
    nasty = "<b onclick=alert(1)>"

    save(viewer, "state=dead", nasty)

    assert viewer.post("/views/save", form).status_code == 404
    assert viewer.post("/views/forget", form).status_code == 404
    assert viewer.get("/views/save").status_code == 405
    assert nasty not in viewer.get("/tasks/").content.decode()


def test_nobody_without_a_role_saves(redis_client: redis.Redis) -> None:
    form = {"page": "tasks", "query": "state=dead", "name": "x"}

    assert signed_in("").post("/views/save", form).status_code == 403
    assert Client().post("/views/save", form).status_code == 302
    assert not SavedView.objects.exists()


def test_a_filter_in_any_script_is_saved_whole(viewer: Client) -> None:
    words = "\u4e2d" * 200

    save(viewer, urlencode({"q": words}), "long")

    [kept] = SavedView.objects.all()
    assert parse_qs(kept.query) == {"q": [words]}
    assert chips(viewer, f"/tasks/?{urlencode({'q': words})}")[0][2]


def test_a_name_that_is_none_is_not_there(viewer: Client) -> None:
    _, text = led(viewer, "/views/forget", {"page": "tasks", "name": "a\0b"})

    assert "no such saved view" in text
