"""The agents of docs/agents-over-http.md, against a real web server."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import redis
from pytest_django import Settings

import bus
from bus import accounts, agents
from bus.judge import Judge
from tests.support import machine
from tests.support.site import LiveSite
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [
    pytest.mark.django_db(transaction=True, serialized_rollback=True),
    pytest.mark.usefixtures("cleanup_test_data"),
]

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "examples" / "over_http"
COMMANDS = {
    "agent.py": [sys.executable, str(FOLDER / "agent.py")],
    "agent.sh": ["sh", str(FOLDER / "agent.sh")],
}


@contextmanager
def running(
    site: LiveSite, name: str, topic: str, agent_id: str
) -> Iterator[subprocess.Popen[bytes]]:
    """One of the agents as a process, with a token bound to its topic."""
    if name == "agent.sh":
        machine.needs("curl", "jq")
    token = accounts.create_token(agent_id, "agent", [topic])[1]
    argv = [*COMMANDS[name], site.url, token, topic, agent_id]
    child = subprocess.Popen(argv, start_new_session=True)
    try:
        yield child
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
        child.wait(10)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_guide_shows_what_is_in_the_folder(name: str) -> None:
    guide = (ROOT / "docs" / "agents-over-http.md").read_text()

    assert (FOLDER / name).read_text() in guide


@pytest.mark.parametrize("name", COMMANDS)
def test_it_runs_tasks_reports_failures_and_drains(
    live_site: LiveSite, test_topic: str, name: str
) -> None:
    texts = ["to be", "or not to be", 'a "quoted" \\ word\n', "käse"]
    sent = bus.enqueue_many(test_topic, [{"text": text} for text in texts])
    bad = bus.enqueue_task(test_topic, {"text": 5}, max_attempts=1)

    with running(live_site, name, test_topic, "words-1") as child:
        wait_until(lambda: bus.stats(test_topic)["done"] == len(sent), 60)
        wait_until(lambda: bus.stats(test_topic)["dead"] == 1, 60)
        later = bus.enqueue_task(test_topic, {"text": "one more"})
        wait_until(lambda: bus.get_task(later, test_topic).state == "done", 60)

        agents.drain_agent("words-1")
        assert child.wait(60) == 0

    words = [bus.get_task(each, test_topic).result["words"] for each in sent]
    assert words[:2] == [2, 4]
    assert bus.get_dead(bad, test_topic).error["type"] in ("AttributeError", "NoText")
    assert agents.get_agent("words-1")["state"] == "gone"
    assert bus.stats(test_topic)["ledger"]["drift"] == 0


def test_several_of_them_share_a_topic(live_site: LiveSite, test_topic: str) -> None:
    sent = bus.enqueue_many(test_topic, [{"text": "a b"}] * 30)

    with (
        running(live_site, "agent.py", test_topic, "one"),
        running(live_site, "agent.py", test_topic, "two"),
    ):
        wait_until(lambda: bus.stats(test_topic)["done"] == len(sent), 60)

    stats = bus.stats(test_topic)
    assert (stats["done"], stats["lost"], stats["ledger"]["drift"]) == (30, 0, 0)


class Forgetful(BaseHTTPRequestHandler):
    """A mesh after an outage: it knows no agent, and then its answer breaks off."""

    asked: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append(self.path.removeprefix("/api/v1/mesh/"))
        claims = len([path for path in self.asked if path.endswith("/claim")])
        if self.asked[-1] == "agents":
            self._answer(200, {})
        elif claims == 1:
            self._answer(404, {"code": "agent_not_found"})
        else:
            self._answer(200, {"deliveries": [], "drain": True}, claims > 2)

    def do_DELETE(self) -> None:
        self.asked.append("left")
        self._answer(204, None)

    def _answer(self, status: int, body: Any, whole: bool = True) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if whole else data[:-1])

    def log_message(self, *args: Any) -> None:
        """Nothing is written down."""


def test_one_that_the_mesh_forgot_registers_again() -> None:
    Forgetful.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Forgetful) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        argv = [*COMMANDS["agent.py"], url, "token", "words", "me"]
        ended = subprocess.run(argv, timeout=60 * PATIENCE, check=False)
        server.shutdown()

    assert ended.returncode == 0
    asked = [path for path in Forgetful.asked if "heartbeat" not in path]
    claim = "topics/words/claim"
    assert asked == ["agents", claim, "agents", claim, claim, "left"]


HOLDS = """
import json, sys, time, urllib.request
url, token, topic, me = sys.argv[1:]
def call(path, body):
    head = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
    data = json.dumps(body).encode()
    request = urllib.request.Request(url + "/api/v1/mesh/" + path, data, head)
    return urllib.request.urlopen(request).read()
call("agents", {"agent_id": me, "agent_type": "holds"})
call("topics/" + topic + "/claim", {"agent_id": me, "count": 3})
time.sleep(600)
"""


def test_what_a_killed_one_had_in_hand_is_done_by_another(
    live_site: LiveSite,
    test_topic: str,
    settings: Settings,
    redis_client: redis.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MESH_LEASE_S = 2
    monkeypatch.setitem(COMMANDS, "holds", [sys.executable, "-c", HOLDS])
    sent = bus.enqueue_many(test_topic, [{"text": "a b"}] * 3)
    with running(live_site, "holds", test_topic, "holder") as child:
        wait_until(lambda: bus.stats(test_topic)["running"] == 3, 60)
        child.kill()

    with running(live_site, "agent.py", test_topic, "heir"):
        judge = Judge("nobody")
        wait_until(lambda: judge.reclaim(test_topic) == 3, 60)
        wait_until(lambda: bus.stats(test_topic)["done"] == 3, 60)

    held_by = {bus.get_task(each, test_topic).agent for each in sent}
    lost_by = {bus.get_task(each, test_topic).attempts[0]["agent"] for each in sent}
    assert (held_by, lost_by) == ({"heir"}, {"holder"})
