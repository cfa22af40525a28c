"""`manage.py up`: everything a mesh needs, in one terminal."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.management import call_command
from django.core.management.base import CommandError, CommandParser
from django.db import DatabaseError, connection

from bus import (
    address,
    announcement,
    conf,
    errors,
    fitness,
    janitor,
    layout,
    server,
    supervisor,
)
from bus.home import child, credentials, web
from bus.management import banner, options
from bus.management.command import MeshCommand
from bus.management.output import EXIT_CONFIG, EXIT_UNAVAILABLE, EXIT_USAGE

AGENTS_MAX: Final = 256
# The order of the stop: agents hand back what they hold while all else still runs.
AGENTS_RANK: Final = 0
WEB_RANK: Final = 1
AGENT_STOP_S: Final = 5.0
WEB_STOP_S: Final = web.GRACE_S + 1.0


class Command(MeshCommand):
    help = (
        "Run the mesh: the embedded Redis server, the web server, agents. Ctrl-C "
        "stops all."
    )
    requires_system_checks = "__all__"

    def add_arguments(self, parser: CommandParser) -> None:
        options.add_listener(parser)
        parser.add_argument(
            "--agents",
            type=options.number(0, AGENTS_MAX),
            default=2,
            metavar="N",
            help="agent processes to run (default 2)",
        )
        parser.add_argument(
            "--concurrency",
            type=options.number(1, 1_000),
            metavar="N",
            help="tasks at once per topic in each agent (default: as its handler says)",
        )

    def handle(self, *args: Any, **given: Any) -> None:
        # Until the supervisor takes over, a SIGTERM unwinds as a Ctrl-C does.
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            options.check_production(given["prod"])
            code = self._run(given)
        except KeyboardInterrupt:
            return
        except (errors.ServerLocked, errors.InvalidOption) as exc:
            raise CommandError(str(exc), returncode=EXIT_USAGE) from exc
        except (errors.WrongLayout, errors.UnfitServer) as exc:
            raise CommandError(str(exc), returncode=EXIT_CONFIG) from exc
        except (errors.ServerError, errors.BusUnavailable) as exc:
            raise CommandError(str(exc), returncode=EXIT_UNAVAILABLE) from exc
        except OSError as exc:
            raise CommandError(
                f"{exc.filename or 'the mesh'} cannot be used: {exc.strerror}",
                returncode=EXIT_UNAVAILABLE,
            ) from exc
        except DatabaseError as exc:
            raise CommandError(
                f"the database cannot be used: {exc}", returncode=EXIT_UNAVAILABLE
            ) from exc
        finally:
            signal.signal(signal.SIGTERM, before)
        if code:
            raise CommandError("the mesh could not be kept up", returncode=code)

    def _run(self, given: dict[str, Any]) -> int:
        """Start all, greet, wait for the end; what was started is stopped again."""
        host = given["host"] or conf.conf.HOST
        with contextlib.ExitStack() as started:
            embedded: server.EmbeddedServer | None = None
            if redis_url := conf.redis_url_given():
                address.checked_url()
                origin = _answering(redis_url)
            else:
                embedded = server.EmbeddedServer(conf.announcement().parent)
                started.callback(embedded.stop)
                embedded.start()  # refused if this folder's mesh runs already
                embedded.announce()  # so that it is known as ours when it is judged
                redis_url, origin = embedded.url, _origin(embedded)
            fitness.check(redis_url)
            layout.check(redis_url)
            listener = started.enter_context(web.listen(host, given["port"]))
            url = web.url_of(listener)
            _prepare_database()
            keys, fresh = None, False
            if not given["prod"]:
                keys, fresh = credentials.ensure(url)
            specs = [
                _web(listener, host, redis_url),
                *_agents(given["agents"], given["concurrency"], redis_url),
            ]
            mesh = supervisor.Supervisor(specs, server=embedded)
            started.callback(mesh.stop)
            mesh.start()
            if mesh.until(lambda: web.answers(url)):
                self._greet(
                    banner.text(
                        dashboard=_place(url, given["port"], given["prod"]),
                        redis=origin,
                        agents=given["agents"],
                        embedded=embedded,
                        keys=keys,
                        fresh=fresh,
                    )
                )
            return mesh.run_until_signal()

    def _greet(self, text: str) -> None:
        """Print it now, through a pipe too; where its reader left, the mesh stays."""
        with contextlib.suppress(OSError):
            self.stdout.write(text)
            self.stdout.flush()


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
    often = "before each reply" if conf.conf.DURABILITY == "fsync" else "every second"
    return (
        f"{embedded.binary.origin} on port {embedded.port}{moved}, append-only file "
        f"synced {often}"
    )


def _place(url: str, port: int | None, prod: bool) -> str:
    moved = port is None and not url.endswith(f":{web.USUAL_PORT}")
    more = f"   ({web.USUAL_PORT} was taken)" if moved else ""
    if prod:  # behind a proxy; by its address a browser would get 400
        more += f"   (asked for as {', '.join(settings.ALLOWED_HOSTS)} only)"
    return f"{url}/{more}"


def _prepare_database() -> None:
    # With SECRET_KEY and REDIS_URL given nobody has made it for SQLite yet.
    conf.var_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    if connection.vendor == "sqlite":
        # It holds sessions and the hashes of passwords: for its owner's eyes, as are
        # the files that SQLite puts beside it with the same mode.
        file = Path(connection.settings_dict["NAME"])
        file.touch(mode=0o600)
        file.chmod(0o600)
    call_command("migrate", interactive=False, verbosity=0)


def _web(listener: socket.socket, host: str, redis_url: str) -> child.Spec:
    fd = listener.fileno()
    return child.Spec(
        name="web",
        argv=[*_manage("web"), "--fd", str(fd)],
        # The host is among those that may be asked for.
        env={"REDIS_URL": redis_url, "HOST": host},
        stop_rank=WEB_RANK,
        stop_timeout_s=WEB_STOP_S,
        essential=True,
        keep_fds=[fd],
    )


def _agents(count: int, concurrency: int | None, redis_url: str) -> list[child.Spec]:
    # REDIS_URL rather than the announcement: an agent keeps its server even if
    # somebody deletes the file.
    argv = _manage("agent")
    if concurrency is not None:
        argv += ["--concurrency", str(concurrency)]
    return [
        child.Spec(
            name=f"agent-{number}",
            argv=argv,
            env={"REDIS_URL": redis_url},
            stop_rank=AGENTS_RANK,
            stop_timeout_s=AGENT_STOP_S,
            on_end=janitor.take_from_child,
        )
        for number in range(1, count + 1)
    ]


def _manage(command: str) -> list[str]:
    # Checked once, by us; each check costs a process a quarter of its start.
    manage = str(Path(settings.BASE_DIR) / "manage.py")
    return [sys.executable, manage, command, "--skip-checks"]
