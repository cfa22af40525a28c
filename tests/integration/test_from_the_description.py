"""Whoever knows the description of the API can live on it, whatever dies meanwhile."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.test_serving import pid_of
from tests.support.mesh import BANNER_END, read_until, up
from tests.support.processes import is_gone
from tests.support.stranger import TOPIC, Life, answer_to
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def lives_through(var_dir: Path, tasks: int, failures: int) -> None:
    """Send, work, fail, find, replay, read; without agents the web server drives."""
    ended: list[int] = []
    with up(var_dir, "--agents", "0") as mesh:
        read_until(mesh, BANNER_END)
        kept = json.loads((var_dir / "credentials.json").read_text())

        def end(how: signal.Signals) -> None:
            web = wait_until(lambda: pid_of(mesh, "web"), 60)
            os.kill(web, how)
            ended.append(web)
            wait_until(lambda: is_gone(web), 30)

        with Life(kept["url"].rstrip("/"), kept["token"], tasks, failures) as life:
            ids = life.sends(lambda: end(signal.SIGTERM))
            life.reads(tasks - failures)
            group = life.looks_at_what_died()
            job = life.replays(group, lambda: end(signal.SIGKILL))
            life.reads(tasks)
            topic = life.client.call("get_topic", topic=TOPIC)
            died = life.client.call("get_task", task_id=ids[0], topic=TOPIC)

    assert len(set(ended)) == len(ended) >= 3
    assert group["error"]["type"] == "Unlucky"
    seen = Counter(row["id"] for row in life.reader.rows)
    assert seen == Counter(ids), "each result once"
    assert all(row["result"] == answer_to(row["task"]) for row in life.reader.rows)
    assert life.reader.connections > len(ended)
    assert "gap" not in life.reader.other
    counts = job["counts"]
    assert (job["total"], counts["replayed"], counts["done"]) == (failures,) * 3
    assert job["letters"] == []
    assert (died["state"], died["replays"][0]["job"]) == ("done", job["id"])
    assert (topic["done"], topic["dead"], topic["waiting"]) == (tasks, 0, 0)
    assert topic["ledger"]["drift"] == 0


@pytest.mark.timeout(300)
def test_a_stranger_lives_on_it_while_the_web_server_dies(tmp_path: Path) -> None:
    lives_through(tmp_path, tasks=900, failures=30)
