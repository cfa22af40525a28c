"""Somebody signed in as an admin, who asks for one page after the other."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

from bench.http import servers
from bench.stage import ROOT, BenchError

_TIMEOUT_S: Final = 60.0
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Fields of /proc/<pid>/stat behind the name of the process.
_USER, _SYSTEM = 11, 12
_SESSION: Final = """
import django
django.setup()
import secrets
from django.conf import settings
from django.test import Client
from bus import accounts
client = Client()
client.force_login(accounts.ensure_user("bench", "admin", secrets.token_hex()))
name = settings.SESSION_COOKIE_NAME
print(f"{name}={client.cookies[name].value}")
"""


class Took(NamedTuple):
    """What pages took in ms: each by the clock, and on average of the CPU."""

    wall_ms: list[float]
    cpu_ms: float | None


class Browser:
    """One connection with the cookie of a session."""

    def __init__(self, port: int, pid: int, cookie: str) -> None:
        self._connection = http.client.HTTPConnection(
            "127.0.0.1", port, timeout=_TIMEOUT_S
        )
        self._pid = pid
        self._headers = {"Cookie": cookie}

    def took(self, path: str, warm: int, times: int) -> Took:
        """What a page takes, asked so often after so often unmeasured."""
        for _ in range(warm):
            self._ask_ms(path)
        before_ms = cpu_ms(self._pid)
        found = [self._ask_ms(path) for _ in range(times)]
        after_ms = cpu_ms(self._pid)
        if before_ms is None or after_ms is None:
            return Took(found, None)
        return Took(found, (after_ms - before_ms) / times)

    def _ask_ms(self, path: str) -> float:
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        took_ms = (time.perf_counter() - began) * 1000
        if answer.status != 200:
            to = answer.getheader("Location", "")
            raise BenchError(f"{path} says {answer.status} {to}: {said[:500]!r}")
        return took_ms

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def opened(site: servers.Site, folder: Path, redis_url: str) -> Browser:
    """A browser signed in at a site whose state is in this folder."""
    env = servers.environment(folder, redis_url)
    argv = [sys.executable, "-c", _SESSION]
    told = subprocess.check_output(argv, cwd=ROOT, env=env, text=True)
    return Browser(site.port, site.pid, told.split()[-1])


def cpu_ms(pid: int) -> float | None:
    """The CPU time of a process so far; None where the system has no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[_USER]) + int(fields[_SYSTEM])) * 1000 / _TICKS_PER_S
