"""Options that commands share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

from django.core.management.base import CommandError, CommandParser

from bus import conf
from bus.home import production

from . import output


def number(low: int, high: int) -> Callable[[str], int]:
    """An argparse type: a whole number from `low` to `high`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and low <= int(text) <= high):
            raise argparse.ArgumentTypeError(f"{text!r} is no number {low} to {high}")
        return int(text)

    return parse


class _Topic(argparse.Action):
    """Keeps the topic, in whichever of two ways it is named."""

    def __call__(self, parser: Any, namespace: Any, values: Any, *_: Any) -> None:
        if values is None:  # the argument is left out, which is no wish
            return
        if getattr(namespace, self.dest) not in (None, values):
            parser.error("name one topic, once")
        setattr(namespace, self.dest, values)


def add_topic(parser: argparse.ArgumentParser) -> None:
    """A topic by itself, or behind `--topic` as where something else stands there."""
    parser.add_argument("topic", nargs="?", action=_Topic, help="only of this one")
    parser.add_argument("--topic", action=_Topic, help="the same", metavar="TOPIC")


def add_listener(parser: CommandParser) -> None:
    """--host, --port, --prod: where the web server listens, how strict it is."""
    parser.add_argument(
        "--host",
        help=f"address to listen on (default {conf.conf.HOST}; 0.0.0.0 is all)",
    )
    parser.add_argument(
        "--port",
        type=number(1, 65_535),
        default=conf.conf.PORT or None,  # parsed like an option
        metavar="N",
        help="port to listen on (default PORT, else 8000 or the next free one)",
    )
    parser.add_argument(
        "--prod",
        action="store_true",
        help="refuse defaults that are for one's own machine only",
    )


def check_production(asked: bool) -> None:
    """With --prod, stop with one screen that names all that is left to a default."""
    objections = production.refusals() if asked else []
    if objections:
        lines = "\n".join(f"  * {each}" for each in objections)
        raise CommandError(
            f"--prod needs settings of yours, from the environment:\n{lines}\n"
            "docs/running.md has the whole table.",
            returncode=output.EXIT_USAGE,
        )
