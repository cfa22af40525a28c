"""What the machine of the tests has: a laptop may lack it, what lands may not."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest

# Whatever the variable says: who runs tests for others sets it to true, 1 or a name.
IN_CI = bool(os.environ.get("CI"))


def lacks(what: str) -> NoReturn:
    """Leave a test out on a laptop, and say so; fail it in CI."""
    if IN_CI:
        pytest.fail(f"CI is to have it: {what}")
    pytest.skip(what)


def needs(*programs: str) -> None:
    """Go on if all of these can be run here."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        lacks(f"no {' and '.join(missing)} here")
