"""The embedded server runs with jemalloc where it can, and says nothing else new."""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bus.home import allocator
from tests.support.processes import script

JEMALLOC = "libjemalloc.so.2"


@pytest.fixture(autouse=True)
def looked_for_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LD_PRELOAD", "MALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    allocator._jemalloc.cache_clear()
    yield
    allocator._jemalloc.cache_clear()


@pytest.fixture
def server(tmp_path: Path) -> Path:
    """One that ends where a broken library is loaded before it."""
    return script(tmp_path / "server", 'case "$LD_PRELOAD" in *broken*) exit 1; esac')


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux that has it."""
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", {"jemalloc": JEMALLOC}.get)


def test_a_server_built_on_the_c_librarys_alone_gets_jemalloc(
    here: None, server: Path
) -> None:
    told = allocator.environment(server, "libc")

    assert told["LD_PRELOAD"] == JEMALLOC
    assert told["MALLOC_CONF"] == "background_thread:true"
    assert {**os.environ, **told} == told  # all the rest is as it was


@pytest.mark.parametrize("malloc", ["jemalloc-5.3.0", "tcmalloc-2.10", ""])
def test_a_server_that_has_its_own_keeps_it(
    here: None, server: Path, malloc: str
) -> None:
    assert allocator.environment(server, malloc) == dict(os.environ)


def test_a_machine_without_it_runs_the_server_as_it_is(
    monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)

    assert allocator.environment(server, "libc") == dict(os.environ)


def test_elsewhere_than_on_linux_nothing_is_looked_for(
    here: None, monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")

    assert allocator.environment(server, "libc") == dict(os.environ)


def test_what_somebody_preloads_and_configures_stays(
    here: None, monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setenv("LD_PRELOAD", "/lib/mine.so")
    monkeypatch.setenv("MALLOC_CONF", "narenas:1")

    told = allocator.environment(server, "libc")

    assert told["LD_PRELOAD"] == f"/lib/mine.so {JEMALLOC}"
    assert told["MALLOC_CONF"] == "narenas:1"


def test_a_library_that_the_server_cannot_run_with_is_left_out(
    monkeypatch: pytest.MonkeyPatch, server: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "broken.so")

    assert allocator.environment(server, "libc") == dict(os.environ)


def test_so_it_is_when_the_server_does_not_start_at_all(
    here: None, tmp_path: Path
) -> None:
    assert allocator.environment(tmp_path / "none", "libc") == dict(os.environ)
