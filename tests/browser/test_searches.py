"""Searches in a real browser: pages that come at once and go on by themselves."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
from playwright.sync_api import Page, Route, expect

import bus
from tests.browser.conftest import (
    Mesh,
    NewPage,
    ended,
    errands,
    is_live,
    violations,
    without_sockets,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]
# More than one look sees, wherever the tests run.
MANY = 12_000
AMONG = f"with “needle” among {MANY:,} tasks"
STRAWS = ["x" * 2_000] * 9_000  # as many as are kept, or nearly


@pytest.fixture
def topic(on_mesh: Mesh) -> str:
    """A topic no other test uses; the mesh knows it already."""
    name = f"searches-{uuid.uuid4().hex[:8]}"
    bus.set_limits(name)
    return name


def hidden(topic: str, at: Sequence[int]) -> list[str]:
    """The tasks at these places among MANY that wait: those that have a needle."""
    payloads = [{"needle": n} if n in at else {"straw": n} for n in range(MANY)]
    ids = bus.enqueue_many(topic, payloads)
    return [ids[n] for n in at]


def buried(topic: str) -> str:
    """The task of a result with a needle, behind 9,000 without."""
    first = bus.enqueue_task(topic, {"needle": 1})
    wait_until(lambda: bus.get_task(first, topic).state == "done", 60)
    bus.enqueue_many(topic, STRAWS)
    wait_until(lambda: bus.stats(topic)["backlog"] == 0, 120)
    return first


def listed(page: Page) -> list[str]:
    links = page.locator("tbody[data-found] td[data-label=Task] a")
    return [link.get_attribute("href") or "" for link in links.all()]


@contextmanager
def held(page: Page, url: str) -> Iterator[None]:
    """The next part of a search, with this address, does not come before the end."""
    page.route(url, lambda route: None)
    yield
    page.unroute(url)  # what was asked goes on


def test_a_search_goes_on_until_it_has_seen_all(topic: str, new_page: NewPage) -> None:
    found = hidden(topic, [10, MANY // 2, MANY - 1])
    page = new_page()

    began = time.monotonic()
    page.goto(f"/tasks/?topic={topic}&state=waiting&q=needle")
    came_s = time.monotonic() - began

    said = page.locator("#sought")
    expect(said).to_have_text(f"3 {AMONG}")
    assert [each.split("/")[2] for each in listed(page)] == found
    expect(page.locator("#onward")).to_have_count(0)
    # Who listens is told once, at the end.
    expect(page.get_by_role("status").filter(has_text="3 with")).to_have_count(1)
    assert came_s < 10


def test_a_search_for_nothing_ends_with_nothing(topic: str, new_page: NewPage) -> None:
    hidden(topic, [])
    page = new_page()

    page.goto(f"/tasks/?topic={topic}&q=needle")

    expect(page.locator("#sought")).to_have_text(f"0 {AMONG}")
    expect(page.get_by_text("Nothing matches")).to_be_visible()
    expect(page.get_by_text("None so far")).to_have_count(0)


def test_a_search_is_stopped_and_gone_on_with_by_hand(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [MANY - 1])
    page = new_page()
    asked: list[Route] = []
    page.route("**/tasks/?*cursor=*", lambda route: asked.append(route))

    page.goto(f"/tasks/?topic={topic}&q=needle")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Searching on")).to_be_hidden()
    further = page.get_by_role("link", name="Go on")
    expect(further).to_be_focused()
    page.unroute("**/tasks/?*cursor=*")
    further.click()

    page.wait_for_url("**/tasks/?*cursor=*")
    expect(page.locator("tbody[data-found] tr")).to_have_count(1)
    assert len(asked) <= 1


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("path", ["/tasks/?", "/tasks/cancel-matching?"])
def test_axe_finds_nothing_while_a_search_goes_on(
    topic: str, new_page: NewPage, axe: str, path: str, theme: str
) -> None:
    hidden(topic, [0])
    page = new_page(quiet=False, color_scheme=theme, reduced_motion="reduce")

    def answer(route: Route) -> None:
        if route.request.is_navigation_request():
            route.continue_()  # and no next part

    page.route("**/tasks/**", answer)
    page.goto(f"{path}topic={topic}&q=needle")
    expect(page.get_by_text("Searching on")).to_be_visible()

    assert violations(page, axe) == []


def test_a_search_gets_over_a_server_that_is_away_for_a_while(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [MANY - 1])
    page = new_page(quiet=False)
    refused = iter([503, 503])

    def answer(route: Route) -> None:
        if status := next(refused, None):
            route.fulfill(status=status, body="away")
        else:
            route.continue_()

    page.route("**/tasks/?*cursor=*", answer)
    page.goto(f"/tasks/?topic={topic}&q=needle")

    expect(page.locator("#sought")).to_have_text(f"1 {AMONG}")


def test_not_all_are_ticked_any_more_once_a_search_adds_rows(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [0, MANY - 1])
    page = new_page()
    every = page.get_by_label("Tick all on this page")
    ticks = page.locator("td.tick input")

    with held(page, "**/tasks/?*cursor=*"):
        page.goto(f"/tasks/?topic={topic}&q=needle")
        every.check()
        expect(ticks).to_have_count(1)

    expect(ticks).to_have_count(2)
    expect(ticks.first).to_be_checked()
    expect(ticks.last).not_to_be_checked()
    expect(every).not_to_be_checked()


def test_all_that_match_are_gathered_before_the_question_can_be_answered(
    topic: str, new_page: NewPage
) -> None:
    found = hidden(topic, [0, MANY - 1])
    page = new_page()

    page.goto(f"/tasks/cancel-matching?topic={topic}&q=needle")
    expect(page.get_by_role("heading", name="Cancel 2 tasks?")).to_be_visible()
    page.get_by_role("button", name="Cancel 2").click()

    expect(page.get_by_text("Of all that matched: 2 cancelled.")).to_be_visible()
    assert [bus.get_task(each, topic).state for each in found] == ["cancelled"] * 2


def test_results_that_fit_are_looked_for_while_new_ones_come(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        first = buried(topic)
        page = new_page()
        page.goto(f"/results/?topic={topic}&q=needle")
        is_live(page)
        last = bus.enqueue_task(topic, {"needle": 2})

        rows = page.locator("tbody[data-live] tr")
        expect(rows).to_have_count(2)
    tasks = [row.get_attribute("data-task") for row in rows.all()]
    assert tasks == [last, first]
    expect(page.locator("#onward")).to_have_count(0)


def test_a_list_without_a_filter_is_paged_by_hand(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_many(topic, range(101))
        ended(topic, 101)
    page = new_page()
    rows, older = page.locator("tbody tr"), page.get_by_role("link", name="Older")

    page.goto(f"/results/?topic={topic}")
    expect(page.get_by_text("Searching on")).to_have_count(0)
    older.click()
    page.wait_for_url("**before=*")
    expect(rows).to_have_count(50)
    older.click()

    expect(rows).to_have_count(1)


def test_without_sockets_a_search_tells_that_more_came_than_it_looked_at(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_task(topic, 0)
        ended(topic, 1)
        page = new_page(quiet=False)
        without_sockets(page)
        page.goto(f"/results/?topic={topic}&q=needle")
        page.mouse.move(2, 2)
        chip, gap = page.locator("#connection"), page.locator("tr.gap")
        expect(chip).to_have_attribute("data-state", "polling")
        expect(gap).to_have_count(0)

        page.route("**/results/**", lambda route: route.abort())
        bus.enqueue_many(topic, [{"needle": 1}, *STRAWS])
        ended(topic, 9_002)
        page.unroute("**/results/**")

        expect(gap).to_contain_text("Some results not shown")
        # What has been looked at does not count again.
        for _ in range(2):
            with page.expect_response("**/results/**"):
                pass
        expect(gap).to_have_count(1)


def test_without_a_script_there_is_a_link_and_a_button(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [MANY - 1])
    page = new_page(java_script_enabled=False)

    page.goto(f"/tasks/?topic={topic}&q=needle")
    while not page.locator("tbody[data-found] tr").count():
        expect(page.get_by_text("None so far")).to_be_visible()
        # Until the next page is there, this one has nothing to count.
        with page.expect_navigation():
            page.get_by_role("link", name="Go on").click()
    page.goto(f"/tasks/cancel-matching?topic={topic}&q=needle")
    while page.locator("[data-further]").count():
        with page.expect_navigation():
            page.get_by_role("button", name="Look for more").click()
    page.get_by_role("button", name="Cancel 1").click()

    expect(page.get_by_text("Of all that matched: 1 cancelled.")).to_be_visible()


def test_a_row_that_was_found_on_the_way_does_not_come_again(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    """The page is read again without a socket, then at once as far as that row."""
    with errands(mesh, topic):
        first = buried(topic)
        page = new_page(quiet=False)
        without_sockets(page)
        page.goto(f"/results/?topic={topic}&q=needle")
        page.mouse.move(2, 2)
        rows = page.locator("tbody[data-live] tr")
        expect(page.locator("#onward")).to_have_count(0)
        expect(rows).to_have_count(1)

        stream, client = bus.result_stream(topic), bus.get_redis()
        straws = [sid for sid, _ in client.xrevrange(stream, count=9_000)]
        client.xdel(stream, *straws)
        last = bus.enqueue_task(topic, {"needle": 2})

        expect(rows.first).to_have_attribute("data-task", last)
    tasks = [row.get_attribute("data-task") for row in rows.all()]
    assert tasks == [last, first]


def test_on_a_later_page_nothing_more_matches(topic: str, new_page: NewPage) -> None:
    hidden(topic, range(60))
    page = new_page()

    page.goto(f"/tasks/?topic={topic}&state=waiting&q=needle")
    page.get_by_role("link", name="Next").click()

    expect(page.get_by_text("Nothing more matches")).to_be_visible()


def test_what_has_the_focus_stays_while_a_search_goes_on(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [MANY - 1])
    page = new_page()
    cursor = page.locator("#onward input[name=cursor]")
    back = page.get_by_role("link", name="Back", exact=True)

    with held(page, "**/tasks/cancel-matching"):
        page.goto(f"/tasks/cancel-matching?topic={topic}&q=needle")
        back.focus()
        before = cursor.input_value()

    expect(cursor).not_to_have_value(before)
    expect(back).to_be_focused()
    expect(page.get_by_role("button", name="Cancel 1")).to_be_visible()
    expect(page.get_by_role("link", name="Keep them")).to_be_focused()


def test_a_button_that_leaves_at_the_end_of_a_search_hands_on_the_focus(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [])
    page = new_page()

    with held(page, "**/tasks/?*cursor=*"):
        page.goto(f"/tasks/?topic={topic}&q=needle")
        page.get_by_role("button", name="Stop").focus()

    expect(page.get_by_text("Nothing matches")).to_be_visible()
    expect(page.locator("#main")).to_be_focused()


def test_a_search_says_that_somebody_signed_out(topic: str, new_page: NewPage) -> None:
    hidden(topic, [MANY - 1])
    page = new_page()

    with held(page, "**/tasks/?*cursor=*"):
        page.goto(f"/tasks/?topic={topic}&q=needle")
        page.context.clear_cookies()

    expect(page.get_by_text("Signed out: not all was looked at.")).to_be_visible()
    expect(page.get_by_role("link", name="Go on")).to_be_visible()


def test_a_search_asks_no_more_where_it_is_refused(
    topic: str, new_page: NewPage
) -> None:
    hidden(topic, [MANY - 1])
    page = new_page(quiet=False)
    asked: list[str] = []

    def refuse(route: Route) -> None:
        asked.append(route.request.url)
        route.fulfill(status=403, body="no")

    page.route("**/tasks/?*cursor=*", refuse)
    page.goto(f"/tasks/?topic={topic}&q=needle")

    expect(page.get_by_text("No longer allowed: not all was")).to_be_visible()
    assert len(asked) == 1
