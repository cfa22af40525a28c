"""What every command of ours is: brief help, and no traceback for what is no bug."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from typing import Any, Final

from django.core.management.base import BaseCommand, CommandError

EXIT_IO: Final = 74
_OUTPUT_ERRORS: Final = frozenset((errno.ENOSPC, errno.EIO, errno.EBADF))
EXIT_STOPPED: Final = 130  # what a shell gives for Ctrl-C
EXIT_UNREAD: Final = 141  # and for a pipe that nobody reads any more
# Django's own work as ever; in front of our options they would only hide them.
_HIDDEN: Final = {
    "--version",
    "--verbosity",
    "--settings",
    "--pythonpath",
    "--traceback",
    "--no-color",
    "--force-color",
    "--skip-checks",
}


class MeshCommand(BaseCommand):
    """The base of our commands; those that start something keep Django's checks."""

    # They take a third of the time of a command that only asks the server.
    requires_system_checks: Any = []
    suppressed_base_arguments = _HIDDEN

    def __init__(self, *args: Any, **options: Any) -> None:
        # A shell's `>&-` leaves no stream at all.
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:
                nowhere = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")
                setattr(sys, name, nowhere)
        super().__init__(*args, **options)

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run it; Ctrl-C and a reader that left end it quietly."""
        try:
            said = super().execute(*args, **options)
            self.stdout.flush()
        except KeyboardInterrupt:
            raise SystemExit(EXIT_STOPPED) from None
        except BrokenPipeError:
            _mute()  # `| head` has seen enough
            raise SystemExit(EXIT_UNREAD) from None
        except OSError as exc:
            # The bus has words of its own for sockets: what is left is our output.
            if exc.errno not in _OUTPUT_ERRORS:
                raise
            _mute()
            raise CommandError(
                f"the output cannot be written: {exc.strerror}", returncode=EXIT_IO
            ) from exc
        return said


def _mute() -> None:
    """Have what is still in the buffer go nowhere, or Python complains at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
