"""Web servers in processes of their own, which share a database and a Redis."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bus.home import web
from tests.support.processes import ROOT
from tests.support.waiting import wait_until

_FIRST = """
import django
django.setup()
from django.core.management import call_command
from bus import accounts
call_command("migrate", verbosity=0)
accounts.ensure_user("sites", "operator", "a-password-for-sites")
print(accounts.create_token("sites", "operator")[1])
"""
_START_S = 60  # several starts at once on a machine with too few cores


@dataclass
class Site:
    """One of the web servers; `kill` it by its process."""

    url: str
    process: subprocess.Popen[bytes]


class Folder:
    """The state that the web servers share, with a token and a login of operators."""

    signing_in: Final = {"username": "sites", "password": "a-password-for-sites"}

    def __init__(self, path: Path, redis_url: str) -> None:
        self._env = {
            **os.environ,
            "MESH_VAR_DIR": str(path),
            "REDIS_URL": redis_url,
            "PYTHONPATH": str(ROOT),
        }
        made = subprocess.run(
            [sys.executable, "-c", _FIRST],
            cwd=ROOT,
            env=self._env,
            capture_output=True,
            check=True,
            text=True,
        )
        self.token = made.stdout.split()[-1]

    @contextmanager
    def sites(self, count: int, **env: str) -> Iterator[list[Site]]:
        """So many of them, all answering; killed at the end."""
        with ExitStack() as stack:
            made = [stack.enter_context(self._site(env)) for _ in range(count)]
            for each in made:
                wait_until(lambda each=each: web.answers(each.url), _START_S)
            yield made

    @contextmanager
    def _site(self, env: dict[str, str]) -> Iterator[Site]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            fd = listener.fileno()
            process = subprocess.Popen(
                [sys.executable, "manage.py", "web", "--fd", str(fd)],
                cwd=ROOT,
                env={**self._env, **env},
                pass_fds=[fd],
                start_new_session=True,
            )
            try:
                yield Site(web.url_of(listener), process)
            finally:
                process.kill()
                process.wait()
