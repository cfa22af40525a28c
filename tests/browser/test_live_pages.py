"""Pages that stay current by themselves, seen in a real browser on a real mesh."""

from __future__ import annotations

import json
import os
import signal
import uuid
from collections import Counter

import pytest
from playwright.sync_api import Page, WebSocketRoute, expect

import bus
from tests.browser.conftest import (
    LIVE,
    Mesh,
    NewPage,
    ended,
    errands,
    is_live,
    without_sockets,
)
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]


@pytest.fixture
def topic(on_mesh: Mesh) -> str:
    """A topic no other test uses; the mesh knows it already."""
    name = f"pages-{uuid.uuid4().hex[:8]}"
    bus.set_limits(name)
    return name


def shown(page: Page) -> list[str]:
    """The tasks of the rows on the page, the newest first."""
    rows = page.locator("[data-live] tr[data-task]")
    found: list[str] = rows.evaluate_all("rows => rows.map(row => row.dataset.task)")
    return found


def away(page: Page) -> None:
    """The pointer elsewhere: under it nothing moves."""
    page.mouse.move(2, 2)


def test_results_fill_live_without_a_reload(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto("/results/")
    is_live(page)
    page.evaluate("window.sameDocument = true")
    away(page)

    with errands(mesh, topic):
        ids = bus.enqueue_many(topic, [{"n": n} for n in range(120)])
        expect(page.locator("tr[data-task]", has_text=topic)).to_have_count(
            120, timeout=20_000 * PATIENCE
        )

    assert page.evaluate("window.sameDocument") is True
    assert sorted(shown(page)[:120]) == sorted(ids)
    entries = page.locator("tr[data-entry]").evaluate_all(
        "rows => rows.map(row => row.dataset.entry.split('-').map(Number))"
    )
    assert entries == sorted(entries, reverse=True)


def test_results_with_a_filter_fill_with_what_fits(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto("/results/")
    page.get_by_label("Carries").fill("even=true")
    page.get_by_label("Carries").press("Enter")
    page.wait_for_url("**q=even*")
    is_live(page)
    away(page)

    with errands(mesh, topic):
        ids = bus.enqueue_many(topic, [{"even": n % 2 == 0} for n in range(40)])
        expect(page.locator("tr[data-task]", has_text=topic)).to_have_count(
            20, timeout=20_000 * PATIENCE
        )
        bus.wait_result(bus.enqueue_task(topic, {"even": False}), topic)
        wait_until(lambda: not bus.stats(topic)["running"])

    assert sorted(shown(page)) == sorted(ids[::2])


def test_a_killed_agent_turns_late_and_then_gone(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto("/agents/")
    is_live(page)
    away(page)
    agent_id = f"doomed-{topic}"

    with errands(mesh, topic, "--agent-id", agent_id) as process:
        row = page.locator("[data-live=agents] tr", has_text=agent_id)
        expect(row).to_contain_text("idle", timeout=15_000 * PATIENCE)
        process.kill()
        expect(row).to_contain_text("late", timeout=5_000 * PATIENCE)
        expect(row).to_contain_text("gone", timeout=5_000 * PATIENCE)


def test_a_letter_appears_is_replayed_with_one_click_and_comes_back_with_its_history(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/dead/?topic={topic}")
    is_live(page)
    away(page)

    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, {"fail": 7})
        row = page.locator(f"tr[data-task='{task_id}']")
        expect(row).to_contain_text("cannot read page 7")
        first = row.get_attribute("data-entry")
        row.get_by_role("button", name="Replay").click()
        again = page.locator(f"tr[data-task='{task_id}']:not([data-entry='{first}'])")
        away(page)
        expect(again).to_have_count(1)

    expect(page.locator(f"tr[data-task='{task_id}']")).to_have_count(1)
    again.get_by_role("link").first.click()
    expect(page.get_by_text("First life")).to_be_visible()
    expect(page.get_by_text("After replay 1")).to_be_visible()
    assert len(bus.get_dead(task_id, topic).attempts) == 2


def test_a_letter_that_somebody_else_replays_leaves_the_page(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, {"fail": 8})
        wait_until(lambda: bus.stats(topic)["dead"] == 1, 60)
    page = new_page()
    page.goto(f"/dead/?topic={topic}")
    row = page.locator(f"tr[data-task='{task_id}']")
    expect(row).to_have_count(1)
    is_live(page)

    bus.replay(task_id, topic)

    expect(row).to_have_count(0)


def test_a_viewer_cannot_replay(mesh: Mesh, topic: str, new_page: NewPage) -> None:
    page = new_page("vera", quiet=False)  # the refusal below is told in the console
    with errands(mesh, topic):
        old = bus.enqueue_task(topic, {"fail": 1})
        wait_until(lambda: bus.stats(topic)["dead"] == 1, 60)
        page.goto(f"/dead/?topic={topic}")
        is_live(page)
        away(page)
        new = bus.enqueue_task(topic, {"fail": 2})
        expect(page.locator(f"tr[data-task='{new}']")).to_be_visible()
    expect(page.locator(f"tr[data-task='{old}']")).to_be_visible()
    expect(page.get_by_role("button", name="Replay")).to_have_count(0)

    status = page.evaluate(
        """async (url) => {
          const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
          const body = new URLSearchParams({csrfmiddlewaretoken: token});
          return (await fetch(url, {method: "POST", body})).status;
        }""",
        f"/dead/{old}/replay?topic={topic}",
    )

    assert status == 403
    assert bus.get_task(old, topic).state == "dead"


def test_a_restart_of_the_server_under_the_page_shows_every_result_once(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page(quiet=False)  # sockets that fail are told in the console
    ids = []
    with errands(mesh, topic):
        ids += bus.enqueue_many(topic, range(30))
        ended(topic, 30)
        page.goto(f"/results/?topic={topic}")
        is_live(page)
        page.evaluate("window.sameDocument = true")
        away(page)
        before = mesh.child("web")
        os.kill(before, signal.SIGTERM)
        expect(page.locator("#connection")).not_to_have_attribute("data-state", LIVE)
        ids += bus.enqueue_many(topic, range(30, 150))
        ended(topic, 150)
        expect(page.locator("#connection")).to_have_attribute(
            "data-state", LIVE, timeout=40_000 * PATIENCE
        )
        ids += bus.enqueue_many(topic, range(150, 200))
        expect(page.locator("tr[data-task]")).to_have_count(
            200, timeout=20_000 * PATIENCE
        )

    assert mesh.child("web") != before
    assert page.evaluate("window.sameDocument") is True
    assert Counter(shown(page)) == Counter(ids)
    expect(page.locator("tr.gap")).to_have_count(0)


def test_rows_do_not_move_under_the_pointer(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_many(topic, range(5))
        ended(topic, 5)
        page = new_page()
        page.goto(f"/results/?topic={topic}")
        is_live(page)
        before = shown(page)
        page.locator("tr[data-task]").nth(2).hover()
        bus.enqueue_many(topic, range(5, 12))
        bar = page.get_by_role("button", name="7 new · show")
        expect(bar).to_be_visible()
        assert shown(page) == before

        # As a hand does it: over the head to the bar, slower than a page paints.
        page.locator("thead th").nth(2).hover()
        page.wait_for_timeout(1_500)
        bar.hover()
        page.wait_for_timeout(1_500)
        assert shown(page) == before
        bar.click()
        expect(page.locator("tr[data-task]")).to_have_count(12)
        expect(bar).to_be_hidden()


def test_a_paused_page_stands_still_until_it_is_resumed(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_task(topic, 0)
        ended(topic, 1)
        page = new_page()
        page.goto(f"/results/?topic={topic}")
        is_live(page)
        page.get_by_role("button", name="Pause updates").click()
        away(page)
        bus.enqueue_many(topic, range(1, 4))
        expect(page.get_by_role("button", name="3 new · show")).to_be_visible()
        expect(page.locator("tr[data-task]")).to_have_count(1)

        page.get_by_role("button", name="Resume updates").click()
        expect(page.locator("tr[data-task]")).to_have_count(4)


def test_a_page_changes_no_more_often_than_it_was_told(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    heard: list[str] = []
    page = new_page()
    page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda text: heard.append(str(text))),
    )
    with errands(mesh, topic):
        bus.enqueue_task(topic, 0)
        ended(topic, 1)
        page.goto(f"/results/?topic={topic}")
        is_live(page)
        away(page)
        page.get_by_label("How often this page changes").select_option(
            "Update every minute"
        )
        ids = bus.enqueue_many(topic, range(1, 4))
        wait_until(lambda: _told(page, heard, ids), 20)
        expect(page.locator("tr[data-task]")).to_have_count(1)

        page.reload()
        pace = page.get_by_label("How often this page changes")
        expect(pace).to_have_value("60000")  # kept for the next page
        expect(page.locator("tr[data-task]")).to_have_count(4)
        pace.select_option("Update at once")
        bus.enqueue_task(topic, 4)
        expect(page.locator("tr[data-task]")).to_have_count(5)


def _told(page: Page, heard: list[str], ids: list[str]) -> bool:
    """Whether the page's socket has told of all these tasks."""
    page.wait_for_timeout(20)  # lets Playwright hand on what it heard
    return all(any(each in text for text in heard) for each in ids)


def test_a_discarded_letter_leaves_the_letters_and_stays_among_the_results(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        [task_id] = bus.enqueue_many(topic, [{"fail": 1}])
        wait_until(lambda: bus.get_task(task_id, topic).state == "dead", 60)
        page = new_page()
        page.goto(f"/topics/{topic}/")
        is_live(page)
        away(page)
        row = f"tr[data-task='{task_id}']"
        letters = page.locator(f"[data-live=dead] {row}")
        expect(letters).to_have_count(1)

        bus.discard(task_id, topic)

        expect(letters).to_have_count(0)
        expect(page.locator(f"[data-live=results] {row}")).to_contain_text("discarded")
        page.reload()
        is_live(page)
        expect(page.locator(f"[data-live=results] {row}")).to_contain_text("discarded")


def test_without_sockets_the_page_is_read_again_every_few_seconds(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_task(topic, 0)
        ended(topic, 1)
        page = new_page(quiet=False)
        without_sockets(page)
        page.goto(f"/results/?topic={topic}")
        away(page)
        expect(page.locator("#connection")).to_have_attribute("data-state", "polling")
        bus.enqueue_many(topic, range(1, 6))

        expect(page.locator("tr[data-task]")).to_have_count(
            6, timeout=12_000 * PATIENCE
        )


def test_without_sockets_a_page_tells_that_more_came_than_it_holds(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_task(topic, 0)
        ended(topic, 1)
        page = new_page(quiet=False)
        without_sockets(page)
        page.goto(f"/results/?topic={topic}")
        away(page)
        chip, gap = page.locator("#connection"), page.locator("tr.gap")
        expect(chip).to_have_attribute("data-state", "polling")
        expect(gap).to_have_count(0)

        page.route("**/results/**", lambda route: route.abort())
        bus.enqueue_many(topic, range(1, 71))
        ended(topic, 71)
        page.unroute("**/results/**")

        expect(page.locator("tr[data-task]")).to_have_count(
            51, timeout=12_000 * PATIENCE
        )
        expect(gap).to_contain_text("Some results not shown")


@pytest.mark.parametrize(
    ("filtered", "says"),
    [
        ("", "7 results not shown"),
        ("&q=ink", "Of 7 results not all that fit are shown"),
    ],
)
def test_a_gap_does_not_move_a_page_that_is_paused(
    mesh: Mesh, topic: str, new_page: NewPage, filtered: str, says: str
) -> None:
    page = new_page()
    told = json.dumps(
        {
            "op": "gap",
            "stream": bus.result_stream(topic),
            "missed": 7,
            "after": "1-0",
        }
    )
    sockets: list[WebSocketRoute] = []

    def through(socket: WebSocketRoute) -> None:
        socket.connect_to_server()
        sockets.append(socket)

    page.route_web_socket("**/ws/feed", through)
    page.goto(f"/results/?topic={topic}{filtered}")
    is_live(page)
    away(page)
    page.get_by_role("button", name="Pause updates").click()

    sockets[0].send(told)

    expect(page.locator("button.news")).to_have_text("1 new · show")
    expect(page.locator("tr.gap")).to_have_count(0)
    page.get_by_role("button", name="Resume updates").click()
    expect(page.locator("tr.gap")).to_contain_text(says)


def test_a_filter_that_was_left_by_going_back_is_not_shown_as_chosen(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/results/?topic={topic}")
    is_live(page)
    page.get_by_label("State").select_option("cancelled")
    page.wait_for_url("**state=cancelled**")

    page.go_back()

    is_live(page)
    expect(page.get_by_label("State")).to_have_value("")
    expect(page.get_by_label("Topic")).to_have_value(topic)


def test_signing_out_ends_the_live_page(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page(quiet=False)
    page.goto("/results/")
    is_live(page)

    page.context.clear_cookies()
    os.kill(mesh.child("web"), signal.SIGTERM)

    chip = page.locator("#connection")
    expect(chip).to_have_attribute("data-state", "offline", timeout=40_000 * PATIENCE)
    expect(chip).to_contain_text("Signed out")


def test_counts_and_tiles_stay_current(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    bus.enqueue_task(topic, 1)
    page = new_page()
    page.goto("/topics/")
    is_live(page)
    away(page)
    row = page.locator("[data-live=topics] tr", has_text=topic)
    expect(row.locator("[data-label=Waiting]")).to_have_text("1")

    bus.enqueue_many(topic, range(41))

    expect(row.locator("[data-label=Waiting]")).to_have_text("42")


def test_a_topics_page_follows_its_topic(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/topics/{topic}/")
    is_live(page)
    away(page)

    first = bus.enqueue_task(topic, {"n": 1})
    waiting = page.locator("[data-live=topic-waiting]")
    expect(waiting.locator("tr")).to_have_count(1)
    expect(page.get_by_text("Nothing waits.")).to_be_hidden()
    bus.pause(topic)
    expect(page.get_by_role("button", name="Resume topic")).to_be_visible()
    with errands(mesh, topic):
        expect(page.locator("[data-live=topic-agents]")).to_contain_text("idle")
        page.get_by_role("button", name="Resume topic").click()
        is_live(page)
        away(page)
        expect(page.locator(f"tr[data-task='{first}']")).to_be_visible()
        dead = bus.enqueue_task(topic, {"fail": 9})
        ids = bus.enqueue_many(topic, range(30))
        letter = page.locator(f"[data-live=dead] tr[data-task='{dead}']")
        expect(letter).to_contain_text("cannot read page 9")
        expect(page.locator("[data-live=topic-groups] tr")).to_have_count(1)
        results = page.locator("[data-live=results] tr")
        expect(results.first).to_have_attribute("data-task", ids[-1])
        expect(results).to_have_count(10)

    expect(waiting.locator("tr")).to_have_count(0)
    expect(page.locator("[data-live=topic-facts]")).to_contain_text("nothing lost")


def test_a_draft_survives_what_happens_around_it(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/topics/{topic}/")
    is_live(page)
    draft = page.get_by_label("Payload, any JSON")
    draft.fill('{"half": ')

    bus.enqueue_many(topic, range(3))
    tiles = page.locator("[data-live=topic-tiles]")
    expect(tiles.locator(".tile").first).to_contain_text("3")

    expect(draft).to_have_value('{"half": ')
    expect(draft).to_be_focused()


def test_what_others_wrote_is_text_and_nothing_else(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto("/results/")
    is_live(page)
    away(page)
    evil = "</td><img src=x onerror=document.title='owned'><script>alert(1)</script>"

    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, evil)
        row = page.locator(f"tr[data-task='{task_id}']")
        expect(row).to_contain_text("onerror")

    assert row.locator("img, script").count() == 0
    assert "owned" not in page.title()


def test_pages_work_without_a_script(mesh: Mesh, topic: str, new_page: NewPage) -> None:
    with errands(mesh, topic):
        done = bus.enqueue_task(topic, 1)
        dead = bus.enqueue_task(topic, {"fail": 3})
        wait_until(lambda: bus.stats(topic)["backlog"] == 0, 60)
    page = new_page(java_script_enabled=False)

    page.goto(f"/results/?topic={topic}")
    expect(page.locator(f"tr[data-task='{done}']")).to_be_visible()
    page.goto(f"/dead/?topic={topic}")
    page.locator(f"tr[data-task='{dead}']").get_by_role("button", name="Replay").click()

    wait_until(lambda: bus.get_task(dead, topic).state == "waiting", 5)
