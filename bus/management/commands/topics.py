"""`manage.py topics`: how all topics stand; what an operator does to one."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from functools import partial
from typing import Any

from django.core.management.base import CommandError

from bus import audit, auditor, keys, ledgers, purges, topics, words
from bus.management import output, trail
from bus.management.command import MeshCommand

_NUMBERS = ("waiting", "delayed", "running", "done", "dead", "oldest", "ledger")


class Command(MeshCommand):
    help = (
        "Lists the topics with their counts and ledger; pauses, empties, deletes, "
        "audits, settles one."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("topic", nargs="?", help="only this one")
        parser.add_argument("--json", action="store_true", help="one object a line")
        action = parser.add_mutually_exclusive_group()
        action.add_argument("--pause", action="store_true", help="start no more tasks")
        action.add_argument("--resume", action="store_true", help="undo --pause")
        action.add_argument(
            "--limit",
            action="append",
            metavar="NAME=VALUE",
            help=f"set one of {', '.join(topics.LIMITS)}; an empty value undoes it",
        )
        action.add_argument(
            "--purge",
            nargs="?",
            const="waiting",
            choices=purges.WHAT,
            help="cancel what waits (the default), discard what is dead, or all",
        )
        action.add_argument(
            "--audit", action="store_true", help="look through one now, and mend it"
        )
        action.add_argument(
            "--settle",
            action="store_true",
            help="enter what its ledger is off by, so that it balances",
        )
        action.add_argument("--delete", action="store_true", help="with all it has")
        parser.add_argument(
            "--force", action="store_true", help="delete it while agents run its tasks"
        )
        parser.add_argument("--yes", action="store_true", help="do not ask")

    def handle(self, *args: Any, **options: Any) -> None:
        topic = options["topic"]
        purge, delete = options["purge"], options["delete"]
        acts = options["pause"] or options["resume"] or options["limit"]
        acts = acts or purge or delete or options["audit"] or options["settle"]
        if acts and not topic:
            raise CommandError("say which topic", returncode=2)
        with output.bus_errors():
            if topic and not options["limit"]:
                topics.check_known(topic)
            if options["pause"]:
                _change(topic, paused=True)
            if purge or delete:
                self._confirm(topic, purge, options)
                self._empty(topic, purge, options["force"])
                return
            if options["settle"]:
                self._settle(topic, options)
                return
            if options["audit"]:
                self._audit(topic)
            if options["resume"]:
                _change(topic, paused=False)
            if options["limit"]:
                _change(topic, limits=_limits(options["limit"]))
            names = [keys.check_topic(topic)] if topic else topics.list_topics()
            rows = [topics.stats(name) for name in names]
            self._print(rows, options["json"])
            if options["audit"]:
                _alarm(rows[0])

    def _confirm(self, topic: str, purge: str | None, options: dict[str, Any]) -> None:
        """What there is of the topic that goes."""
        standing = topics.stats(topic)
        waiting = standing["waiting"] + standing["delayed"]
        counts = {
            "waiting": f"{waiting:,} that {words.noun(waiting, 'waits', 'wait')}",
            "dead": words.count(standing["dead"], "dead letter"),
        }
        of = counts[purge] if purge in counts else " and ".join(counts.values())
        what = f"purge {topic} of {of}" if purge else f"delete {topic} with {of}"
        self._ask(topic, what, options)

    def _ask(self, topic: str, what: str, options: dict[str, Any]) -> None:
        """What cannot be taken back is asked for twice."""
        if options["yes"]:
            return
        if sys.stdin is None or not sys.stdin.isatty():
            raise CommandError(f"to {what}, add --yes", returncode=2)
        self.stdout.write(f"Type the topic's name to {what}: ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().rstrip("\n") != topic:
            raise CommandError("nothing was done", returncode=1)

    def _empty(self, topic: str, purge: str | None, force: bool) -> None:
        noted = partial(trail.record, topic=topic, target=topic)
        if purge:
            write = partial(noted, "purge", what=purge)
            with audit.of_steps(write):
                counts = purges.purge_topic(topic, purge)
        else:
            write = partial(noted, "delete", force=force)
            with audit.of_steps(write):
                counts = purges.delete_topic(topic, force=force)
        write(**counts)
        said = ", ".join(f"{count:,} {what}" for what, count in counts.items())
        done = "purged" if purge else "deleted"
        self.stdout.write(
            f"{topic} is {done}: {said.replace('asked', 'asked to stop')}"
        )

    def _settle(self, topic: str, options: dict[str, Any]) -> None:
        drift = topics.stats(topic)["ledger"]["drift"]
        if drift:
            self._ask(
                topic, f"settle the ledger of {topic}, off by {drift:+,}", options
            )
        settled = ledgers.settle_ledger(topic)
        if settled:
            trail.record("settle", topic=topic, target=topic, settled=settled)
        said = (
            f"settled: it was off by {settled:+,}"
            if settled
            else "not off: it balances"
        )
        self.stdout.write(f"the ledger of {topic} is {said}")

    def _audit(self, topic: str) -> None:
        """What the audit mended, and what it leaves to whoever reads this."""
        found = auditor.audit(topic)
        for what in found.mended:
            self.stdout.write(f"mended: {what}")
        for what in found.seen:
            self.stdout.write(f"not mended: {what}")
        if not found.mended and not found.seen and not found.drift:
            self.stdout.write("every task is where its record says")

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
                _notes(row),
            )
        output.console(self.stdout).print(shown)


def _change(topic: str, **wanted: Any) -> None:
    note = partial(trail.record, topic=topic, target=topic)
    with audit.of_changes(note):
        told = topics.changed(topic, **wanted)
    for verb, before, after in told:
        note(verb, before=before, after=after)


def _alarm(row: dict[str, Any]) -> None:
    """CommandError for what the audit had to leave to a person."""
    topic, drift, seen = row["topic"], row["ledger"]["drift"], row["unmended"]
    if seen:
        noun = words.noun(seen, "task is", "tasks are")
        text = f"{seen:,} {noun} in two states at once: decide which is true"
        raise CommandError(text, returncode=1)
    if drift:
        text = f"the ledger of {topic} is off by {drift:+,}; once it is known why: "
        raise CommandError(f"{text}manage.py topics {topic} --settle", returncode=1)


def _notes(row: dict[str, Any]) -> str:
    """What an even ledger does not tell: pauses, and what the audit met."""
    notes = ["paused"] if row["paused"] else []
    notes += [f"{row[name]:,} {name}" for name in ("repaired", "unmended") if row[name]]
    notes += [f"{row['settled']:+,} settled"] if row["settled"] else []
    return ", ".join(notes)


def _number(text: str) -> float:
    """As it was typed, for the sentence that refuses it."""
    try:
        return int(text)
    except ValueError:
        return float(text)


def _limits(pairs: list[str]) -> dict[str, float | None]:
    limits: dict[str, float | None] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            limits[name] = _number(text) if text else None
        except ValueError:
            raise CommandError(f"--limit {pair}: no number", returncode=2) from None
    return limits
