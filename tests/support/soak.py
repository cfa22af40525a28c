"""A steady load on a whole mesh, and how its processes grow under it."""

from __future__ import annotations

import contextlib
import itertools
import json
import statistics
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Final

import httpx2
import redis
from websockets.exceptions import WebSocketException
from websockets.sync.client import connect

TOPIC: Final = "hello"  # agents of `up` serve it
PAUSE_S: Final = 0.02
KEEP: Final = 200  # results; full long before the warm-up is over
_CLIENT_S: Final = 10.0  # how long a follower of the live feed stays


class Load:
    """One client of each kind, which never hurries."""

    def __init__(self, url: str, token: str) -> None:
        self.did: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()  # answers that no client should see
        self._url, self._token = url.rstrip("/"), token
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=work)
            for work in (self._send, self._tidy_up, self._follow)
        ]

    def __enter__(self) -> Load:
        with self._http() as http:
            self._said(http.get("health"), 200)
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _http(self) -> httpx2.Client:
        return httpx2.Client(
            base_url=f"{self._url}/api/v1/mesh/",
            headers={"Authorization": f"Bearer {self._token}"},
            timeout=15,
        )

    def _said(self, answer: httpx2.Response, *fine: int) -> Any:
        self.did[answer.request.url.path.rpartition("/")[2]] += 1
        if answer.status_code not in fine:
            self.odd[f"{answer.request.url.path}: {answer.status_code}"] += 1
            return None
        return answer.json()

    def _send(self) -> None:
        """Tasks one by one and by the batch, every 50th of them deadly; waits."""
        with self._http() as http:
            for number in itertools.count():
                if self._over.wait(PAUSE_S):
                    return
                name = "" if number % 50 == 7 else f"caller {number}"
                task = {"topic": TOPIC, "task": {"name": name}}
                if number % 20 == 3:
                    body = {"tasks": [task] * 20}
                    self._said(http.post("enqueue/batch", json=body), 200)
                    continue
                sent = self._said(http.post("enqueue", json=task), 201)
                if sent and number % 10 == 0:
                    path = f"tasks/{sent['id']}?topic={TOPIC}&wait=5"
                    self._said(http.get(path), 200)
                if number % 25 == 0:
                    for path in ("topics", "agents", f"results?topic={TOPIC}"):
                        self._said(http.get(path), 200)

    def _tidy_up(self) -> None:
        """Discard what died."""
        with self._http() as http:
            while not self._over.wait(1):
                found = self._said(http.get(f"dead?topic={TOPIC}&count=100"), 200)
                for letter in (found or {"dead": []})["dead"]:
                    path = f"dead/{letter['id']}?topic={TOPIC}"
                    self._said(http.delete(path), 200, 204)

    def _follow(self) -> None:
        """Pages that come, look on for a while, and go."""
        url = self._url.replace("http", "ws", 1) + "/ws/feed"
        headers = {"Authorization": f"Bearer {self._token}"}
        first = {"op": "resume", "after": {}, "topics": [TOPIC], "regions": ["results"]}
        while not self._over.is_set():
            until = time.monotonic() + _CLIENT_S
            try:
                with connect(url, additional_headers=headers) as socket:
                    socket.send(json.dumps(first))
                    while time.monotonic() < until and not self._over.is_set():
                        with contextlib.suppress(TimeoutError):
                            socket.recv(1)
                            self.did["frames"] += 1
            except (OSError, WebSocketException) as exc:
                self.odd[f"feed: {type(exc).__name__}"] += 1


class Growth:
    """Figures sampled over time, per process and for the data."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._series: dict[str, list[tuple[float, float]]] = defaultdict(list)

    def sample(self, processes: dict[str, int], client: redis.Redis) -> None:
        """Look once: `processes` are pids by name, among them the Redis server."""
        at = time.monotonic() - self._began
        for name, pid in processes.items():
            self._series[f"{name} rss"].append((at, _rss_mb(pid)))
            self._series[f"{name} fds"].append((at, _fds(pid)))
        memory: Any = client.info("memory")
        self._series["server data"].append((at, memory["used_memory"] / 2**20))
        self._series["keys"].append((at, float(client.dbsize())))  # type: ignore[arg-type]

    def grown(self, warm_s: float) -> dict[str, tuple[float, float]]:
        """Per series: its level after the warm-up, and what its slope added since."""
        found = {}
        for name, points in self._series.items():
            late = [point for point in points if point[0] >= warm_s]
            times, values = zip(*late, strict=True)
            slope = statistics.linear_regression(times, values).slope
            found[name] = (statistics.median(values), slope * (times[-1] - times[0]))
        return found


def processes_of(up_pid: int) -> dict[str, int]:
    """The processes that a running `up` has started, by what they are."""
    found: dict[str, int] = {}
    for task in Path(f"/proc/{up_pid}/task").iterdir():
        for pid in map(int, (task / "children").read_text().split()):
            argv = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            kind = "web" if "web" in argv else "agent" if "agent" in argv else "server"
            found[f"{kind} {sum(name.startswith(kind) for name in found) + 1}"] = pid
    return found


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"process {pid} has no memory")


def _fds(pid: int) -> float:
    return float(len(list(Path(f"/proc/{pid}/fd").iterdir())))
