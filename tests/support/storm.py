"""The mesh that a storm goes over: what its tasks are, its agents, its web server.

A storm has four rooms: here is what is attacked, `storm_senders` use it, `storm_faults`
break it, and `storm_verdict` compares what all of them were told with what the mesh
holds afterwards. `storm_work` is the handler, in the agents.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.support.mesh import BANNER_END, read_until, up
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

TOPIC: Final = "storm"

# Kind -> how many of a thousand, and the states in which such a task may end.
SHARES: Final = {
    "good": 790,
    "later": 70,  # delayed
    "flaky": 50,  # its first attempt asks for another
    "fatal": 30,
    "second": 30,  # dead, and done once it is replayed
    "withdrawn": 30,  # cancelled by its sender, who may be too late
}
ENDS: Final = {
    "good": {"done"},
    "later": {"done"},
    "flaky": {"done"},
    "fatal": {"dead"},
    "second": {"done"},
    "withdrawn": {"cancelled", "done"},
    "poison": {"dead"},
}


class Fleet:
    """Agent processes, watched by a thread that starts anew what has ended."""

    def __init__(self, count: int, ledger: Path) -> None:
        self._env = {**os.environ, "MESH_STORM_LEDGER": str(ledger)}
        self._births = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._ids: dict[int, str] = {}  # pid -> agent id
        self.deaths: list[tuple[float, str]] = []  # monotonic, agent id
        self.agents = [self._start() for _ in range(count)]
        self._keeper = threading.Thread(target=self._keep_up)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        self._births += 1
        agent_id = f"storm-{self._births}"
        argv = [sys.executable, str(ROOT / "manage.py"), "agent", "--skip-checks"]
        argv += ["--topic", TOPIC, "--handler", "tests.support.storm_work:run"]
        quiet = subprocess.DEVNULL
        agent = subprocess.Popen(
            [*argv, "--agent-id", agent_id, "--concurrency", "10"],
            cwd=ROOT,
            env=self._env,
            stdout=quiet,
            stderr=quiet,
            start_new_session=True,
        )
        self._ids[agent.pid] = agent_id
        return agent

    def _keep_up(self) -> None:
        while not self._over.wait(0.02):
            with self._lock:
                for place, agent in enumerate(self.agents):
                    if agent.poll() is not None:
                        self.deaths.append((time.monotonic(), self._ids[agent.pid]))
                        self.agents[place] = self._start()

    def pick(self, choose: Callable[[list[Any]], Any]) -> int:
        """The pid of one agent."""
        with self._lock:
            return int(choose(self.agents).pid)

    def id_of(self, pid: int) -> str:
        """The agent id of a process, also of one that is gone."""
        return self._ids[pid]

    def close(self) -> None:
        """Drain all; whoever does not end in time is killed."""
        self._over.set()
        self._keeper.join()
        for agent in self.agents:
            with contextlib.suppress(ProcessLookupError):
                agent.send_signal(signal.SIGCONT)
            agent.terminate()
        for agent in self.agents:
            try:
                agent.wait(15)
            except subprocess.TimeoutExpired:
                agent.kill()
                agent.wait(5)


class Web:
    """A web server as its user starts it, `manage.py up --agents 0`, without its own
    Redis server: `up` starts it again when somebody kills it."""

    def __init__(self, var_dir: Path, redis_url: str) -> None:
        self._up = up(var_dir, "--agents", "0", redis_url=redis_url)
        self._process = self._up.__enter__()
        read_until(self._process, BANNER_END)
        # Whatever it says later must not fill the pipe.
        self._reader = threading.Thread(target=self._process.stdout.read, daemon=True)  # type: ignore[union-attr]
        self._reader.start()
        kept = json.loads((var_dir / "credentials.json").read_text())
        self.url, self.token = str(kept["url"]), str(kept["token"])

    def pid(self) -> int:
        """The web process of now; waits while there is none."""
        return wait_until(self._child, 20, "the web process is there")

    def _child(self) -> int:
        up_pid = self._process.pid
        children: list[int] = []
        for task in Path(f"/proc/{up_pid}/task").iterdir():
            with contextlib.suppress(OSError):
                children += map(int, (task / "children").read_text().split())
        return children[0] if children else 0

    def close(self) -> None:
        """Stop it as its user would."""
        with contextlib.suppress(ProcessLookupError, AssertionError):
            os.kill(self.pid(), signal.SIGCONT)
        self._up.__exit__(None, None, None)
