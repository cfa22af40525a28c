"""The stranger's life at full length."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.integration.test_from_the_description import lives_through

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.skipif(
        "MESH_STRANGER_TASKS" not in os.environ,
        reason="the integration tests have a short one; MESH_STRANGER_TASKS=9000",
    ),
]


def test_a_stranger_lives_long_on_the_description(tmp_path: Path) -> None:
    tasks = int(os.environ["MESH_STRANGER_TASKS"])
    lives_through(tmp_path, tasks, failures=min(tasks // 20, 100))
