"""Dead letters in a real browser: edited, replayed in bulk, discarded, brought back."""

from __future__ import annotations

import re
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from playwright.sync_api import Page, expect

import bus
from bus import topics
from tests.browser.conftest import Mesh, NewPage, errands, is_live
from tests.support import bulk
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [pytest.mark.pages, pytest.mark.timeout(600)]


@pytest.fixture
def topic(on_mesh: Mesh) -> str:
    """A topic no other test uses; the mesh knows it already."""
    name = f"failures-{uuid.uuid4().hex[:8]}"
    bus.set_limits(name)
    return name


def dead(topic: str, count: int, message: str = "no ink") -> list[str]:
    """Dead letters that a replay would get done; made beside Playwright's loop."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(bulk.dead, topic, count, message).result()


def posted(page: Page, url: str) -> int:
    """What the server says to a form that no page of this user has."""
    status: int = page.evaluate(
        """async (url) => {
          const token = document.querySelector("[name=csrfmiddlewaretoken]").value;
          const body = new URLSearchParams({csrfmiddlewaretoken: token, what: "all"});
          return (await fetch(url, {method: "POST", body})).status;
        }""",
        url,
    )
    return status


def test_letters_gather_in_their_group_as_they_die(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    page = new_page()
    page.goto(f"/topics/{topic}/")
    is_live(page)

    with errands(mesh, topic):
        bus.enqueue_many(topic, [{"fail": n} for n in range(1, 4)])
        group = page.locator("[data-live=topic-groups] tr")
        expect(group).to_contain_text("cannot read page")
        expect(group.locator("td[data-label=Letters]")).to_have_text("3")
    expect(group).to_have_count(1)
    total = sum(row["dead"] for row in topics.all_stats())
    expect(page.locator("nav .badge")).to_have_text(str(total))


def test_a_letter_is_edited_and_replayed(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        task_id = bus.enqueue_task(topic, {"fail": 7, "ink": "red"})
        wait_until(lambda: bus.stats(topic)["dead"] == 1, 20)
        page = new_page()
        page.goto(f"/dead/{task_id}/?topic={topic}")
        page.get_by_role("link", name="Edit and replay…").click()
        page.get_by_label("Payload, any JSON").fill('{"fail": 0, "ink": "red"}')
        page.get_by_role("button", name="Show what differs").click()
        expect(page.locator(".diff .gone")).to_contain_text('"fail": 7')
        expect(page.locator(".diff .new")).to_contain_text('"fail": 0')
        page.get_by_role("button", name="Replay with this").click()

        expect(page.locator("#now")).to_contain_text("Done")
    task = bus.get_task(task_id, topic)
    assert task.result == {"fail": 0, "ink": "red"}
    assert task.replays[0]["payload"] == {"fail": 7, "ink": "red"}


def test_a_group_is_replayed_behind_a_canary(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    ids = dead(topic, 15)
    [group] = bus.dead_groups(topic)
    with errands(mesh, topic):
        page = new_page()
        page.goto(f"/dead/groups/{group['fingerprint']}/?topic={topic}")
        page.get_by_role("button", name="Replay all 15…").click()
        expect(page.locator("#now")).to_contain_text("Nothing is replayed yet")
        assert bus.stats(topic)["dead"] == 15
        expect(page.get_by_label("Canary")).to_be_checked()
        page.get_by_role("button", name="Replay 15 letters").click()
        expect(page.get_by_text("15 of 15 had their turn, 15 of 15")).to_be_visible(
            timeout=60_000 * PATIENCE
        )
        expect(page.locator("#now strong").first).to_have_text("Done.")

    assert {bus.get_task(task_id, topic).state for task_id in ids} == {"done"}
    assert bus.stats(topic)["replayed"] == 15


def test_a_canary_that_dies_again_stops_the_rest_which_is_then_cancelled(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    with errands(mesh, topic):
        bus.enqueue_many(topic, [{"fail": n} for n in range(1, 6)])
        wait_until(lambda: bus.stats(topic)["dead"] == 5, 20)
        page = new_page()
        page.goto(f"/dead/?topic={topic}")
        page.get_by_role("button", name="Replay all 5…").click()
        page.get_by_role("button", name="Replay 5 letters").click()
        expect(page.locator("#now strong").first).to_have_text(
            "Stopped.", timeout=60_000 * PATIENCE
        )
        page.get_by_role("button", name="Cancel the rest").click()
        expect(page.locator("#now strong").first).to_have_text("Cancelled.")

    row = bus.stats(topic)
    assert (row["replayed"], row["dead"]) == (1, 5)


def test_a_letter_is_discarded_and_brought_back(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    [task_id] = dead(topic, 1)
    page = new_page()
    page.goto(f"/dead/{task_id}/?topic={topic}")
    page.get_by_role("link", name="Discard…").click()
    expect(page.get_by_role("heading", name="Discard it?")).to_be_visible()
    assert bus.get_task(task_id, topic).state == "dead"
    page.get_by_role("button", name="Discard").click()
    undo = page.get_by_role("button", name="Undo the discard")
    expect(undo).to_be_visible()
    assert bus.get_task(task_id, topic).state == "discarded"

    undo.click()

    expect(page.get_by_text("the dead letter is back")).to_be_visible()
    assert bus.get_task(task_id, topic).state == "dead"


def test_a_letters_page_says_that_somebody_else_replayed_it(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    mine, other = dead(topic, 2)
    page = new_page()
    page.goto(f"/dead/{mine}/?topic={topic}")
    is_live(page)
    bar = page.get_by_role("link", name="It is no dead letter any more")
    expect(bar).to_be_hidden()

    bus.replay(other, topic)
    bus.replay(mine, topic)
    expect(bar).to_be_visible()

    bar.click()
    expect(page.get_by_text("It was replayed, and the task is waiting")).to_be_visible()


def test_an_agents_page_says_within_ten_seconds_that_it_was_killed(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    agent_id = f"doomed-{topic}"
    page = new_page()

    with errands(mesh, topic, "--agent-id", agent_id) as process:
        wait_until(lambda: agent_id in {a["agent_id"] for a in bus.list_agents()}, 30)
        page.goto(f"/agents/{agent_id}/")
        now = page.locator("#now strong")
        expect(now).to_have_text("Idle.")
        process.kill()
        expect(now).to_have_text("Gone.", timeout=10_000 * PATIENCE)


def test_a_viewer_follows_a_bulk_replay_and_changes_nothing(
    mesh: Mesh, topic: str, new_page: NewPage
) -> None:
    dead(topic, 2)
    admin = new_page()
    admin.goto(f"/dead/?topic={topic}")
    admin.get_by_role("button", name="Replay all 2…").click()
    path = admin.url.removeprefix(mesh.url)

    page = new_page("vera", quiet=False)  # the refusals are told in the console
    page.goto(path)
    expect(page.locator("#now strong").first).to_have_text("Frozen.")
    expect(page.get_by_role("button", name=re.compile("Replay|away"))).to_have_count(0)
    forms = [f"{path}start", f"{path}pause", f"{path}cancel", "/replays/new"]
    forms += [f"/topics/{topic}/purge", f"/topics/{topic}/delete"]

    assert [posted(page, form) for form in forms] == [403] * len(forms)
    assert bus.stats(topic)["dead"] == 2
