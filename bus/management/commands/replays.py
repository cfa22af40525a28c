"""`manage.py replays`: bulk replay of dead letters, followed and changed."""

from __future__ import annotations

import argparse
import time
from argparse import ArgumentParser
from functools import partial
from typing import Any, Final

from django.core.management.base import CommandError

from bus import audit, letters, replays, words
from bus.bulk.driver import Foreman
from bus.management import output, trail
from bus.management.command import MeshCommand
from bus.replays import Job, Selection

_BY: Final = "manage.py"
_LOOK_S: Final = 0.2
_OVER: Final = ("done", "cancelled", "paused", "stopped")


class Command(MeshCommand):
    help = "Replay many dead letters as one job; see, pause, resume, cancel such jobs."

    def add_arguments(self, parser: ArgumentParser) -> None:
        sub = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        new = sub.add_parser("new", help="freeze letters and replay each once")
        new.add_argument("ids", nargs="*", metavar="ID", help="of tasks")
        new.add_argument("--topic", action="append", default=[], help="may be repeated")
        new.add_argument("--group", help="a fingerprint, see `dead groups`")
        new.add_argument("--error", help="what the error says, in any case")
        new.add_argument(
            "--dry-run", action="store_true", help="only tell what it would be of"
        )
        new.add_argument(
            "--wait", action="store_true", help="drive and follow it to its end"
        )
        go = sub.add_parser("resume", help="let a paused or stopped one go on")
        for each in (new, go):
            each.add_argument("--rate", type=float, help="letters per second")
            each.add_argument(
                "--canary",
                action=argparse.BooleanOptionalAction,
                help="one, then ten, then the rest",
            )
            each.add_argument(
                "--max-failure-rate",
                type=float,
                metavar="SHARE",
                help="stop where more of a step are dead again (0 to 1)",
            )
        listed = sub.add_parser("list", help="the newest first")
        shown = sub.add_parser("show", help="one, with the letters not done again")
        for each in (listed, shown):
            each.add_argument("--json", action="store_true", help="one object a line")
        pause = sub.add_parser("pause", help="replay no more until it is resumed")
        cancel = sub.add_parser("cancel", help="what was not replayed stays dead")
        for each in (shown, pause, go, cancel):
            each.add_argument("job", metavar="JOB", help="as `replays list` shows it")

    def handle(self, *args: Any, **options: Any) -> None:
        with output.bus_errors():
            getattr(self, f"_{options['verb']}")(options)

    def _new(self, options: dict[str, Any]) -> None:
        chosen = replays.select(
            topics=options["topic"],
            ids=options["ids"],
            group=options["group"],
            error=options["error"],
        )
        pace = _pace(options)
        if options["dry_run"]:
            self._tell_preview(replays.preview(chosen))
            return
        with audit.of_steps(partial(_note_made, chosen)):
            job = replays.create(chosen, pace, _BY)
        _note("bulk replay", job, selection=chosen.as_dict(), **pace.as_dict())
        self.stdout.write(f"{job.id} replays {words.count(job.total, 'letter')}")
        if options["wait"]:
            self._follow(job)

    def _tell_preview(self, told: dict[str, Any]) -> None:
        self.stdout.write(
            f"{words.count(told['total'], 'letter')}; nothing was written"
        )
        for group in told["groups"]:
            first = output.plain(letters.said(group["error"])).partition("\n")[0][:90]
            self.stdout.write(f"{group['count']:>7,}  {group['topic']}  {first}")

    def _follow(self, job: Job) -> None:
        """Drive it from here as well: there may be neither agent nor web server."""
        foreman = Foreman()
        foreman.start()
        said = ""
        try:
            while True:
                job = replays.get(job.id)
                line = _line(job)
                if line != said:
                    self.stdout.write(line)
                    self.stdout.flush()  # whoever waits through a pipe reads along
                    said = line
                if job.state in _OVER:
                    break
                time.sleep(_LOOK_S)
        finally:
            foreman.close()
            foreman.join(5)
        if job.state != "done" or job.counts.dead:
            raise CommandError(f"{job.id} is {job.state}: {_line(job)}", returncode=1)

    def _list(self, options: dict[str, Any]) -> None:
        jobs = replays.list_jobs()
        if options["json"]:
            for job in jobs:
                self.stdout.write(output.json_line(job.as_dict()))
            return
        if not jobs:
            self.stdout.write("No bulk replays.")
            return
        for job in jobs:
            at = job.created_at[:19].replace("T", " ")
            self.stdout.write(f"{job.id}  {at}  {_line(job)}")

    def _show(self, options: dict[str, Any]) -> None:
        job = replays.get(options["job"])
        told = replays.letters(job)
        if options["json"]:
            rows = [[each.topic, each.id, each.what, each.why] for each in told]
            self.stdout.write(output.json_line({**job.as_dict(), "letters": rows}))
            return
        self.stdout.write(f"{job.id}  {_line(job)}")
        for each in told:
            why = f": {output.plain(each.why)}" if each.why else ""
            shown = f"{each.topic}  {output.plain(each.id)}  {each.what}{why}"
            self.stdout.write(shown)

    def _pause(self, options: dict[str, Any]) -> None:
        found, verb = replays.get(options["job"]), "pause bulk replay"
        with audit.of_steps(partial(_note, verb, found)):
            job = replays.pause(found.id, _BY)
        _note(verb, job)
        self.stdout.write(_line(job))

    def _resume(self, options: dict[str, Any]) -> None:
        given = {name: options[name] for name in _PACE}
        named = {name: value for name, value in given.items() if value is not None}
        found, verb = replays.get(options["job"]), "resume bulk replay"
        pace = found.pace.changed(**named) if named else None
        told = (pace or found.pace).as_dict()
        with audit.of_steps(partial(_note, verb, found, **told)):
            job = replays.resume(found.id, pace)
        _note(verb, job, **told)
        self.stdout.write(_line(job))

    def _cancel(self, options: dict[str, Any]) -> None:
        found, verb = replays.get(options["job"]), "cancel bulk replay"
        with audit.of_steps(partial(_note, verb, found)):
            job = replays.cancel(found.id, _BY)
        _note(verb, job)
        self.stdout.write(_line(job))


def _note(verb: str, job: Job, **detail: Any) -> None:
    detail |= {"letters": job.total, "topics": [*job.topics]}
    trail.record(verb, topic=job.topic, target=job.id, **detail)


def _note_made(chosen: Selection, *, job: str = "", **detail: Any) -> None:
    """Of one that was made, or may have been, and that could not be read back."""
    trail.record("bulk replay", target=job, selection=chosen.as_dict(), **detail)


_PACE: Final = ("rate", "canary", "max_failure_rate")


def _pace(options: dict[str, Any]) -> replays.Pace:
    return replays.paced(**{name: options[name] for name in _PACE})


def _line(job: Job) -> str:
    """How it stands, in one line."""
    told = [f"{job.state}{f' ({job.step})' if job.step else ''}"]
    told.append(f"{job.handled:,} of {job.total:,}")
    for name in ("done", "dead", "cancelled", "unknown", "skipped", "failed", "left"):
        count = getattr(job.counts, name)
        if count:
            told.append(f"{count:,} {'dead again' if name == 'dead' else name}")
    line = ", ".join(told)
    return f"{line}: {job.why}" if job.why else line
