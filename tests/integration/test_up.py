"""`manage.py up` runs a mesh, or says in one sentence why it does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus import announcement
from tests.support.processes import ROOT, is_gone
from tests.support.waiting import wait_until


@contextmanager
def up(
    var_dir: Path, *args: str, redis_url: str = ""
) -> Iterator[subprocess.Popen[str]]:
    """`manage.py up` with its state in `var_dir`, in a session of its own."""
    env = {**os.environ, "MESH_VAR_DIR": str(var_dir), "REDIS_URL": redis_url}
    env["PYTHONUNBUFFERED"] = "1"
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up", *args],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """What it printed up to the line with these words."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if words in line:
            return said
    raise AssertionError(f"it ended without {words!r}:\n{said}")


def rest(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.read()


def test_it_runs_a_mesh_until_ctrl_c(tmp_path: Path) -> None:
    url_file = tmp_path / "redis" / "url"
    with up(tmp_path, "--agents", "1") as mesh:
        banner = read_until(mesh, "Ctrl-C here stops all")
        read_until(mesh, "agent-1 |")
        answer = announcement.ask(url_file.read_text().strip())

        assert "bundled Valkey" in banner
        assert str(tmp_path / "redis") in banner
        assert "\033[" not in banner
        assert (tmp_path / "db.sqlite3").exists()

        os.killpg(mesh.pid, signal.SIGINT)
        said = rest(mesh)

        assert mesh.wait() == 0
        assert "agent-1 is killed" not in said
        assert not url_file.exists()
        assert is_gone(answer.pid)


def test_it_is_refused_where_a_mesh_runs(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as first:
        read_until(first, "Ctrl-C here stops all")
        with up(tmp_path) as second:
            said = rest(second)

            assert second.wait() == 2
            assert f"by the mesh of process {first.pid}" in said
            assert "redis://127.0.0.1:" in said
            assert "Traceback" not in said


def test_it_starts_again_after_it_was_killed(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as first:
        read_until(first, "Ctrl-C here stops all")
        stale = (tmp_path / "redis" / "url").read_text().strip()
        orphan = announcement.ask(stale).pid
        first.kill()
        first.wait()

        with up(tmp_path, "--agents", "0") as second:
            read_until(second, "Ctrl-C here stops all")

            wait_until(lambda: is_gone(orphan))
            url = (tmp_path / "redis" / "url").read_text().strip()
            assert announcement.ask(url).pid != orphan


def test_it_uses_the_given_server_and_starts_none(tmp_path: Path) -> None:
    with up(tmp_path / "one", "--agents", "0") as other:
        read_until(other, "Ctrl-C here stops all")
        url = (tmp_path / "one" / "redis" / "url").read_text().strip()

        with up(tmp_path / "two", "--agents", "0", redis_url=url) as mesh:
            banner = read_until(mesh, "Ctrl-C here stops all")

            assert "of REDIS_URL" in banner
            assert url not in banner  # it holds the password
            assert not (tmp_path / "two" / "redis").exists()
            mesh.terminate()
            assert mesh.wait() == 0
        assert announcement.ask(url)


@pytest.mark.parametrize("redis_url", ["http://127.0.0.1/", "nonsense"])
def test_it_does_not_start_with_a_url_that_is_none(
    tmp_path: Path, redis_url: str
) -> None:
    with up(tmp_path, redis_url=redis_url) as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert "cannot be parsed" in said
        assert "Traceback" not in said


def test_it_does_not_start_without_the_given_server(tmp_path: Path) -> None:
    with up(tmp_path, redis_url="redis://:secret@127.0.0.1:1/0") as mesh:
        said = rest(mesh)

        assert mesh.wait() == 69
        assert "REDIS_URL is set, yet nothing useful answers" in said
        assert "secret" not in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    "args",
    [("--agents", "-1"), ("--agents", "1000000"), ("--concurrency", "0"), ("--what",)],
)
def test_it_refuses_options_out_of_range(tmp_path: Path, args: tuple[str, ...]) -> None:
    with up(tmp_path, *args) as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert "usage:" in said
