"""`manage.py enqueue`: send one task, or a file of them."""

from __future__ import annotations

import codecs
import itertools
import os
import stat
import sys
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from typing import IO, Any, Final

from django.core.management.base import CommandError
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from bus import errors, exact, keys, many, messages, results, tasks, whynot, words
from bus.management import output
from bus.management.command import MeshCommand

_IDS_MOST: Final = 3  # told of a batch


class Command(MeshCommand):
    help = (
        "Sends one task (TOPIC JSON), or one per line of a JSONL file (--file, - for "
        "stdin). Prints the id; with --file a summary."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("topic", help="made by its first task")
        parser.add_argument("payload", nargs="?", help="JSON, such as '{\"n\": 1}'")
        parser.add_argument(
            "--file", metavar="JSONL", help="one task a line; - reads stdin"
        )
        parser.add_argument(
            "--id", help="UUID of the task: the same again is no new one"
        )
        parser.add_argument("--delay", type=float, metavar="S", help="start it later")
        parser.add_argument(
            "--max-attempts", type=int, metavar="N", help="executions (default 5)"
        )
        parser.add_argument("--timeout", type=float, metavar="S", help="per attempt")
        parser.add_argument(
            "--durability",
            metavar="LEVEL",
            help="wait until it is that safe: memory, aof, fsync, replicated:1",
        )
        parser.add_argument("--wait", type=float, metavar="S", help="for its result")

    def handle(self, *args: Any, **options: Any) -> None:
        if (options["payload"] is None) == (options["file"] is None):
            raise CommandError("give either a JSON payload or --file", returncode=2)
        by_file = options["file"] is not None
        if by_file and (options["id"] or options["wait"] is not None):
            raise CommandError("--id and --wait are for one task", returncode=2)
        with output.bus_errors():
            keys.check_topic(options["topic"])
            self._check_wait(options["wait"])
            if by_file:
                self._send_file(options)
            else:
                self._send_one(options)

    def _check_wait(self, wait_s: float | None) -> None:
        """Before anything is sent, or its sender thinks that it was not."""
        try:
            results.check_wait(wait_s or 0)
        except errors.InvalidOption:
            raise CommandError(
                f"--wait {wait_s:g} is not 0 s or more", returncode=2
            ) from None

    def _send_one(self, options: dict[str, Any]) -> None:
        try:
            payload = exact.read(options["payload"], "the payload")
        except errors.DecodeError as exc:
            said = """a text needs quotes of its own, as in '"text"'"""
            raise CommandError(f"{exc}; {said}", returncode=2) from exc
        # Ours to know before it is sent: whatever ends this, it can be sent again.
        task_id = tasks.new_id() if options["id"] is None else options["id"]
        again = f"repeat it with --id {task_id}: if it is in the mesh, it stays one"
        try:
            tasks.enqueue_task(
                options["topic"], payload, task_id=task_id, **_knobs(options)
            )
        except KeyboardInterrupt:
            raise CommandError(f"stopped; {again}", returncode=130) from None
        except errors.OutcomeUnknown as exc:
            exc.args = (f"{exc}; {again}",)
            raise
        if options["wait"] is None:
            self.stdout.write(task_id)
            return
        try:
            task = results.wait_result(task_id, options["topic"], options["wait"])
        except KeyboardInterrupt:
            raise CommandError(
                f"not waited for; its id is {task_id}", returncode=130
            ) from None
        except errors.BusError as exc:
            exc.args = (f"{exc}; the task was accepted, its id is {task_id}",)
            raise
        row = {"id": task_id, "state": task.state, "result": task.result}
        if task.error:
            row["error"] = task.error
        self.stdout.write(output.json_line(row))
        if task.state != "done":
            raise CommandError(f"no result: {whynot.explain(task)}", returncode=1)

    def _send_file(self, options: dict[str, Any]) -> None:
        source, total = _opened(options["file"])
        sent = 0
        numbers: tuple[int, ...] = ()  # of the lines that were sent last
        progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=output.console(sys.stderr),
            # Who types needs no bar in between.
            disable=not sys.stderr.isatty() or _typed(options["file"]),
        )
        with source, progress:
            bar = progress.add_task(f"enqueue {options['topic']}", total=total)
            lines = _payloads(source)
            try:
                while chunk := list(itertools.islice(lines, tasks.BATCH)):
                    numbers, values = zip(*chunk, strict=True)
                    ids = many.enqueue_many(options["topic"], values, **_knobs(options))
                    sent += len(ids)
                    progress.update(bar, completed=sent)
            except KeyboardInterrupt:
                raise CommandError(
                    f"stopped; accepted: {sent:,}", returncode=130
                ) from None
            except errors.BusError as exc:
                sent += len(getattr(exc, "accepted", ()))
                exc.args = (f"{exc} (accepted: {sent:,}{_doubt(exc, numbers)})",)
                raise
        what = words.count(sent, "task")
        self.stdout.write(f"{what} accepted in topic {options['topic']}")


def _knobs(options: dict[str, Any]) -> dict[str, Any]:
    return {
        "delay_s": options["delay"],
        "max_attempts": options["max_attempts"],
        "timeout_s": options["timeout"],
        "durability": options["durability"],
    }


def _typed(name: str) -> bool:
    return name == "-" and sys.stdin is not None and sys.stdin.isatty()


def _opened(name: str) -> tuple[IO[bytes], int | None]:
    """The source and how many lines it has, where that can be known."""
    if name == "-":
        if sys.stdin is None:
            raise CommandError("--file - reads stdin, which is closed", returncode=2)
        if _typed(name):
            sys.stderr.write("One JSON value a line, please; Ctrl-D ends.\n")
        return sys.stdin.buffer, None
    try:
        file = open(name, "rb")  # noqa: SIM115 - whoever sends it closes it
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file, None  # a pipe gives its lines once
        total = sum(1 for line in file if line.strip())
        file.seek(0)
        return file, total
    except OSError as exc:
        shown = name or "a file without a name"
        raise CommandError(
            f"cannot read {shown}: {exc.strerror}", returncode=2
        ) from exc


def _doubt(exc: errors.BusError, numbers: Sequence[int]) -> str:
    """Of which lines nobody knows whether they are in the mesh, and how to find out."""
    ids = exc.task_ids if isinstance(exc, errors.OutcomeUnknown) else []
    if not ids:
        return ""
    lines = f"lines {numbers[0]:,} to {numbers[-1]:,}"
    told = ", ".join(ids[:_IDS_MOST])
    more = len(ids) - _IDS_MOST
    return (
        f"; {lines} may be too, all or none: look for task {told}"
        f"{f' or {more:,} more' if more > 0 else ''}"
    )


def _payloads(source: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """The line's number and its value, of all that are not empty."""
    for number, line in enumerate(source, 1):
        if not line.strip():
            continue
        if number == 1 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise errors.InvalidPayload(
                "the file is not UTF-8 but UTF-16; write it anew as UTF-8"
            )
        if number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        value = exact.read(line, f"line {number}")
        try:
            messages.encode(value)  # here the line is still known
        except errors.InvalidPayload as exc:
            exc.args = (f"line {number}: {exc}",)
            raise
        yield number, value
