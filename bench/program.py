"""How a program of the benchmark ends, whatever ends it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from redis import RedisError

from bus import BusError

from .stage import BenchError


def ended(name: str, work: Callable[[], int]) -> int:
    """The exit code of `work`; 130 after Ctrl-C or a kill, 69 where nothing could be
    measured, which is told."""
    # A kill ends the children as cleanly as Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        print("stopped; all processes of the benchmark have ended", file=sys.stderr)
        return 130
    except (BusError, RedisError, BenchError) as exc:
        print(f"{name}: {exc}", file=sys.stderr)
        return 69
