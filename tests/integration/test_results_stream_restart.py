"""A reader of results over REST outlives the web server, and misses nothing by it."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.integration.test_feed_follows import publish
from tests.integration.test_serving import Session, pid_of
from tests.support.events import Ended, Events
from tests.support.mesh import BANNER_END, read_until, up
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

TOTAL = 3_000
KILLS = 2
PATIENCE_S = 60


class Reading(threading.Thread):
    """Reads on, whatever happens to the server, as a browser's EventSource does."""

    def __init__(self, url: str, token: str) -> None:
        super().__init__(daemon=True)
        self._events = Events(url, token, timeout_s=5)
        self.seen: list[Any] = []
        self.other: list[str] = []
        self.connections = 0

    def run(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while len(self.seen) < TOTAL and time.monotonic() < until:
            try:
                answer = self._events.open(topic="hello", after="0-0")
                if answer.status == 200:
                    self.connections += 1
                    self._read()
            except (OSError, Ended):
                time.sleep(0.05)
            finally:
                if hasattr(self._events, "answer"):
                    self._events.close()

    def _read(self) -> None:
        while len(self.seen) < TOTAL:
            event = self._events.next()
            if event.name == "result":
                self.seen.append(event.data["result"])
            else:
                self.other.append(event.name)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "stop"])
def test_each_result_comes_once_however_often_the_web_server_dies(
    tmp_path: Path, how: signal.Signals
) -> None:
    with up(tmp_path, "--agents", "0") as mesh:
        read_until(mesh, BANNER_END)
        url = (tmp_path / "redis" / "url").read_text().strip()
        with Session(tmp_path) as session:
            reader = Reading(session.kept["url"].rstrip("/"), session.kept["token"])
        client = redis.Redis.from_url(url, decode_responses=True)
        reader.start()
        wait_until(lambda: reader.connections, 20)
        killed: set[int] = set()
        for start in range(0, TOTAL, 50):
            publish(client, "hello", range(start, start + 50))
            if start and start % (TOTAL // (KILLS + 1)) == 0:
                been = reader.connections
                web = wait_until(lambda: pid_of(mesh, "web"), 20)
                os.kill(web, how)
                killed.add(web)
                wait_until(lambda been=been: reader.connections > been, 30)
        reader.join(PATIENCE_S)
        client.close()

    assert len(killed) == KILLS
    assert reader.connections > KILLS
    assert reader.seen == list(range(TOTAL))
    assert "gap" not in reader.other
