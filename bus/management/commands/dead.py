"""`manage.py dead`: list, show, replay and discard dead letters."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError

from bus import dead, decisions, errors, exact, keys, purges, records, topics
from bus.letters import DeadLetter, said
from bus.management import options as kinds
from bus.management import output, trail
from bus.management.command import MeshCommand


class Command(MeshCommand):
    help = "Dead letters: see what failed for good, replay or discard it."

    def add_arguments(self, parser: ArgumentParser) -> None:
        sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        for verb in ("list", "groups"):
            one = sub.add_parser(verb, help=_HELP[verb])
            kinds.add_topic(one)
            one.add_argument("--json", action="store_true", help="one object a line")
            if verb == "list":
                one.add_argument(
                    "-n",
                    "--count",
                    type=kinds.number(1, 10_000),
                    default=20,
                    metavar="N",
                    help="the newest N (default 20)",
                )
        for verb in ("show", "replay", "discard", "undo"):
            one = sub.add_parser(verb, help=_HELP[verb])
            one.add_argument(
                "ids",
                nargs="*" if verb in _BULK else "+",
                metavar="ID",
                help="of a task, as `dead list` shows it",
            )
            one.add_argument("--topic", help="where to look (default: everywhere)")
            if verb in _BULK:
                one.add_argument("--all", action="store_true", help="of the --topic")
            if verb == "replay":
                one.add_argument("--payload", help="JSON to use instead, for one ID")

    def handle(self, *args: Any, **options: Any) -> None:
        with output.bus_errors():
            getattr(self, f"_{options['verb']}")(options)

    def _list(self, options: dict[str, Any]) -> None:
        names = _names(options["topic"])
        letters = [x for name in names for x in dead.list_dead(name, options["count"])]
        letters.sort(key=lambda letter: letter.died_at, reverse=True)
        letters = letters[: options["count"]]
        if options["json"]:
            for letter in letters:
                self.stdout.write(output.json_line(letter.row()))
            return
        if not letters:
            self.stdout.write("No dead letters.")
            return
        console = output.console(self.stdout)
        shown = output.table("died (UTC)", "topic", "id", "attempts", "error")
        for letter in letters:
            died = letter.died_at[:19].replace("T", " ")
            first = output.cell(said(letter.error).partition("\n")[0][:80])
            if console.width >= output.WIDE:
                tries = str(len(letter.attempts))
                shown.add_row(died, letter.topic, output.cell(letter.id), tries, first)
            else:
                # Ids whole, to be copied; what they died of below.
                row = output.cell(f"{died}  {letter.topic}  {letter.id}")
                console.print(row, soft_wrap=True)
                console.print("   ", first, soft_wrap=True)
        if shown.rows:
            console.print(shown)

    def _groups(self, options: dict[str, Any]) -> None:
        shown = output.table("count", "topic", "fingerprint", "error", right=("count",))
        rows = [
            (name, group)
            for name in _names(options["topic"])
            for group in dead.dead_groups(name)
        ]
        if options["json"]:
            for name, group in rows:
                self.stdout.write(output.json_line({"topic": name, **group}))
            return
        for name, group in sorted(rows, key=lambda row: -row[1]["count"]):
            first = output.cell(said(group["error"]).partition("\n")[0][:90])
            fp = output.cell(group["fingerprint"])
            shown.add_row(f"{group['count']:,}", name, fp, first)
        if not rows:
            self.stdout.write("No dead letters.")
            return
        output.console(self.stdout).print(shown)

    def _show(self, options: dict[str, Any]) -> None:
        for task_id in options["ids"]:
            letter = dead.get_dead(task_id, options["topic"])
            text = json.dumps(letter.row(), ensure_ascii=False, indent=2)
            self.stdout.write(output.plain(text))

    def _replay(self, options: dict[str, Any]) -> None:
        payload: Any = ...
        if options["payload"] is not None:
            if len(options["ids"]) != 1:
                raise CommandError("--payload is for one ID", returncode=2)
            payload = exact.read(options["payload"], "--payload")
        self._each(
            options,
            lambda *task: decisions.replay(*task, payload=payload, by="manage.py"),
            "replayed",
            {} if payload is ... else {"after": payload},
        )

    def _discard(self, options: dict[str, Any]) -> None:
        self._each(options, lambda id_, topic: purges.put_away(topic, id_), "discarded")

    def _undo(self, options: dict[str, Any]) -> None:
        for task_id in options["ids"]:
            decisions.undo(task_id, options["topic"])
            topic = options["topic"] or ""
            try:
                topic = topic or _topic_of(task_id)
            finally:  # it is back, whether or not that can be looked up
                trail.record("undo", topic=topic, target=task_id)
            self.stdout.write(f"{task_id} is dead again")

    def _each(
        self,
        options: dict[str, Any],
        act: Any,
        done: str,
        facts: dict[str, Any] | None = None,
    ) -> None:
        """Act on every letter named; one that fails does not stop the others."""
        pairs = list(_chosen(options))
        if not pairs:
            self.stdout.write(f"No dead letters in topic {options['topic']}.")
            return
        verb, count, failed = options["verb"], 0, 0
        try:
            for task_id, topic in pairs:
                try:
                    act(task_id, topic)
                except (errors.NotFound, errors.Conflict, errors.InvalidName) as exc:
                    failed += 1
                    self.stderr.write(f"{task_id} not {done}: {exc}")
                    continue
                count += 1
                if not options["all"]:
                    trail.record(verb, topic=topic, target=task_id, **(facts or {}))
                self.stdout.write(f"{task_id} {done}")
        finally:
            # One entry for however many, also where Redis went away on the way: each
            # task's own history says it as well. None for nothing done.
            if options["all"] and count:
                trail.record(verb, topic=options["topic"], all=True, count=count)
        if failed:
            raise CommandError(f"{failed} of {len(pairs)} not {done}", returncode=1)


_BULK = ("replay", "discard")
_HELP = {
    "list": "the newest first",
    "groups": "by what they died of",
    "show": "all there is to know of one",
    "replay": "put back to work, with attempts from zero",
    "discard": "take out; `undo` brings back within an hour",
    "undo": "bring a discarded one back",
}


def _name(letter: DeadLetter) -> str:
    """The task's id; the place of a letter that somebody wrote without one."""
    try:
        return keys.check_task_id(letter.id)
    except errors.InvalidName:
        return letter.entry_id


def _names(topic: str | None) -> list[str]:
    return topics.list_topics() if topic is None else [topics.check_known(topic)]


def _topic_of(task_id: str) -> str:
    """Where a letter has just been brought back to; empty if it left again since."""
    try:
        return dead.topic_of(task_id, None)
    except errors.DeadLetterNotFound:
        return ""


def _chosen(options: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The letters the command names, as (task id, topic)."""
    if options["all"]:
        if not options["topic"] or options["ids"]:
            raise CommandError("--all needs --topic and no ids", returncode=2)
        topic = topics.check_known(options["topic"])
        # The set is frozen first: a replayed task that dies again is not taken twice.
        before, letters = "+", list[str]()
        while page := dead.list_dead(topic, 1000, before):
            letters += map(_name, page)
            before = page[-1].entry_id
        yield from ((task_id, topic) for task_id in reversed(letters))
        return
    if not options["ids"]:
        raise CommandError("name one or more task ids, or --all", returncode=2)
    for task_id in options["ids"]:
        by_place = options["verb"] == "discard" and records.is_sid(task_id)
        if by_place and not options["topic"]:
            raise CommandError(f"the place {task_id} needs --topic", returncode=2)
        if not by_place:
            keys.check_task_id(task_id)
        if options["topic"]:
            yield task_id, keys.check_topic(options["topic"])
            continue
        try:
            yield task_id, dead.one_topic(task_id, None)
        except errors.DeadLetterNotFound as exc:
            raise CommandError(str(exc), returncode=1) from exc
