"""Hostile inputs for pages, rows 62 to 70 of the list in the security reference.

Whatever somebody sent is on the pages of a real browser, with a canary in it: what
notes that it was called. `new_page` sees to it that no script fails, and that none is
even stopped by the content security policy. Rows that need no browser have their tests
elsewhere; `ELSEWHERE` names them, those of the socket (54 to 61) too.
"""

from __future__ import annotations

import importlib
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, Route, expect

import bus
from bus import connection
from tests.browser.conftest import Mesh, NewPage
from tests.support.desk import Desk

T = TypeVar("T")

pytestmark = [pytest.mark.pages, pytest.mark.timeout(300)]

CANARY = "window.fired = 0; window.canary = () => { window.fired += 1; };"
MARKUP = [
    "<script>canary()</script>",
    "<img src=x onerror=canary()>",
    "<svg/onload=canary()>",
    "</script><script>canary()</script>",
    "javascript:canary()",
    '"><a href="javascript:canary()">x</a>',
    "' autofocus onfocus=canary() x='",
    "{{7*7}} ${canary()} `${7*7}` #{7*7}",
    "<!-- --!> &lt;b&gt; &amp;lt;",
    "]]></textarea></template></title><style>*{display:none}</style>",
]
ODD = ["a\r\nb", "\x1b[2Jcleared", "\u202egnp.exe", "a\u2028b", "z\u200b\u200dw"]
NAMES = ["length", "then", "toString", "__proto__", "constructor", "hasOwnProperty"]
EVIL = "http://evil.example"

SOCKET = "integration.test_live_socket"
FRAMES = "integration.test_live_frames"
SIGN_IN = "integration.test_dashboard_sign_in"
ELSEWHERE: dict[int, list[str]] = {
    54: [
        "unit.test_origins.test_a_page_of_another_place_may_not",
        f"{SOCKET}.test_a_page_of_another_site_is_not_even_accepted",
    ],
    55: [
        f"{SOCKET}.test_nobody_is_told_to_sign_in",
        f"{SOCKET}.test_a_made_up_session_is_nobody",
    ],
    56: [
        f"{SOCKET}.test_a_socket_ends_once_its_user_may_no_longer_what_it_shows",
        f"{SOCKET}.test_a_socket_ends_when_its_token_is_revoked",
    ],
    57: [
        f"{SOCKET}.test_a_frame_beyond_64_kib_is_refused",
        f"{SOCKET}.test_bytes_are_refused",
    ],
    58: [f"{SOCKET}.test_what_is_no_resume_frame_is_refused_with_a_sentence"],
    59: [
        f"{SOCKET}.test_a_topic_outside_those_of_a_token_is_refused",
        f"{FRAMES}.test_a_bound_token_sees_nothing_of_other_topics",
    ],
    60: [f"{FRAMES}.test_a_page_that_takes_nothing_is_let_go_and_takes_nobody_with_it"],
    61: [f"{SOCKET}.test_sockets_per_user_are_limited_and_closed_ones_do_not_count"],
    63: [
        "integration.test_lists_as_files.test_no_cell_is_a_formula",
        "integration.test_dashboard_audit.test_the_same_entries_are_there_as_files",
    ],
    69: [
        f"{SIGN_IN}.test_the_session_gets_another_key_at_sign_in",
        f"{SIGN_IN}.test_signing_out_ends_the_session",
        "browser.test_live_pages.test_signing_out_ends_the_live_page",
    ],
}
HERE = {62, 64, 65, 66, 67, 68, 70}


@dataclass(frozen=True)
class Bait:
    """A topic in which everything that can be said says something hostile."""

    topic: str
    done: str
    dead: str
    waiting: str
    agent: str

    def paths(self) -> list[str]:
        return [
            *("/", "/topics/", "/agents/", f"/topics/{self.topic}/"),
            *(f"/{name}/?topic={self.topic}" for name in ("tasks", "results", "dead")),
            *(f"/tasks/{each}/" for each in (self.done, self.dead, self.waiting)),
            *(f"/dead/{self.dead}/", f"/dead/{self.dead}/edit"),
            f"/dead/groups/{bus.dead_groups(self.topic)[0]['fingerprint']}/",
            f"/agents/{self.agent}/",
        ]


def apart(work: Callable[[], T]) -> T:
    """What work comes to in another thread: in this one Playwright has its loop."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(work).result()


def laid(said: object, text: str) -> Bait:
    """A topic with a task that waits, one that is done, one that is dead."""
    topic = f"hostile-{uuid.uuid4().hex[:8]}"
    desk = Desk(topic)
    done, dead = bus.enqueue_many(topic, [said, said])
    desk.complete(desk.one(), result=bus.tasks.messages.dump(said).decode())
    desk.fail(desk.one(), message=text, final=True)
    waiting = bus.enqueue_task(topic, said)
    agent = f"agent-{topic}"
    meta = {"url": "javascript:canary()", "says": said, "topics": [text]}
    bus.register_agent(agent, "hostile", 600, meta=meta)
    return Bait(topic, done, dead, waiting, agent)


def ended(topic: str, dead: bool) -> str:
    """One more task that says hostile things at its end; what waited ends as well."""
    desk, text = Desk(topic), " ".join(MARKUP)
    task_id = bus.enqueue_task(topic, text)
    for item in desk.claim(2):
        if dead:
            desk.fail(item, message=text, final=True)
        else:
            desk.complete(item, result=bus.tasks.messages.dump(text).decode())
    return task_id


@pytest.fixture
def page(on_mesh: Mesh, new_page: NewPage) -> Iterator[Page]:
    """A page of an admin that knows whether the canary sang or a dialog came up."""
    opened, dialogs = new_page(), list[str]()
    opened.add_init_script(CANARY)
    opened.on("dialog", lambda each: (dialogs.append(each.message), each.dismiss()))
    yield opened
    assert dialogs == []


def is_harmless(page: Page) -> None:
    """Nothing ran, and every link leads to a place of this site."""
    assert page.evaluate("window.fired") == 0, page.url
    links: list[str] = page.evaluate(
        "[...document.querySelectorAll('[href],[action],[src]')]"
        ".map(each => each.href || each.action || each.src).filter(each => each.at)"
    )
    here = urlsplit(page.url)[:2]
    assert {urlsplit(each)[:2] for each in links} <= {here}, page.url


def test_every_row_has_a_test() -> None:
    assert HERE | ELSEWHERE.keys() == {*range(54, 71)}
    for path in (each for paths in ELSEWHERE.values() for each in paths):
        room, _, name = path.rpartition(".")
        assert hasattr(importlib.import_module(f"tests.{room}"), name), path


def test_rows_62_and_64_what_was_sent_is_text_wherever_it_is_shown(page: Page) -> None:
    text = " ".join(MARKUP)
    bait = apart(
        lambda: laid({"said": [*MARKUP, *ODD], text: text}, text + "".join(ODD))
    )

    for path in bait.paths():
        page.goto(path)
        is_harmless(page)
    page.goto(f"/tasks/{bait.waiting}/")
    shown = page.locator("main").inner_text()

    # As JSON, in which quotes have a backslash.
    assert [each for each in MARKUP if each.replace('"', '\\"') not in shown] == []
    assert "\x1b" not in shown and "\u202e" not in shown


def test_row_62_what_arrives_live_is_text_as_well(page: Page) -> None:
    bait = apart(lambda: laid("first", "first"))

    for path in ("results", "dead"):
        page.goto(f"/{path}/?topic={bait.topic}")
        expect(page.locator("#connection")).to_have_attribute("data-state", "live")
        late = apart(lambda dead=path == "dead": ended(bait.topic, dead))
        expect(page.locator(f"tr[data-task='{late}']")).to_have_count(1)
        is_harmless(page)


def test_row_65_huge_texts_and_names_of_methods_break_no_page(page: Page) -> None:
    wide = {f"c{at}": at for at in range(9_000)}
    bait = apart(
        lambda: laid({**dict.fromkeys(NAMES, NAMES), "wide": wide}, "long " * 10_000)
    )
    letter = bus.tasks.messages.dump({"id": "x", "error": "y" * 8_000_000})
    connection.get_redis().xadd(
        bus.dead_stream(bait.topic), {"id": "by-hand", "json": letter}
    )

    for path in bait.paths():
        page.goto(path)
        is_harmless(page)
        assert len(page.content()) < 2_000_000, path
    page.goto(f"/tasks/{bait.waiting}/")
    expect(page.locator("main")).to_contain_text("hasOwnProperty")


def from_elsewhere(page: Page, body: str) -> None:
    """A page of another site, in the browser of somebody who is signed in here."""

    def answered(route: Route) -> None:
        route.fulfill(body=body, content_type="text/html")

    page.route(f"{EVIL}/**", answered)
    page.goto(f"{EVIL}/")


def test_row_66_another_site_pauses_nothing(mesh: Mesh, new_page: NewPage) -> None:
    page = new_page(quiet=False)  # the browser says that it was refused
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REDIS_URL", mesh.env["REDIS_URL"])
        topic = apart(lambda: laid("x", "x")).topic
        url = f"{mesh.url}/topics/{topic}/pause"
        form = f"<form method=post action='{url}'><button>win</button></form>"
        from_elsewhere(page, form)
        page.get_by_role("button", name="win").click()
        page.wait_for_load_state()
        from_elsewhere(page, "<p>no form</p>")
        page.evaluate(
            "url => fetch(url, {method: 'POST', mode: 'no-cors',"
            " credentials: 'include'}).then(() => 1, () => 0)",
            url,
        )
        assert page.request.get(url).status == 405
        assert not bus.stats(topic)["paused"]

        page.goto(f"/topics/{topic}/")
        page.get_by_role("button", name="Pause topic").click()
        expect(page.get_by_role("button", name="Resume topic")).to_be_visible()
        assert bus.stats(topic)["paused"]


def test_row_67_no_other_site_frames_a_page(mesh: Mesh, new_page: NewPage) -> None:
    page = new_page(quiet=False)

    from_elsewhere(page, f"<iframe src='{mesh.url}/tasks/'></iframe>")

    assert page.request.get("/tasks/").headers["x-frame-options"] == "DENY"
    inside = page.frame_locator("iframe")
    expect(inside.get_by_role("heading", name="Tasks")).to_have_count(0)


@pytest.mark.parametrize(
    "target", ["//evil.example", "https:evil.example", "javascript:canary()", "/\\evil"]
)
def test_row_68_signing_in_leads_nowhere_else(
    mesh: Mesh, new_page: NewPage, target: str
) -> None:
    page = new_page()
    page.context.clear_cookies()
    page.goto(f"/login/?next={target}")
    page.get_by_label("Name").fill(mesh.username)
    page.get_by_label("Password").fill(mesh.password)
    page.get_by_role("button", name="Sign in").click()

    expect(page.get_by_role("button", name="Sign out")).to_be_attached()
    assert page.url.startswith(mesh.url)


def test_row_70_what_an_agent_tells_of_itself_is_no_link(page: Page) -> None:
    bait = apart(lambda: laid("x", "x"))

    page.goto(f"/agents/{bait.agent}/")

    expect(page.locator("main")).to_contain_text("javascript:canary()")
    assert page.locator("a", has_text="javascript:").count() == 0
    is_harmless(page)
