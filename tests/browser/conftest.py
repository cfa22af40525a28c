"""A real mesh, as `make run` starts it, and a real browser in front of it.

Playwright keeps an event loop running in this thread, in which Django refuses its ORM:
what these tests need from the database they ask of other processes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import redis

import bus
from tests.support import agents, machine
from tests.support.mesh import BANNER_END, read_until, up
from tests.support.processes import ROOT
from tests.support.waiting import PATIENCE, wait_until

CHROMIUM = Path("/usr/bin/chromium")
# Debian's starts with extensions of its own and draws as if there were a graphics card.
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-extensions")
PASSWORD = "a-password-for-tests-1"
ERRANDS = "tests.support.errands:run"

try:
    from playwright.sync_api import (
        Browser,
        BrowserContext,
        Page,
        expect,
        sync_playwright,
    )

    # An agent takes seconds to start where other tests want both cores.
    expect.set_options(timeout=20_000 * PATIENCE)
    NewPage = Callable[..., Page]
except ModuleNotFoundError:
    if machine.IN_CI:
        raise
    collect_ignore_glob = ["test_*.py"]
    MISSING = "playwright is not installed: pip install -r tests/requirements.txt"

    def pytest_terminal_summary(terminalreporter: Any) -> None:
        """Say that they were left out: nobody should take silence for success."""
        terminalreporter.section("browser tests were left out")
        terminalreporter.write_line(MISSING)


@dataclass(frozen=True)
class Mesh:
    """A mesh that runs: where it is, how to get in, what it is made of."""

    url: str
    username: str
    password: str
    var_dir: Path
    pid: int

    @property
    def env(self) -> dict[str, str]:
        """What makes commands and agents find this mesh."""
        redis_url = (self.var_dir / "redis" / "url").read_text().strip()
        return {"MESH_VAR_DIR": str(self.var_dir), "REDIS_URL": redis_url}

    def python(self, source: str) -> None:
        """Run a line of Python in a process with this mesh's settings."""
        subprocess.run(
            [sys.executable, "manage.py", "shell", "-v", "0", "-c", source],
            cwd=ROOT,
            env={**os.environ, **self.env},
            check=True,
            capture_output=True,
        )

    def forget_sign_ins(self) -> None:
        """All tests sign in from one address, in more tries than people need."""
        with redis.Redis.from_url(self.env["REDIS_URL"]) as server:
            for bucket in server.scan_iter("mesh:rate:{login:*", count=10_000):
                server.delete(bucket)

    def child(self, word: str) -> int:
        """The pid of the process of this mesh whose command line has that word."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        pids = " ".join((task / "children").read_text() for task in tasks).split()
        for pid in pids:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if word.encode() in words:
                return int(pid)
        raise AssertionError(f"no process with {word!r} among {pids}")


LIVE = re.compile("^live$")


def is_live(page: Page) -> None:
    """Wait until the page is fed by its socket."""
    expect(page.locator("#connection")).to_have_attribute("data-state", LIVE)


def without_sockets(page: Page) -> None:
    """Whatever stands between that page and the server lets no socket through."""
    page.route_web_socket("**/ws/feed", lambda socket: socket.close(code=1011))


def ended(topic: str, count: int) -> None:
    """Wait until so many tasks of the topic are done."""
    wait_until(lambda: bus.stats(topic)["done"] == count, 120)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """One mesh for all tests of the browser; each uses topics of its own."""
    var_dir = tmp_path_factory.mktemp("mesh")
    with up(var_dir, "--agents", "0") as process:
        read_until(process, BANNER_END)
        told = json.loads((var_dir / "credentials.json").read_text())
        made = Mesh(
            told["url"].rstrip("/"),
            told["username"],
            told["password"],
            var_dir,
            process.pid,
        )
        made.python(
            "from bus import accounts\n"
            f"accounts.ensure_user('vera', 'viewer', {PASSWORD!r})"
        )
        yield made


@pytest.fixture
def on_mesh(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mesh]:
    """The mesh, found by `bus` in this process as well."""
    from bus import connection, scripts

    monkeypatch.setenv("REDIS_URL", mesh.env["REDIS_URL"])
    scripts.forget_topics()
    yield mesh
    connection.reset()
    scripts.forget_topics()


@contextmanager
def errands(mesh: Mesh, topic: str, *args: str) -> Iterator[subprocess.Popen[bytes]]:
    """An agent process that serves the topic."""
    with agents.process(topic, ERRANDS, *args, env=mesh.env) as process:
        yield process


# Not for the session: its loop would still run in this thread when other modules call
# asyncio.run.
@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Chromium without a window."""
    if not CHROMIUM.exists():
        machine.lacks(f"no {CHROMIUM}: install Debian's chromium to run these tests")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def signed_in() -> dict[str, Any]:
    """By name the cookies of who has signed in: looking at a password takes long."""
    return {}


@pytest.fixture
def new_page(
    chromium: Browser, mesh: Mesh, signed_in: dict[str, Any]
) -> Iterator[NewPage]:
    """Opens pages of somebody who has signed in; nothing may fail in their console."""
    contexts: list[BrowserContext] = []
    said: list[str] = []
    mesh.forget_sign_ins()

    def new(username: str = "", quiet: bool = True, **options: Any) -> Page:
        options.setdefault("viewport", {"width": 1280, "height": 900})
        context = chromium.new_context(base_url=mesh.url, **options)
        context.set_default_timeout(15_000 * PATIENCE)
        contexts.append(context)
        context.add_cookies(signed_in.get(username, []))
        page = context.new_page()
        page.goto("/")
        if page.url != f"{mesh.url}/":  # the first time, or somebody has signed out
            page.get_by_label("Name").fill(username or mesh.username)
            page.get_by_label("Password").fill(PASSWORD if username else mesh.password)
            page.get_by_role("button", name="Sign in").click()
            page.wait_for_url(f"{mesh.url}/")
            signed_in[username] = context.cookies()
        if quiet:
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on(
                "console",
                lambda line: said.append(line.text) if line.type == "error" else None,
            )
        return page

    yield new
    for context in contexts:
        context.close()
    assert said == [], "a script failed, or broke the content security policy"


@pytest.fixture(scope="module")
def axe() -> str:
    """axe-core, which runs in a page."""
    path = resources.files("axe_playwright_python") / "axe.min.js"
    return path.read_text(encoding="utf-8")


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core finds, one line for each kind with the first places."""
    page.evaluate(axe)
    found: list[dict[str, Any]] = page.evaluate(
        "async (only) => (await axe.run(document, only)).violations",
        {"resultTypes": ["violations"]},
    )
    return [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found
    ]
