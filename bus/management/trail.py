"""The audit trail of commands: whoever has a shell here is named on it, too.

A folder without a migrated database loses nothing by it: the log (standard error) has
the entry then, and the command does what it was asked for.
"""

from __future__ import annotations

import getpass
from typing import Any

from bus import audit, roles, whence


def who() -> roles.Principal:
    """Whom a command acts for: the user of the operating system, as an admin."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = "somebody"
    return roles.Principal("command", f"manage.py by {name}", roles.ADMIN)


def record(verb: str, *, topic: str = "", target: str = "", **facts: Any) -> None:
    """Write down what a command did, as `audit.record` does."""
    with whence.through(whence.COMMAND):
        audit.record(who(), verb, topic=topic, target=target, **facts)
