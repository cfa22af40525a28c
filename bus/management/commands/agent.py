"""`manage.py agent`: run agents until told to stop."""

from __future__ import annotations

import gc
import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError

from bus import agent, errors, handlers, janitor, keys, supervisor
from bus.home import child, cradle
from bus.management import options as kinds
from bus.management import output
from bus.management.command import MeshCommand

STOP_S = agent.GRACE_S + 1.0


class Command(MeshCommand):
    help = "Runs the tasks of all topics with a handler, or of one --topic."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--topic", help="serve only this topic")
        parser.add_argument(
            "--handler", metavar="MODULE:FUNCTION", help="run it with this function"
        )
        parser.add_argument(
            "--concurrency",
            type=kinds.number(1, 1_000),
            metavar="N",
            help="tasks at once per topic (default: as its handler says)",
        )
        parser.add_argument(
            "--processes",
            type=kinds.number(1, 1_000),
            default=1,
            metavar="N",
            help="agent processes (default 1)",
        )
        parser.add_argument(
            "--agent-id", metavar="ID", help="in the registry (default: host-pid)"
        )
        parser.add_argument(
            "--group", default="default", help="for topics that have none yet"
        )

    def handle(self, **options: Any) -> None:
        if options["agent_id"] and options["processes"] > 1:
            raise CommandError("--agent-id names one process", returncode=2)
        with output.bus_errors():
            group = keys.check_group(options["group"])
            found = _handlers(options["topic"], options["handler"])
            if options["processes"] > 1:
                self._many(options)
                return
            cradle.fork_on_request()
            runtime = agent.Agent(
                found,
                agent_id=options["agent_id"],
                concurrency=options["concurrency"],
                group=group,
            )
        output.log_lines()
        gc.collect()
        gc.freeze()  # what is loaded stays: no collection looks through it again
        with output.bus_errors():
            runtime.run()
        # Threads of handlers that hang must not keep the process.
        sys.stdout.flush()
        os._exit(0)

    def _many(self, options: dict[str, Any]) -> None:
        """P children of this command, restarted when they die.

        They come from one cradle: P starts cost one, and so do a hundred restarts.
        """
        argv = [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), "agent"]
        for name in ("topic", "handler", "concurrency", "group"):
            if options[name] is not None:
                argv += [f"--{name}", str(options[name])]
        argv.append("--skip-checks")  # ours have just passed
        nest = cradle.Cradle(argv)
        specs = [
            child.Spec(
                name=f"agent-{number}",
                argv=argv,
                stop_timeout_s=STOP_S,
                on_end=janitor.take_from_child,
                fork=nest.fork,
            )
            for number in range(1, options["processes"] + 1)
        ]
        mesh = supervisor.Supervisor(specs, name="agents")
        try:
            mesh.start()
            code = mesh.run_until_signal()
        finally:
            nest.close()
        if code:
            raise CommandError("the agents could not be kept up", returncode=code)


def _handlers(topic: str | None, path: str | None) -> list[handlers.Handler]:
    """What to serve: the named function, or what the apps registered."""
    if path is not None:
        return [handlers.load(path, topic)]
    handlers.autodiscover()
    found = list(handlers.registry.values())
    if topic is None:
        return found
    keys.check_topic(topic)
    chosen = [item for item in found if item.topic == topic]
    if not chosen:
        known = ", ".join(sorted(handlers.registry)) or "none"
        raise errors.HandlerError(
            f"no handler serves topic {topic!r} (registered: {known}); decorate one "
            "with @handler in an app's agents.py, or name it with --handler"
        )
    return chosen
