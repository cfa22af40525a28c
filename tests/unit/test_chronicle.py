"""The report of a chaos run adds up what its suites say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import chronicle


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(chronicle.FOLDER_VAR, str(tmp_path))
    return tmp_path


def cells(text: str, suite: str) -> dict[str, str]:
    """One line of the table, by heading."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if "|" in line]
    [row] = [row for row in rows if row[0] == suite]
    return dict(zip(rows[0], row, strict=True))


def test_counts_add_up_and_of_times_the_longest_stays(folder: Path) -> None:
    chronicle.record("S5 storm", tasks=4_000, slowest_s=2.5, faults={"kill": 3})
    chronicle.record("S5 storm", tasks=16_000, slowest_s=1.25, faults={"kill": 1})

    line = cells(chronicle.table(chronicle.read(folder), 7), "S5 storm")

    assert line["tasks"] == "20,000"
    assert line["slowest hand-over"] == "2.5 s"
    assert line["faults"] == "4"


def test_what_a_suite_does_not_measure_is_not_shown_as_none(folder: Path) -> None:
    chronicle.record("S3 cuts", lost=0)

    line = cells(chronicle.table(chronicle.read(folder), 7), "S3 cuts")

    assert (line["lost"], line["double results"]) == ("0", "–")


def test_suites_stand_in_the_order_of_their_numbers(folder: Path) -> None:
    for suite in ("S10 sabotage", "bounds", "S2 crashes"):
        chronicle.record(suite, lost=0)

    text = chronicle.table(chronicle.read(folder), 7)

    assert text.index("S2") < text.index("S10") < text.index("bounds")
    assert text.startswith("Seed 7.")


def test_a_figure_of_another_name_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="losses"):
        chronicle.record("S5 storm", losses=1)

    assert list(folder.iterdir()) == []


def test_outside_a_chaos_run_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(chronicle.FOLDER_VAR, raising=False)

    chronicle.record("S5 storm", lost=0)


def test_a_seed_of_the_environment_is_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chronicle.SEED_VAR, "4711")

    assert chronicle.seed() == 4711


def test_a_seed_that_was_picked_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(chronicle.SEED_VAR, "")

    assert chronicle.seed() == chronicle.seed() > 0
