"""What all commands share: the console and how errors of the bus end a command."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, Final

from django.core.management.base import CommandError
from rich.console import Console, JustifyMethod
from rich.table import Table
from rich.text import Text

from bus import errors, messages

EXIT_USAGE: Final = 2
EXIT_UNAVAILABLE: Final = 69
EXIT_CONFIG: Final = 78
LOG_MOST: Final = 1_000  # characters of one log line
NARROW: Final = 80  # columns
WIDE: Final = 160  # for tables of ids and sentences; a pipe is as wide


@contextlib.contextmanager
def bus_errors() -> Iterator[None]:
    """Errors of the bus as one sentence: exit 69 where Redis is away, 2 for input."""
    try:
        yield
    except errors.BusUnavailable as exc:
        raise CommandError(str(exc), returncode=EXIT_UNAVAILABLE) from exc
    except (errors.InvalidName, errors.InvalidPayload, errors.InvalidOption) as exc:
        raise CommandError(str(exc), returncode=EXIT_USAGE) from exc
    except (errors.DecodeError, errors.HandlerError) as exc:
        raise CommandError(str(exc), returncode=EXIT_USAGE) from exc
    except (errors.WrongLayout, errors.UnfitServer) as exc:
        raise CommandError(str(exc), returncode=EXIT_CONFIG) from exc
    except errors.BusError as exc:
        raise CommandError(str(exc), returncode=1) from exc


def console(stream: Any = None) -> Console:
    """A console that is plain where nobody looks (no terminal, NO_COLOR).

    A terminal that is narrower than `NARROW` wraps what we print; cut ids and hints
    would be of no use to anybody.
    """
    out = stream or sys.stdout
    made = Console(file=out, highlight=False, soft_wrap=False)
    if not getattr(out, "isatty", lambda: False)():
        made.width = WIDE
    return Console(
        file=out, highlight=False, soft_wrap=False, width=max(made.width, NARROW)
    )


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """A table without boxes; the columns named in `right` hold numbers."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: JustifyMethod = "right" if column in right else "left"
        made.add_column(column, justify=justify, overflow="fold")
    return made


def json_line(value: Any) -> str:
    """One line of JSON for pipes."""
    return messages.written(value).decode()


def plain(text: str) -> str:
    """Text of others on a terminal: control and direction characters made visible."""
    return "".join(
        char if char.isprintable() or char == "\n" else repr(char)[1:-1]
        for char in text
    )


def cell(text: str) -> Text:
    """The same for a table: neither `[red]` nor `:bug:` means anything in it."""
    return Text(plain(text))


def log_lines() -> None:
    """Send what this process logs to stderr, in the form all children of `up` share."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _OneLine(logging.Formatter):
    """What handlers and requests say may hold anything; a line stays one, harmless."""

    def format(self, record: logging.LogRecord) -> str:
        head = plain(record.getMessage().replace("\n", "\\n"))[:LOG_MOST]
        # A request refused for its Host is told in a line; nothing of ours broke.
        if record.exc_info and not record.name.startswith("django.security"):
            head += "\n" + self.formatException(record.exc_info)
        return head
