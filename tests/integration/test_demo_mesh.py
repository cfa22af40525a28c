"""Demos in one folder share a mesh, which ends with the last of them."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bus import announcement, server
from examples.stdlib_metrics import mesh
from tests.support.agents import ROOT

OTHER = """\
import django; django.setup()
import sys
from rich.console import Console
from examples.stdlib_metrics import mesh
mesh.AGENTS = 0
with mesh.under(Console(file=sys.stderr), "demo"):
    print("in", flush=True)
    sys.stdin.read()
"""


class Told(io.StringIO):
    """What a demo prints; `then` is called at the first line that holds `words`."""

    def __init__(self, words: str = "", then: Callable[[], None] | None = None) -> None:
        super().__init__()
        self._words, self._then = words, then

    def write(self, text: str) -> int:
        if self._then and self._words in text:
            then, self._then = self._then, None
            then()
        return super().write(text)


@pytest.fixture
def folder(
    tmp_path: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder without a mesh; agents are nothing these tests need."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setattr(mesh, "AGENTS", 0)
    settings.MESH_VAR_DIR = str(tmp_path / "var")
    settings.MESH_REDIS_PORT = 16_000 + os.getpid() % 15_000
    yield tmp_path / "var"
    assert announcement.running() is None


@pytest.fixture
def other(folder: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts another demo; it ends when its stdin does."""
    env = {**os.environ, "MESH_VAR_DIR": str(folder)}
    env |= {"DJANGO_SETTINGS_MODULE": "meshsite.settings"}
    env.pop("REDIS_URL", None)
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-c", OTHER],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.communicate(timeout=60)


def test_a_demo_starts_a_mesh_and_ends_it(folder: Path) -> None:
    told = Told()

    with mesh.under(Console(file=told), "demo"):
        assert announcement.running() is not None

    assert announcement.running() is None
    assert "Started a mesh" in told.getvalue()


def test_a_demo_that_is_through_first_keeps_the_mesh_for_the_other(
    folder: Path, other: Callable[[], subprocess.Popen[str]]
) -> None:
    seen: list[Any] = []

    def second_goes() -> None:
        seen.append(announcement.running())
        assert child.stdin is not None
        child.stdin.close()
        child.stdin = None

    told = Told("Another demo", second_goes)
    with mesh.under(Console(file=told), "demo"):
        child = other()
        assert child.stdout is not None
        assert child.stdout.readline() == "in\n"

    assert seen != [None]
    assert len(seen) == 1
    assert announcement.running() is None


def test_a_demo_leaves_the_mesh_of_another_running(folder: Path) -> None:
    with server.EmbeddedServer(folder / "redis") as embedded:
        embedded.announce()
        told = Told()

        with mesh.under(Console(file=told), "demo"):
            pass

        assert announcement.running() is not None
        assert "Feeding the mesh of this folder" in told.getvalue()


def test_a_demo_waits_for_a_mesh_that_is_just_being_started(folder: Path) -> None:
    """`make run` holds the folder before its server is announced."""
    with server.EmbeddedServer(folder / "redis") as embedded:
        late = threading.Timer(0.3, embedded.announce)
        late.start()
        began = time.monotonic()
        told = Told()

        with mesh.under(Console(file=told), "demo"):
            waited_s = time.monotonic() - began

        late.join()
        assert "Feeding the mesh of this folder" in told.getvalue()
        assert waited_s > 0.2
