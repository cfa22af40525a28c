"""The web servers of the benchmark, one process each."""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from bench.stage import ROOT, BenchError
from bus.home import child

HERE: Final = Path(__file__).resolve().parent
ENVIRONMENT: Final = ROOT / "var" / "bench-http"
_START_S: Final = 60.0
_STOP_S: Final = 10.0
_POLL_S: Final = 0.05
_LOG_TAIL_CHARS: Final = 2_000
_TOKEN: Final = """
import django
django.setup()
from django.core.management import call_command
from bus import accounts
call_command("migrate", verbosity=0)
print(accounts.create_token("bench", "admin")[1])
"""


def installed() -> Path:
    """The folder of the reference's programs, made anew when its pins have changed.

    BenchError with what pip says where they cannot be installed.
    """
    wanted, done = HERE / "requirements.txt", ENVIRONMENT / "installed.txt"
    if not done.exists() or done.read_text() != wanted.read_text():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(ENVIRONMENT)])
        pip = [str(ENVIRONMENT / "bin/python"), "-m", "pip", "install", "--quiet"]
        _run([*pip, "--disable-pip-version-check", "-r", str(wanted)])
        shutil.copy(wanted, done)
    return ENVIRONMENT / "bin"


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip()[-_LOG_TAIL_CHARS:]
        raise BenchError(f"{' '.join(argv[:4])} failed: {said}")


class Site(NamedTuple):
    """A web process: where it answers, an admin's token, which process it is."""

    port: int
    token: str
    pid: int


def environment(folder: Path, redis_url: str) -> dict[str, str]:
    """What the processes of a site are started with."""
    return {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "bench.http.settings",
        "MESH_VAR_DIR": str(folder),
        "REDIS_URL": redis_url,
    }


@contextlib.contextmanager
def mesh(folder: Path, redis_url: str) -> Iterator[Site]:
    """The site on a server, with its state in a folder."""
    env = environment(folder, redis_url)
    made = [sys.executable, "-c", _TOKEN]
    token = subprocess.check_output(made, cwd=ROOT, env=env, text=True).split()[-1]
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        port = int(listener.getsockname()[1])
        argv = [sys.executable, "manage.py", "web", "--fd", str(listener.fileno())]
        log = folder / "web.log"
        with _process(argv, log, env, [listener.fileno()]) as process:
            _until_it_answers(process, port, "/api/v1/mesh/health/live", log)
            yield Site(port, token, process.pid)


@contextlib.contextmanager
def reference(folder: Path, redis_url: str) -> Iterator[int]:
    """The port of the same call in FastAPI, with uvicorn set up as the site has it."""
    programs = installed()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    # By port, not by descriptor: uvicorn takes those for Unix sockets, and then leaves
    # Nagle's delay on.
    argv = [str(programs / "uvicorn"), "reference:app", "--app-dir", str(HERE)]
    argv += ["--port", str(port), "--loop", "auto", "--http", "httptools"]
    argv += ["--no-access-log", "--log-level", "warning", "--no-server-header"]
    argv += ["--timeout-keep-alive", "60"]
    log = folder / "reference.log"
    with _process(argv, log, {**os.environ, "REDIS_URL": redis_url}) as process:
        _until_it_answers(process, port, "/openapi.json", log)
        yield port


@contextlib.contextmanager
def _process(
    argv: Sequence[str], log: Path, env: Mapping[str, str], fds: Sequence[int] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = child.start(argv, cwd=ROOT, env=env, stdout=out, keep_fds=fds)
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        process.wait()


def _until_it_answers(
    process: subprocess.Popen[bytes], port: int, path: str, log: Path
) -> None:
    end_at = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end_at:
        asked = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_S)
        with contextlib.closing(asked), contextlib.suppress(OSError):
            asked.request("GET", path)
            if asked.getresponse().status == 200:
                return
        time.sleep(_POLL_S)
    said = log.read_text(errors="replace")[-_LOG_TAIL_CHARS:].strip()
    raise BenchError(f"the web server {process.args!r} does not answer\n{said}")
