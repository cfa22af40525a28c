"""`manage.py up`: everything a mesh needs, in one terminal."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from bus import (
    address,
    announcement,
    child,
    conf,
    errors,
    server,
    supervisor,
)

EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 69
AGENTS_MAX: Final = 256
# The order of the stop: agents hand back what they hold while all else still runs.
AGENTS_RANK: Final = 0
AGENT_STOP_S: Final = 5.0

_BANNER: Final = """
  Task mesh is up.

  Redis     {redis}
  Data      {data}
  Log       {log}
  Agents    {agents}

  In another terminal:
    {manage} enqueue TOPIC JSON      send a task
    {manage} results --follow        watch results
    {manage} dead list               see what failed for good
  Ctrl-C here stops all; nothing is lost.
"""


class Command(BaseCommand):
    help = "Run the mesh: the embedded Redis server, then agents. Ctrl-C stops all."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--agents",
            type=_number(0, AGENTS_MAX),
            default=2,
            metavar="N",
            help="agent processes to run (default 2; 0 runs the server alone)",
        )
        parser.add_argument(
            "--concurrency",
            type=_number(1, 10_000),
            metavar="N",
            help="tasks each agent runs at once (default: the agent's own)",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        # Until the supervisor takes over, a SIGTERM unwinds as a Ctrl-C does.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            code = self._run(options["agents"], options["concurrency"])
        except KeyboardInterrupt:
            return
        except (errors.ServerLocked, errors.InvalidOption) as exc:
            raise CommandError(str(exc), returncode=EXIT_USAGE) from exc
        except errors.ServerError as exc:
            raise CommandError(str(exc), returncode=EXIT_UNAVAILABLE) from exc
        except OSError as exc:
            raise CommandError(
                f"{exc.filename or 'the mesh'} cannot be used: {exc.strerror}",
                returncode=EXIT_UNAVAILABLE,
            ) from exc
        except DatabaseError as exc:
            raise CommandError(
                f"the database cannot be migrated: {exc}", returncode=EXIT_UNAVAILABLE
            ) from exc
        finally:
            signal.signal(signal.SIGTERM, before)
        if code:
            raise CommandError("the mesh could not be kept up", returncode=code)

    def _run(self, agents: int, concurrency: int | None) -> int:
        embedded: server.EmbeddedServer | None = None
        mesh: supervisor.Supervisor | None = None
        try:
            if url := conf.redis_url_given():
                address.checked_url()
                origin = _answering(url)
            else:
                embedded = server.EmbeddedServer(conf.announcement().parent)
                embedded.start()  # refused if this folder's mesh runs already
                url, origin = embedded.url, _origin(embedded)
            # With SECRET_KEY and REDIS_URL given nobody has made it for SQLite yet.
            conf.var_dir().mkdir(parents=True, exist_ok=True)
            call_command("migrate", interactive=False, verbosity=0)
            mesh = supervisor.Supervisor(
                _agents(agents, concurrency, url), server=embedded
            )
            mesh.start()
            self._greet(embedded, origin, agents)
            return mesh.run_until_signal()
        finally:
            if mesh is not None:
                mesh.stop()
            if embedded is not None:
                embedded.stop()

    def _greet(
        self, embedded: server.EmbeddedServer | None, origin: str, agents: int
    ) -> None:
        elsewhere = "kept by that server"
        self.stdout.write(
            _BANNER.format(
                redis=origin,
                data=_shown(embedded.directory) if embedded else elsewhere,
                log=_shown(embedded.log_path) if embedded else elsewhere,
                agents=agents or "none; start some with `manage.py agent`",
                manage=f"{_shown(Path(sys.executable))} manage.py",
            )
        )


def _answering(url: str) -> str:
    shown = address.shown_url(url)
    try:
        answer = announcement.ask(url)
    except errors.ServerError as exc:
        raise errors.ServerError(
            f"REDIS_URL is set, yet nothing useful answers at {shown}: {exc}. Start "
            "that server, or unset REDIS_URL to use the embedded one"
        ) from exc
    return f"{answer.version} of REDIS_URL, {shown}"


def _origin(embedded: server.EmbeddedServer) -> str:
    assert embedded.binary is not None  # it runs
    usual = int(conf.conf.REDIS_PORT)
    moved = "" if embedded.port == usual else f" ({usual} was taken)"
    return (
        f"{embedded.binary.origin} on port {embedded.port}{moved}, append-only file "
        "synced every second"
    )


def _agents(count: int, concurrency: int | None, url: str) -> list[child.Spec]:
    # REDIS_URL rather than the announcement: an agent keeps its server even if
    # somebody deletes the file.
    manage = str(Path(settings.BASE_DIR) / "manage.py")
    argv = [sys.executable, manage, "agent"]
    if concurrency is not None:
        argv += ["--concurrency", str(concurrency)]
    return [
        child.Spec(
            name=f"agent-{number}",
            argv=argv,
            env={"REDIS_URL": url},
            stop_rank=AGENTS_RANK,
            stop_timeout_s=AGENT_STOP_S,
        )
        for number in range(1, count + 1)
    ]


def _shown(path: Path) -> str:
    """Relative to here where that is shorter to read."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _number(low: int, high: int) -> Any:
    def number(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {low} to {high}")
        return int(text)

    return number
