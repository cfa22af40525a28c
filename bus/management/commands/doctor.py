"""`manage.py doctor`: what is wrong, with what to type."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from bus import errors, handlers, health
from bus.home import folder
from bus.management import output
from bus.management.command import MeshCommand

_MARKS = {health.OK: "[green]ok[/]", health.WARN: "[yellow]warn[/]"}


class Command(MeshCommand):
    help = "Checks servers, database, credentials, handlers, agents and ledgers."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="one object a line")

    def handle(self, *args: Any, **options: Any) -> None:
        served = _handlers()  # first: other findings say whether there is one
        found = [*health.checks(), *health.unlisted(), *folder.checks(), served]
        if options["json"]:
            for check in found:
                row = {"name": check.name, "status": check.status, "says": check.says}
                self.stdout.write(output.json_line({**row, "hint": check.hint}))
        else:
            shown = output.table("", "check", "finding")
            for check in found:
                hint = f"\n→ {check.hint}" if check.hint else ""
                mark = _MARKS.get(check.status, "[bold red]BAD[/]")
                finding = output.cell(check.says + hint)
                shown.add_row(mark, output.cell(check.name), finding)
            output.console(self.stdout).print(shown)
        bad = [check for check in found if check.status == health.BAD]
        if bad:
            text = f"{len(bad)} to mend: {', '.join(check.name for check in bad)}"
            raise CommandError(text, returncode=1)


def _handlers() -> health.Check:
    try:
        handlers.autodiscover()
    except errors.BusError as exc:
        return health.Check("handlers", health.BAD, str(exc), "mend that module")
    served = ", ".join(sorted(handlers.registry)) or "none"
    return health.Check("handlers", health.OK, f"topics with a handler here: {served}")
