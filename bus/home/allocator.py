"""The allocator that the server's memory comes from.

A server that is built on the C library's alone runs with jemalloc where the machine
has it. Scripts make and drop many small strings beside entries that stay; beside a
million of them the C library hands out memory from all over the heap, and every
script takes a third longer. jemalloc keeps sizes apart (docs/speed.md).
"""

from __future__ import annotations

import ctypes.util
import functools
import os
import sys
from collections.abc import Mapping
from typing import Final

# As a server that is built on it does: memory goes back while there is nothing to do.
_CONF: Final = "background_thread:true"


def environment(malloc: str) -> Mapping[str, str]:
    """What a server that is built on `malloc` is started with."""
    ours = dict(os.environ)
    library = _jemalloc() if malloc == "libc" else None
    if library is not None:
        # Who preloads something, tests of lost disks for one, does so on purpose.
        ours["LD_PRELOAD"] = " ".join(filter(None, (ours.get("LD_PRELOAD"), library)))
        ours.setdefault("MALLOC_CONF", _CONF)
    return ours


@functools.cache
def _jemalloc() -> str | None:
    """The name that the loader knows it by; None without."""
    return ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None
