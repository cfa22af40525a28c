"""Agents of the runtime, in this process or as processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bus.agent import Agent
from bus.handlers import Handler

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def running(
    topic: str, function: Callable[..., Any], **options: Any
) -> Iterator[Agent]:
    """An agent on a thread of this process; drained at the end.

    `agent_id`, `concurrency`, `grace_s` go to the agent, all else to the handler.
    """
    own = {
        name: options.pop(name)
        for name in ("agent_id", "concurrency", "grace_s", "group")
        if name in options
    }
    with serving(Agent([Handler(topic, function, **options)], **own)) as agent:
        yield agent


@contextmanager
def serving(agent: Agent) -> Iterator[Agent]:
    """Any agent on a thread of this process; drained at the end."""
    thread = threading.Thread(target=lambda: asyncio.run(agent.main()), daemon=True)
    thread.start()
    try:
        yield agent
    finally:
        agent.stop()
        thread.join(20)
        assert not thread.is_alive(), "the agent did not drain"


@contextmanager
def process(
    topic: str, handler: str, *args: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """`manage.py agent` as a process; `handler` is `module:function` under tests/."""
    argv = [sys.executable, str(ROOT / "manage.py"), "agent", "--topic", topic]
    child = subprocess.Popen(
        [*argv, "--handler", handler, *args],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield child
    finally:
        if child.poll() is None:
            child.terminate()
            try:
                child.wait(15)
            except subprocess.TimeoutExpired:
                child.kill()
        child.wait(5)
