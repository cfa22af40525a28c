"""The link of a live page in trouble: away, asleep, too much to tell."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

import bus
from bus import keys
from tests.browser.conftest import Mesh, NewPage, errands, is_live
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]

# A hidden tab falls asleep at once, a page is read five times a second.
HURRIED = """
  const later = setTimeout, again = setInterval, hurried = {30000: 0, 5000: 200};
  window.setTimeout = (act, ms, ...more) => later(act, hurried[ms] ?? ms, ...more);
  window.setInterval = (act, ms, ...more) => again(act, hurried[ms] ?? ms, ...more);
"""
# The next try is half an hour away, so that nothing depends on how soon a test looks.
PATIENT = "Math.random = () => 7000;"


@pytest.fixture
def topic(on_mesh: Mesh) -> str:
    """A topic no other test uses; the mesh knows it already."""
    name = f"links-{uuid.uuid4().hex[:8]}"
    bus.set_limits(name)
    return name


def hide(page: Page, hidden: bool) -> None:
    """As if another tab stood before it."""
    page.evaluate(
        """(hidden) => {
          const told = {configurable: true, value: hidden};
          Object.defineProperty(document, "hidden", told);
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def sockets_of(page: Page, through: Callable[[], bool]) -> list[WebSocketRoute]:
    """The sockets that the page opens; they come through while that is so."""
    found: list[WebSocketRoute] = []

    def opened(socket: WebSocketRoute) -> None:
        found.append(socket)
        if through():
            socket.connect_to_server()
        else:
            socket.close(code=1011)

    page.route_web_socket("**/ws/feed", opened)
    return found


def test_a_letter_that_left_while_the_tab_slept_leaves_the_page(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, {"fail": 8})
        wait_until(lambda: bus.stats(topic)["dead"] == 1, 60)
    page = new_page()
    page.add_init_script(HURRIED)
    closed: list[bool] = []
    page.on(
        "websocket",
        lambda socket: socket.on("close", lambda _: closed.append(True)),
    )
    page.goto(f"/dead/?topic={topic}")
    is_live(page)
    row = page.locator(f"tr[data-task='{task_id}']")
    expect(row).to_have_count(1)
    hide(page, True)
    wait_until(lambda: page.wait_for_timeout(20) or closed, 30)

    bus.replay(task_id, topic)
    # It has slept for so long that the event is told no more.
    bus.get_redis().delete(keys.named("events", topic))
    hide(page, False)

    expect(row).to_have_count(0)
    is_live(page)


def test_a_hidden_tab_asks_nothing_during_an_outage(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page, up = new_page(quiet=False), False
    page.add_init_script(HURRIED)
    sockets = sockets_of(page, lambda: up)
    page.goto(f"/results/?topic={topic}")
    expect(page.locator("#connection")).to_have_attribute("data-state", "polling")
    reads: list[str] = []
    page.on("request", lambda request: reads.append(request.url))
    wait_until(lambda: page.wait_for_timeout(20) or reads, 30)

    hide(page, True)
    page.wait_for_timeout(300)  # what was on its way
    before = len(sockets), len(reads)
    page.wait_for_timeout(2_500)
    assert (len(sockets), len(reads)) == before

    up = True
    hide(page, False)
    is_live(page)
    assert len(sockets) == before[0] + 1


def test_the_way_to_retry_keeps_the_focus_while_seconds_pass(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page, up = new_page(quiet=False), False
    page.add_init_script(PATIENT)
    sockets_of(page, lambda: up)
    page.goto(f"/results/?topic={topic}")
    seconds = page.locator("#connection [aria-hidden]")
    expect(seconds).to_contain_text(" in ")
    retry = page.get_by_role("button", name="retry now")
    retry.focus()
    text = seconds.inner_text()

    expect(seconds).not_to_have_text(re.compile(re.escape(text.strip())))
    expect(retry).to_be_focused()

    up = True
    retry.press("Enter")
    is_live(page)


def test_gaps_of_many_topics_are_one_row_and_two_looks_at_the_page(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    sockets = sockets_of(page, lambda: True)
    page.goto(f"/results/?topic={topic}")
    is_live(page)
    page.mouse.move(2, 2)
    asked: list[Route] = []
    page.route("**/results/**", lambda route: asked.append(route))

    for at in range(20):
        stream = bus.result_stream(f"{topic}-{at}")
        gap = {"op": "gap", "stream": stream, "missed": 7, "after": "1-0"}
        sockets[0].send(json.dumps(gap))
    told = page.locator("tr.gap")
    expect(told).to_have_text(re.compile("^140 results not shown"))
    assert len(asked) == 1
    asked[0].continue_()

    wait_until(lambda: page.wait_for_timeout(20) or len(asked) == 2, 30)
    asked[1].continue_()
    page.wait_for_timeout(500)
    assert len(asked) == 2
    expect(told).to_have_count(1)


def test_a_page_with_more_cursors_than_a_frame_holds_takes_new_ones(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page(quiet=False)
    sockets = sockets_of(page, lambda: True)
    page.goto(f"/results/?topic={topic}")
    is_live(page)
    names = [bus.result_stream(f"{topic}-{at:03}-{'x' * 40}") for at in range(900)]
    many = {"op": "results", "rows": [], "after": dict.fromkeys(names, "1-0/1")}
    sockets[0].send(json.dumps(many))

    sockets[0].close(code=1012)

    wait_until(lambda: page.wait_for_timeout(20) or len(sockets) == 2, 30)
    is_live(page)
    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, 1)
        expect(page.locator(f"tr[data-task='{task_id}']")).to_have_count(1)
    assert len(sockets) == 2


def test_a_part_of_a_hidden_page_is_not_asked_for(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    bus.register_agent(topic, "t", 600)
    page = new_page()
    reads: list[str] = []
    page.on("request", lambda request: reads.append(request.url))
    page.goto(f"/agents/{topic}/")
    wait_until(lambda: page.wait_for_timeout(20) or len(reads) > 1, 30)

    hide(page, True)
    page.wait_for_timeout(300)  # what was on its way
    reads.clear()
    page.wait_for_timeout(2_500)
    assert reads == []

    hide(page, False)
    wait_until(lambda: page.wait_for_timeout(20) or reads, 30)
    # One that is gone is looked at less often, until it is back.
    bus.deregister_agent(topic)
    now = page.locator("#now")
    expect(now).to_have_attribute("hx-trigger", "every 30s")
    reads.clear()
    page.wait_for_timeout(2_500)
    assert reads == []
