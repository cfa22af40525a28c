"""The benchmark of the pages asks all of them, and is honest about what they take."""

from __future__ import annotations

import argparse
import io
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis
from rich.console import Console

import bus
from bench import stage
from bench.http import filling as http_filling
from bench.pages import __main__ as command
from bench.pages import browser, filling
from bench.pages.browser import Browser, Took
from dashboard import queries, urls
from tests.support.pages import signed_in


class Answers(BaseHTTPRequestHandler):
    """A page for whoever is signed in; all others are sent away."""

    protocol_version = "HTTP/1.1"
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200 if self.headers["Cookie"] == "session=1" else 302)
        self.send_header("Location", "/login/")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output is the test's."""


@pytest.fixture
def port() -> Iterator[int]:
    """Where a real web server answers."""
    Answers.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def page(path: str, *wall_ms: float) -> command.Page:
    return command.Page(path, Took([*wall_ms], 12.3))


def test_every_page_of_the_dashboard_is_asked_or_left_out_by_name() -> None:
    asked = {name for name, _ in command.PAGES}

    assert asked | set(command.LEFT_OUT) == {each.name for each in urls.urlpatterns}
    assert not asked & set(command.LEFT_OUT)


def test_a_page_is_judged_by_its_p99() -> None:
    held = page("/", *[10.0] * 98, 200.0, 900.0)
    missed = page("/", *[10.0] * 98, 200.1, 900.0)

    assert (held.p50_ms, held.p99_ms, held.holds) == (10.0, 200.0, True)
    assert not missed.holds


def test_every_page_fits_the_table() -> None:
    every = [page(path, 123.4, 1234.5) for _, path in command.PAGES]
    out = io.StringIO()

    Console(file=out, width=80).print(command.table(every))

    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert all(each.path in out.getvalue() for each in every)


def test_only_calls_after_the_first_ones_count(port: int) -> None:
    visitor = Browser(port, os.getpid(), "session=1")
    try:
        took = visitor.took("/x/", warm=2, times=3)
    finally:
        visitor.close()

    assert Answers.asked == ["/x/"] * 5
    assert len(took.wall_ms) == 3 and all(each > 0 for each in took.wall_ms)


def test_a_page_that_is_none_is_no_figure(port: int) -> None:
    visitor = Browser(port, os.getpid(), "")
    try:
        with pytest.raises(stage.BenchError, match="/x/ says 302 /login/"):
            visitor.took("/x/", warm=0, times=1)
    finally:
        visitor.close()


def test_cpu_time_of_nobody_is_unknown() -> None:
    assert browser.cpu_ms(2**30) is None
    mine = browser.cpu_ms(os.getpid())
    assert mine is None or mine > 0


@pytest.mark.django_db
def test_a_filled_mesh_has_every_page_that_is_asked(
    redis_client: redis.Redis, redis_url: str
) -> None:
    size = http_filling.Size(tasks=7, topics=3, dead=5, agents=2)
    names = http_filling.filled(redis_url, size, filling.MODULE)
    queries.forget_checks()

    admin = signed_in("admin")
    for _, path in command.PAGES:
        assert admin.get(path.format(**names)).status_code == 200, path

    for topic in bus.list_topics():
        stats = bus.stats(topic)
        assert stats["waiting"] and stats["done"] and stats["dead"], topic
        assert stats["running"] == 1 and stats["ledger"]["drift"] == 0, topic
    assert bus.get_agent("agent-1")["state"] == "live"


def test_a_size_is_full_or_small_but_for_what_is_said() -> None:
    said = {"tasks": None, "topics": 3, "dead": None, "agents": None}

    full = command.size_of(argparse.Namespace(small=False, **said))
    small = command.size_of(argparse.Namespace(small=True, **said))

    assert full == replace(command.FULL, topics=3)
    assert small == replace(filling.SMALL, topics=3)


@pytest.mark.parametrize("name", ["calls", "tasks", "topics", "dead", "agents"])
def test_pages_of_nothing_are_refused(name: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main([f"--{name}", "0"])
