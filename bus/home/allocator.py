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
from pathlib import Path
from typing import Final

from . import child

# As a server that is built on it does: memory goes back while there is nothing to do.
_CONF: Final = "background_thread:true"
_ANSWERS_IN_S: Final = 5.0  # it takes 5 ms


def environment(program: Path, malloc: str) -> dict[str, str]:
    """What a server program that is built on `malloc` is started with."""
    ours = dict(os.environ)
    library = _jemalloc() if malloc == "libc" else None
    if library is None:
        return ours
    # Who preloads something, tests of lost disks for one, does so on purpose.
    preload = " ".join(filter(None, (ours.get("LD_PRELOAD"), library)))
    with_it = {"MALLOC_CONF": _CONF, **ours, "LD_PRELOAD": preload}
    # A library for memory pages of another size would end every program.
    asked = [str(program), "--version"]
    runs = child.said(asked, timeout_s=_ANSWERS_IN_S, env=with_it) is not None
    return with_it if runs else ours


@functools.cache
def _jemalloc() -> str | None:
    """The name that the loader knows it by; None without."""
    return ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None
