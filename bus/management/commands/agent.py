"""`manage.py agent`: run agents until told to stop."""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from bus import agent, errors, handlers, keys, supervisor


class Command(BaseCommand):
    help = "Runs the tasks of all topics with a handler, or of one --topic."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--topic", help="serve only this topic")
        parser.add_argument(
            "--handler", metavar="MODULE:FUNCTION", help="run it with this function"
        )
        parser.add_argument("--concurrency", type=int, help="slots per topic")
        parser.add_argument("--processes", type=int, default=1, help="agent processes")
        parser.add_argument("--agent-id", help="id in the registry (host-pid)")
        parser.add_argument("--group", default="default", help="for topics without one")

    def handle(self, **options: Any) -> None:
        for name in ("concurrency", "processes"):
            if options[name] is not None and not 1 <= options[name] <= 1000:
                raise CommandError(f"--{name} {options[name]} is not 1 to 1000")
        try:
            found = _handlers(options["topic"], options["handler"])
            if options["processes"] > 1:
                self._many(options)
                return
            runtime = agent.Agent(
                found,
                agent_id=options["agent_id"],
                concurrency=options["concurrency"],
                group=keys.check_group(options["group"]),
            )
        except errors.BusError as exc:
            raise CommandError(str(exc), returncode=2) from exc
        logging.basicConfig(
            level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True
        )
        try:
            runtime.run()
        except errors.BusError as exc:
            raise CommandError(str(exc), returncode=69) from exc
        # Threads of handlers that hang must not keep the process.
        sys.stdout.flush()
        os._exit(0)

    def _many(self, options: dict[str, Any]) -> None:
        """P children of this command, restarted when they die."""
        argv = [sys.executable, str(Path(sys.argv[0]).resolve()), "agent"]
        for name in ("topic", "handler", "concurrency", "group"):
            if options[name] is not None:
                argv += [f"--{name}", str(options[name])]
        raise NotImplementedError(argv, supervisor)


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
