"""What this process uses of its machine."""

from __future__ import annotations

import os
from typing import Final

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")


def cpu_s() -> float:
    """CPU time since its start, s."""
    spent = os.times()
    return spent.user + spent.system


def rss_bytes() -> int | None:
    """Resident memory, where the system tells."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE_BYTES
    except (OSError, ValueError, IndexError):
        return None
