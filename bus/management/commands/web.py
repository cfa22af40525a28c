"""`manage.py web`: the web server alone."""

from __future__ import annotations

import contextlib
from argparse import SUPPRESS
from typing import Any

from django.core.management.base import CommandError, CommandParser

from bus import conf, errors, fitness, layout
from bus.home import web
from bus.management import options, output
from bus.management.command import MeshCommand


class Command(MeshCommand):
    help = "Run the web server alone: REST API, dashboard, live feed."
    requires_system_checks = "__all__"

    def add_arguments(self, parser: CommandParser) -> None:
        options.add_listener(parser)
        # The socket of whoever started us: `up`, or a service manager.
        parser.add_argument("--fd", type=options.number(0, 1_000_000), help=SUPPRESS)

    def handle(self, *args: Any, **given: Any) -> None:
        options.check_production(given["prod"])
        output.log_lines()
        # A server that is away is waited for by the pages; what it is set to do
        # is in `health`.
        with output.bus_errors(), contextlib.suppress(errors.BusUnavailable):
            fitness.check()
            layout.check()
        try:
            if given["fd"] is not None:
                listener = web.inherited(given["fd"])
            else:
                host = given["host"] or conf.conf.HOST
                listener = web.listen(host, given["port"])
        except errors.InvalidOption as exc:
            raise CommandError(str(exc), returncode=output.EXIT_USAGE) from exc
        except errors.ServerError as exc:
            raise CommandError(str(exc), returncode=output.EXIT_UNAVAILABLE) from exc
        web.serve(listener)
