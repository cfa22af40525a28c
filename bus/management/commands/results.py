"""`manage.py results`: the newest results, or all as they come."""

from __future__ import annotations

import contextlib
import time
from argparse import ArgumentParser
from typing import Any

from bus import errors, records, results, topics
from bus.management import options as kinds
from bus.management import output
from bus.management.command import MeshCommand


class Command(MeshCommand):
    help = "Prints the newest results of a topic (or of all); --follow goes on."

    def add_arguments(self, parser: ArgumentParser) -> None:
        kinds.add_topic(parser)
        parser.add_argument(
            "-n",
            "--count",
            type=kinds.number(0, 10_000),
            default=10,
            metavar="N",
            help="the newest N (default 10)",
        )
        parser.add_argument(
            "-f", "--follow", action="store_true", help="go on as they come"
        )
        parser.add_argument(
            "--json", action="store_true", help="whole rows, one a line"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        with output.bus_errors(), contextlib.suppress(KeyboardInterrupt):
            names = self._names(options)
            # The cursors first: what comes while we print is not missed after it.
            cursors = {name: results.last_result_id(name) for name in names}
            rows = [
                (entry_id, row)
                for name in names
                for entry_id, row in results.tail_results(name, options["count"] or 1)
            ]
            newest = sorted(rows, key=lambda item: records.place_of(item[0]))
            shown = newest[-options["count"] :] if options["count"] else []
            for entry_id, row in shown:
                self._print(entry_id, row, options["json"])
            if not rows:
                where = f"topic {options['topic']}" if options["topic"] else "any topic"
                self.stderr.write(f"No result of {where} yet.")
            if options["follow"]:
                self._follow(options, cursors)

    def _names(self, options: dict[str, Any]) -> list[str]:
        """The topics to show. One that is followed may be still to come."""
        if options["topic"] is None:
            return topics.list_topics()
        try:
            return [topics.check_known(options["topic"])]
        except errors.TopicNotFound as exc:
            if not options["follow"]:
                raise
            self.stderr.write(f"Waiting: {exc}")
            return [options["topic"]]

    def _follow(self, options: dict[str, Any], cursors: dict[str, str]) -> None:
        while True:
            try:
                for name in topics.list_topics() if options["topic"] is None else ():
                    if name not in cursors:
                        cursors[name] = "0-0"  # a new topic: from its first result
                quiet = True
                for name, cursor in cursors.items():
                    block_ms = 1000 if len(cursors) == 1 else 0
                    for entry_id, row in results.results_after(
                        name, cursor, 1000, block_ms
                    ):
                        cursors[name] = entry_id
                        self._print(entry_id, row, options["json"])
                        quiet = False
                if quiet:
                    time.sleep(0.2)
            except errors.BusUnavailable as exc:
                # The cursor is an id: after an outage it goes on without a gap.
                self.stderr.write(f"waiting: {exc}")
                time.sleep(1)

    def _print(self, entry_id: str, row: dict[str, Any], whole: bool) -> None:
        if whole:
            line = output.json_line({"entry_id": entry_id, **row})
        else:
            line = _in_short(row)
        self.stdout.write(line)
        self.stdout.flush()  # whoever follows through a pipe reads along


def _in_short(row: dict[str, Any]) -> str:
    when = str(row.get("finished_at", ""))[11:23]
    topic, state = str(row.get("topic", "-")), str(row.get("state", "?"))
    value = output.json_line(row.get("result", row))
    head = f"{when}  {topic:<16} {state:<9} {row.get('id', '-')}"
    return output.plain(f"{head}  {value[:120]}")
