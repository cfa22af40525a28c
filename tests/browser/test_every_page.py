"""Every page in a real browser: for everybody (axe-core), and without any script."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

import bus
from bus import connection, scripts
from tests.browser.conftest import Mesh, NewPage, violations
from tests.support.showcase import Showcase, showcase
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.pages, pytest.mark.timeout(1200)]

PHONE = {"width": 390, "height": 844}
NARROW = {"width": 320, "height": 640}  # WCAG 1.4.10
WIDE = {"width": 1440, "height": 900}


@pytest.fixture(scope="module")
def shown(mesh: Mesh) -> Iterator[Showcase]:
    """The mesh with something of everything; `bus` in this process talks to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", mesh.env["REDIS_URL"])
        connection.reset()
        scripts.forget_topics()
        with showcase(mesh.env) as made:
            yield made
    connection.reset()
    scripts.forget_topics()


def fits(page: Page) -> bool:
    """Whether nothing sticks out at the side."""
    root = "document.documentElement"
    return bool(page.evaluate(f"{root}.scrollWidth <= {root}.clientWidth"))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page(
    shown: Showcase, new_page: NewPage, axe: str, theme: str
) -> None:
    # A page that is not there is told in the console.
    page = new_page(
        quiet=False, viewport=WIDE, color_scheme=theme, reduced_motion="reduce"
    )
    found = {}

    for name, path in shown.pages().items():
        page.goto(path)
        expect(page.locator("h1")).to_have_count(1)
        if wrong := violations(page, axe):
            found[name] = wrong

    page.context.clear_cookies()
    page.goto("/login/")
    if wrong := violations(page, axe):
        found["login"] = wrong
    assert found == {}


@pytest.mark.parametrize("size", [PHONE, NARROW], ids=["phone", "narrow"])
def test_nothing_sticks_out_at_the_side(
    shown: Showcase, new_page: NewPage, size: dict[str, int]
) -> None:
    page = new_page(quiet=False, viewport=size)
    wide = []

    for name, path in shown.pages().items():
        page.goto(path)
        if not fits(page):
            wide.append(name)

    assert wide == []


def test_a_view_is_saved_and_forgotten_without_a_script(new_page: NewPage) -> None:
    page = new_page(java_script_enabled=False, viewport=NARROW)
    page.goto("/tasks/?state=waiting&q=no+such+task+in+this+mesh")
    name = "a name as long as they may be, forty long"[:40]
    page.locator("summary", has_text="Save this view").click()
    page.get_by_label("Name of the view").fill(name)
    page.get_by_role("button", name="Save").click()
    page.goto("/tasks/")

    page.get_by_role("navigation", name="Saved views").get_by_text(name).click()

    page.wait_for_url("**/tasks/?state=waiting&q=no+such+task+in+this+mesh")
    assert fits(page)
    page.get_by_role("button", name="Forget").click()
    expect(page.get_by_role("navigation", name="Saved views")).to_have_count(0)


def test_keys_go_to_pages_and_can_be_switched_off(new_page: NewPage) -> None:
    page = new_page()
    page.keyboard.press("g")
    page.keyboard.press("k")
    page.wait_for_url("**/tasks/")
    page.keyboard.press("/")
    expect(page.get_by_label("Task id")).to_be_focused()
    page.keyboard.type("?g")
    expect(page.get_by_label("Task id")).to_have_value("?g")
    page.locator("h1").click()
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keyboard")
    expect(dialog).to_be_visible()
    box, middle = dialog.bounding_box(), page.evaluate("innerWidth / 2")
    assert box and abs(box["x"] + box["width"] / 2 - middle) <= 8  # half a scroll bar
    dialog.get_by_label("Keys work").uncheck()
    dialog.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()

    page.keyboard.press("?")
    expect(dialog).to_be_hidden()
    for _ in range(2):  # also twice within a second
        page.get_by_role("button", name="Keyboard").click()
        expect(dialog.get_by_label("Keys work")).not_to_be_checked()
        dialog.get_by_role("button", name="Close").click()
        expect(dialog).to_be_hidden(timeout=1_500)


def test_an_open_traceback_stays_open_while_its_page_is_refreshed(
    shown: Showcase, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/tasks/{shown.delayed}/?topic=mail")
    page.locator("summary", has_text="Traceback").click()
    now = page.locator("#now .now")

    for _ in range(2):  # it says how long it still takes
        expect(now).not_to_have_text(now.inner_text())

    expect(page.locator("details")).to_have_attribute("open", "")


def test_a_refresh_that_fails_leaves_the_page_as_it_is_and_is_tried_again(
    shown: Showcase, new_page: NewPage
) -> None:
    page = new_page(quiet=False)  # the failures are told in the console
    page.goto(f"/tasks/{shown.delayed}/?topic=mail")
    title, chip, now = page.title(), page.locator("#connection"), page.locator("#now")
    error = page.request.get("/no-such-page/").text()
    poll = f"**/tasks/{shown.delayed}/*"
    expect(chip).to_be_hidden()

    page.route(
        poll, lambda it: it.fulfill(status=503, body=error, content_type="text/html")
    )
    expect(chip).to_have_text("Redis does not answer")
    page.unroute(poll)
    page.route(poll, lambda it: it.abort())
    expect(chip).to_have_text("The server does not answer")
    expect(now).to_have_count(1)
    expect(page.locator("main")).to_have_count(1)
    assert page.title() == title

    before = now.inner_text()
    page.unroute(poll)
    expect(chip).to_be_hidden()
    expect(now).not_to_have_text(before)  # it says how long it still takes


def test_a_page_that_refreshes_leads_to_the_sign_in_page_once_signed_out(
    shown: Showcase, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/tasks/{shown.delayed}/?topic=mail")

    page.context.clear_cookies()

    page.wait_for_url(re.compile(r"/login/\?next="))
    expect(page.get_by_label("Password")).to_be_visible()


def test_every_page_comes_without_a_script(shown: Showcase, new_page: NewPage) -> None:
    page = new_page(quiet=False, java_script_enabled=False)

    for name, path in shown.pages().items():
        response = page.goto(path)
        assert response is not None
        assert response.status == (404 if name == "not-found" else 200), path
        expect(page.locator("h1")).to_have_count(1)


def test_every_action_works_without_a_script(
    shown: Showcase, new_page: NewPage
) -> None:
    page = new_page(quiet=False, java_script_enabled=False)
    topic = "without-script"
    bus.set_limits(topic)

    _a_task(page, topic)
    _a_letter(page, shown)
    _a_topic(page, topic)
    _a_bulk_replay(page, shown)
    _a_token(page)
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()


def _says(page: Page, text: str) -> None:
    expect(page.locator(".toasts")).to_contain_text(text)


def _a_task(page: Page, topic: str) -> None:
    page.goto(f"/topics/{topic}/")
    page.get_by_label("Payload, any JSON").fill('{"n": 1}')
    page.get_by_role("button", name="Send").click()
    _says(page, "is on its way")
    page.get_by_role("button", name="Cancel task").click()
    _says(page, "Cancelled")
    page.get_by_role("button", name="Run again").click()
    _says(page, "It runs again as this task")
    page.get_by_role("link", name="Edit a copy…").click()
    page.get_by_label("Payload, any JSON").fill('{"n": 2}')
    page.get_by_role("button", name="Send").click()
    _says(page, "is on its way")
    third = bus.enqueue_task(topic, 3)
    page.goto(f"/tasks/?topic={topic}")
    page.locator(f"input[value='{topic} {third}']").check()
    page.get_by_role("button", name="Cancel ticked").click()
    _says(page, "1 cancelled")
    later = bus.enqueue_task(topic, 2, delay_s=3_600)
    page.goto("/tasks/")
    page.get_by_label("Task id").fill(later)
    page.get_by_label("Task id").press("Enter")
    page.get_by_role("button", name="Run now").click()
    _says(page, "It starts now")


def _a_letter(page: Page, shown: Showcase) -> None:
    # Not the one that other tests of this module open, in whatever order.
    others = [each.id for each in bus.list_dead("images", 10) if each.id != shown.dead]
    page.goto("/dead/")
    page.get_by_label("Topic", exact=True).select_option("images")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"\?topic=images"))
    page.locator(f"tr[data-task='{others[0]}']").get_by_role("link").first.click()
    page.get_by_role("link", name="Discard…").click()
    page.get_by_role("button", name="Discard").click()
    page.get_by_role("button", name="Undo the discard").click()
    _says(page, "the dead letter is back")
    page.get_by_role("link", name="Edit and replay…").click()
    page.get_by_label("Payload, any JSON").fill('{"file": "mended.jpg"}')
    page.get_by_role("button", name="Show what differs").click()
    page.get_by_role("button", name="Replay with this").click()
    _says(page, "Replayed with its new payload")
    wait_until(lambda: bus.get_task(others[0], "images").state == "done", 30)
    page.goto("/dead/?topic=images")
    page.locator(f"input[value='images {others[2]}']").check()
    page.get_by_role("button", name="Discard ticked…").click()
    page.get_by_role("button", name="Discard 1").click()
    _says(page, "Discarded: 1.")
    row = page.locator(f"tr[data-task='{others[1]}']")
    row.get_by_role("button", name=re.compile("^Replay task")).click()
    _says(page, "Replayed")


def _a_topic(page: Page, topic: str) -> None:
    page.goto(f"/topics/{topic}/")
    page.get_by_role("button", name="Pause topic").click()
    _says(page, "is paused")
    page.get_by_role("button", name="Resume topic").click()
    _says(page, "runs again")
    page.get_by_role("link", name="Limits…").click()
    page.get_by_label("Backlog").fill("500")
    page.get_by_role("button", name="Set limits").click()
    _says(page, "The limits are set")
    page.get_by_role("link", name="Purge…").click()
    page.get_by_label("What waits").check()
    page.get_by_role("button", name="Purge").click()
    _says(page, "Purged: 2 cancelled")
    page.get_by_role("link", name="Delete…").click()
    page.get_by_label("Its name").fill(topic)
    page.get_by_role("button", name="Delete topic").click()
    _says(page, f"Deleted {topic}")


def _a_bulk_replay(page: Page, shown: Showcase) -> None:
    page.goto("/replays/new")
    page.get_by_label("Topic", exact=True).select_option("mail")
    page.get_by_label("Error says").fill("no mailbox")
    page.get_by_role("button", name="Choose these").click()
    page.get_by_role("button", name="Replay 1 letter").click()
    expect(page.locator("h1")).to_have_text("1 letter")
    page.goto(f"/replays/{shown.stopped}/")
    page.get_by_role("button", name="Cancel the rest").click()
    _says(page, "Cancelled")


def _a_token(page: Page) -> None:
    page.goto("/settings/")
    page.get_by_text("Make a token").click()
    page.get_by_label("Name").fill("without script")
    page.get_by_role("button", name="Make token").click()
    expect(page.get_by_text("This is shown once")).to_be_visible()
    page.get_by_role("link", name="I have it").click()
    page.get_by_role("link", name="Revoke the token of without script").click()
    page.get_by_role("button", name="Revoke").click()
    _says(page, "is revoked")
