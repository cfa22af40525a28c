"""Small programs for tests that start, signal or kill processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


_ENV = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def is_gone(pid: int) -> bool:
    """Whether no such process runs; a zombie nobody reaps has stopped running, too."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


@contextmanager
def program(
    source: str, *args: str, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Run Python source in a session of its own, with `bus` importable."""
    process = subprocess.Popen(
        [sys.executable, "-c", source, *args],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **_ENV, **(env or {})},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def script(path: Path, body: str) -> Path:
    """An executable shell script, to stand in for a server program."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path
