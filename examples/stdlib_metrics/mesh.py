"""The mesh under the demo: one that runs here, or one started and shared by demos."""

from __future__ import annotations

import contextlib
import fcntl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.console import Console

import bus
from bus import announcement, conf, errors, server, supervisor
from bus.home import child

AGENTS = 2
LOOK_S = 0.1
STARTING_S = 15.0


@contextlib.contextmanager
def under(console: Console, topic: str) -> Iterator[None]:
    """A mesh with an agent for the topic; what was started here is stopped again.

    Two demos in one folder use one mesh. `demo.users` is held by each while it runs,
    so whoever started the mesh sees when the last one is through; `demo.gate` is held
    to look at the mesh and to stop it, so nobody finds one that is about to go.
    """
    folder = conf.var_dir()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        gate = stack.enter_context((folder / "demo.gate").open("a"))
        users = stack.enter_context((folder / "demo.users").open("a"))
        log = stack.enter_context((folder / "demo.log").open("a"))
        fcntl.flock(gate, fcntl.LOCK_EX)
        mesh = _started(console, topic, log)
        if mesh is not None:
            # Behind the wait for the others, which Ctrl-C may end.
            stack.callback(mesh.stop)
        fcntl.flock(users, fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(users, fcntl.LOCK_UN)
            if mesh is not None:
                _wait_for_others(console, gate, users)


def _wait_for_others(console: Console, gate: IO[str], users: IO[str]) -> None:
    """Return with the gate closed once no other demo uses what this one started."""
    told = False
    while True:
        fcntl.flock(gate, fcntl.LOCK_EX)
        try:
            fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            fcntl.flock(gate, fcntl.LOCK_UN)
        if not told:
            console.print("Another demo still uses this mesh; Ctrl-C stops it anyway.")
            told = True
        time.sleep(LOOK_S)


def _started(
    console: Console, topic: str, log: IO[str]
) -> supervisor.Supervisor | None:
    """What had to be started: agents, with a server where none runs; None: nothing."""
    url, where, embedded = conf.redis_url_given(), "REDIS_URL", None
    if not url:
        url, where, embedded = _of_this_folder()
    if embedded is not None:
        console.print(f"Started a mesh for the demo: {embedded.shown_url}")
    else:
        console.print(f"Feeding the mesh of {where}.")
        if any(topic in agent.get("topics", ()) for agent in bus.list_agents()):
            return None
        console.print(f"No agent serves topic {topic} there: starting {AGENTS}.")
    manage = str(Path(__file__).resolve().parents[2] / "manage.py")
    specs = [
        child.Spec(
            name=f"agent-{number}",
            argv=[sys.executable, manage, "agent", "--topic", topic],
            env={"REDIS_URL": url},
        )
        for number in range(1, AGENTS + 1)
    ]
    mesh = supervisor.Supervisor(specs, server=embedded, out=log, name="demo")
    try:
        mesh.start()
    except BaseException:
        if embedded is not None:
            embedded.stop()
        raise
    return mesh


def _of_this_folder() -> tuple[str, str, server.EmbeddedServer | None]:
    """URL and place of the mesh that runs here, or the server started as there is none.

    `make run` holds the data directory for a moment before its server is announced.
    """
    until = time.monotonic() + STARTING_S
    while True:
        if running := announcement.running():
            return running.url, "this folder", None
        embedded = server.EmbeddedServer(conf.announcement().parent)
        try:
            embedded.start()
        except errors.ServerLocked:
            if time.monotonic() > until:
                raise
            time.sleep(LOOK_S)
        else:
            return embedded.url, "", embedded
