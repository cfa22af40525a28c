"""A whole mesh, run by `manage.py up` as a user would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import shell
from tests.support.processes import ROOT

BANNER_END = "Ctrl-C here stops all"


@contextmanager
def up(
    var_dir: Path, *args: str, redis_url: str = "", **env: str
) -> Iterator[subprocess.Popen[str]]:
    """`manage.py up` with its state in `var_dir`, in a session of its own."""
    process = subprocess.Popen(
        [sys.executable, "manage.py", "up", *args],
        cwd=ROOT,
        env=environment(var_dir, redis_url, **env),
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


def environment(var_dir: Path, redis_url: str = "", **env: str) -> dict[str, str]:
    """Of a `manage.py` command in the folder of a mesh."""
    named = shell.OF_SETTINGS  # the tests' own, here
    kept = {key: value for key, value in os.environ.items() if key not in named}
    ours = {"MESH_VAR_DIR": str(var_dir), "REDIS_URL": redis_url}
    return {**kept, **ours, "PYTHONUNBUFFERED": "1", **env}


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
    """What it prints until it ends."""
    assert process.stdout is not None
    return process.stdout.read()


def url_in(banner: str) -> str:
    """Where the dashboard is, by the banner."""
    found = re.search(r"Dashboard (http://\S+?)/\s", banner)
    assert found, banner
    return found[1]


def command_in(banner: str, words: str) -> str:
    """The line of the banner that is to be pasted, by words in it."""
    found = [line.strip() for line in banner.splitlines() if words in line]
    assert len(found) == 1, banner
    return found[0]
