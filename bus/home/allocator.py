"""The allocator that the server's memory comes from.

A server that is built on the C library's alone runs with jemalloc where the machine
has it. Scripts make and drop many small strings beside entries that stay; beside a
million of them the C library hands out memory from all over the heap, and every
script takes a third longer. jemalloc keeps sizes apart (docs/speed.md).
"""

from __future__ import annotations

import contextlib
import ctypes.util
import functools
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# As a server that is built on it does: memory goes back while there is nothing to do.
_CONF: Final = "background_thread:true"
_ANSWERS_IN_S: Final = 5.0  # it takes 5 ms


def environment(program: Path, malloc: str) -> Mapping[str, str]:
    """What a server program that is built on `malloc` is started with."""
    ours = dict(os.environ)
    library = _jemalloc() if malloc == "libc" else None
    if library is None:
        return ours
    # Who preloads something, tests of lost disks for one, does so on purpose.
    preload = " ".join(filter(None, (ours.get("LD_PRELOAD"), library)))
    with_it = {"MALLOC_CONF": _CONF, **ours, "LD_PRELOAD": preload}
    return with_it if _runs(program, with_it) else ours


@functools.cache
def _jemalloc() -> str | None:
    """The name that the loader knows it by; None without."""
    return ctypes.util.find_library("jemalloc") if sys.platform == "linux" else None


def _runs(program: Path, env: Mapping[str, str]) -> bool:
    """Whether it answers: a library for pages of another size ends every program."""
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        said = subprocess.run(
            [program, "--version"],
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWERS_IN_S,
            check=False,
        )
        return said.returncode == 0
    return False
