"""A wrong clock for a Python process, from its first instruction on.

With this folder on PYTHONPATH, MESH_TEST_CLOCK says how wrong: seconds off, or `jumps`
for one that is an hour ahead and an hour behind by turns, twice a second. The monotonic
clock stays right, as it does on machines whose time somebody sets.
"""

from __future__ import annotations

import os
import time

_true = time.time
_WISH = os.environ.get("MESH_TEST_CLOCK", "0")


def _off_s() -> float:
    if _WISH != "jumps":
        return float(_WISH)
    return 3_600.0 if int(time.monotonic() * 2) % 2 else -3_600.0


def _time() -> float:
    return _true() + _off_s()


def _time_ns() -> int:
    return int(_time() * 1e9)


time.time, time.time_ns = _time, _time_ns
