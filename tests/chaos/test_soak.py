"""A whole mesh under a steady load grows in nothing: memory, files, keys."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import redis

import bus
from bus import connection
from tests.support.mesh import BANNER_END, read_until, up
from tests.support.soak import KEEP, TOPIC, Growth, Load, processes_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.soak

MINUTES = float(os.environ.get("MESH_SOAK_MINUTES", "30"))
WARM = 0.4  # of the time: imports, caches, pools, the last results kept
EVERY_S = 2.0
RSS_MB = 4.0  # what a process may gain after the warm-up, with 5 % of its size
DATA_MB = 1.0
FDS = 4.0  # clients come and go
KEYS = 2.0  # limits of requests and pages come and go


def allowed(name: str, level: float) -> float:
    """How much a series may rise after the warm-up."""
    if name.endswith("rss"):
        return RSS_MB + level * 0.05
    return {"keys": KEYS, "server data": DATA_MB}.get(name, FDS)


@pytest.mark.timeout(MINUTES * 60 + 180)
def test_nothing_grows_under_a_steady_load(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    growth, until = Growth(), time.monotonic() + MINUTES * 60
    with up(tmp_path / "var") as mesh:
        read_until(mesh, BANNER_END)
        kept = json.loads((tmp_path / "var" / "credentials.json").read_text())
        url = (tmp_path / "var" / "redis" / "url").read_text().strip()
        monkeypatch.setenv("REDIS_URL", url)
        client = redis.Redis.from_url(url, decode_responses=True)
        bus.set_limits(TOPIC, results_keep=KEEP)
        before = processes_of(mesh.pid)
        with Load(kept["url"], kept["token"]) as load:
            while time.monotonic() < until:
                growth.sample(before, client)
                time.sleep(EVERY_S)
        wait_until(lambda: bus.stats(TOPIC)["backlog"] == 0, 20, "all has ended")
        stats, after = bus.stats(TOPIC), processes_of(mesh.pid)
        client.close()
    connection.reset()

    found = growth.grown(MINUTES * 60 * WARM)
    lines = [f"{name:14} {at:8.1f} {up:+8.2f}" for name, (at, up) in found.items()]
    with capsys.disabled():
        print(f"\n{stats['done']:,} tasks done; level, growth after the warm-up:")
        print("\n".join(lines))
    assert after == before, "a process was started anew"
    assert load.odd == {}
    assert load.did["frames"] > 0 and stats["done"] > MINUTES * 60 * 10
    assert stats["ledger"]["drift"] == 0
    risen = [name for name, (at, up) in found.items() if up > allowed(name, at)]
    assert risen == []
