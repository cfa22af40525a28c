"""What `make coverage` has run is measured by two floors."""

from __future__ import annotations

import pytest

from tests.support import floors


@pytest.mark.parametrize(
    ("lines", "branches", "well"),
    [(950, 92, True), (949, 100, False), (1_000, 91, False)],
)
def test_lines_and_branches_have_floors_of_their_own(
    lines: int, branches: int, well: bool
) -> None:
    said, found = floors.verdict(
        {
            "covered_lines": lines,
            "num_statements": 1_000,
            "covered_branches": branches,
            "num_branches": 100,
        }
    )

    assert found is well
    assert said.startswith(f"lines {lines / 10:.1f} % (floor 95), branches {branches}")
