"""`manage.py topics`: how all topics stand."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from bus import keys, topics
from bus.management import output

_NUMBERS = ("waiting", "delayed", "running", "done", "dead", "oldest", "ledger")


class Command(BaseCommand):
    help = "Lists the topics with their counts and ledger; pauses or resumes one."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("topic", nargs="?")
        parser.add_argument("--json", action="store_true", help="one object a line")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--pause", action="store_true", help="start no more tasks")
        action.add_argument("--resume", action="store_true")
        action.add_argument(
            "--limit",
            action="append",
            metavar="NAME=VALUE",
            help=f"set one of {', '.join(topics.LIMITS)}; an empty value undoes it",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        topic = options["topic"]
        acts = options["pause"] or options["resume"] or options["limit"]
        if acts and not topic:
            raise CommandError("say which topic", returncode=2)
        with output.bus_errors():
            if topic and not options["limit"]:
                topics.check_known(topic)
            if options["pause"]:
                topics.pause(topic)
            if options["resume"]:
                topics.resume(topic)
            if options["limit"]:
                topics.set_limits(topic, **_limits(options["limit"]))
            names = [keys.check_topic(topic)] if topic else topics.list_topics()
            self._print([topics.stats(name) for name in names], options["json"])

    def _print(self, rows: list[dict[str, Any]], as_json: bool) -> None:
        if as_json:
            for row in rows:
                self.stdout.write(output.json_line(row))
            return
        if not rows:
            self.stdout.write("No topic yet: `manage.py enqueue demo '{\"n\": 1}'`")
            return
        shown = output.table("topic", *_NUMBERS, "", right=_NUMBERS)
        for row in rows:
            drift = row["ledger"]["drift"]
            oldest = row["oldest_s"]
            shown.add_row(
                row["topic"],
                *(f"{row[name]:,}" for name in _NUMBERS[:5]),
                "-" if oldest is None else f"{oldest:,.1f} s",
                "balanced" if drift == 0 else f"drift {drift:+,}",
                "paused" if row["paused"] else "",
            )
        output.console(self.stdout).print(shown)


def _limits(pairs: list[str]) -> dict[str, float | None]:
    limits: dict[str, float | None] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            limits[name] = float(text) if text else None
        except ValueError:
            raise CommandError(f"--limit {pair}: no number", returncode=2) from None
    return limits
