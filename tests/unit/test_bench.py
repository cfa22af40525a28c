"""The benchmark's arithmetic is right whatever the machine does meanwhile."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from bench import __main__ as command
from bench import baseline, figures, machine, payloads, raw, report, stage
from bench.machine import Load, Machine, Ticks
from bench.report import Floor, Pair, Row
from bench.rivals import harness

HERE = Machine("Linux x86_64", "a CPU", 2, "3.11.7", "8.1.0", "3.5.0", "Valkey 8.1.8")


def row(*pairs: tuple[float, float], floor: Floor | None = None) -> Row:
    made = Row("drain", "drain no-ops", "/s", floor)
    made.pairs = [Pair(ours, bare) for ours, bare in pairs]
    made.loads = [Load(0.25, 0.5)] * len(pairs)
    return made


@pytest.mark.parametrize("number", [0, 1, 19_999, 9_999_999_999])
def test_every_payload_has_the_same_size(number: int) -> None:
    text = payloads.text(number)

    assert len(text.encode()) == payloads.SIZE_BYTES == 190
    assert json.loads(text) == payloads.payload(number)


def test_other_queues_get_the_same_payload() -> None:
    assert harness.payload(12_345) == payloads.payload(12_345)


def test_payloads_differ() -> None:
    assert len({payloads.text(number) for number in range(1_000)}) == 1_000


def test_bare_entries_are_as_large_as_tasks() -> None:
    [(entry_id, text)] = raw.items([7])

    assert (len(entry_id), len(text)) == (36, payloads.SIZE_BYTES)


@pytest.mark.parametrize(
    ("share", "value"), [(0.0, 1), (0.01, 1), (0.5, 50), (0.99, 99), (1.0, 100)]
)
def test_a_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    values = [float(number) for number in range(100, 0, -1)]

    assert report.percentile(values, share) == value


def test_the_percentiles_of_one_value_are_that_value() -> None:
    assert {report.percentile([3.0], share) for share in (0, 0.5, 0.99, 1)} == {3.0}


def test_a_ratio_to_nothing_is_infinite() -> None:
    assert Pair(1, 0).ratio == math.inf


@pytest.mark.parametrize(
    ("floor", "ours", "bare", "verdict"),
    [
        (Floor(0.5, at_least=True), 50, 100, report.HELD),
        (Floor(0.5, at_least=True), 49.9, 100, report.MISSED),
        (Floor(2, at_least=False), 2, 1, report.HELD),
        (Floor(2, at_least=False), 2.1, 1, report.MISSED),
        (Floor(400, at_least=False, of_ratio=False), 400, 100, report.HELD),
        (Floor(400, at_least=False, of_ratio=False), 401, 9_999, report.MISSED),
        (None, 1, 100, report.UNJUDGED),
    ],
)
def test_a_verdict_is_about_the_floor(
    floor: Floor | None, ours: float, bare: float, verdict: str
) -> None:
    assert row((ours, bare), floor=floor).verdict == verdict


def test_a_ratio_is_the_median_of_the_runs_own() -> None:
    # Each run is half as fast as raw; a slow machine in one of them changes nothing.
    measured = row((50, 100), (5, 10), (40, 80))

    assert (measured.ours, measured.raw, measured.ratio) == (40, 80, 0.5)


@pytest.mark.parametrize(
    ("after", "load"),
    [
        (Ticks(total=200, idle=20, stolen=10, own=50), Load(0.1, 0.2)),
        (Ticks(total=200, idle=100, stolen=0, own=0), Load(0, 0)),
        # Counters are not read in one moment: ours may run ahead.
        (Ticks(total=200, idle=90, stolen=0, own=11), Load(0, 0)),
        (Ticks(total=100, idle=0, stolen=0, own=0), None),
        (None, None),
    ],
)
def test_a_load_tells_the_host_from_the_neighbours(
    after: Ticks | None, load: Load | None
) -> None:
    assert machine.load(Ticks(total=100, idle=0, stolen=0, own=0), after) == load


def test_the_table_fits_a_narrow_terminal() -> None:
    rows = [each for figure in figures.FIGURES for each in figure.rows()]
    for each in rows:
        each.pairs = [Pair(123_456, 234_567)] * 3
        each.loads = [Load(0.02, 0.11)] * 3
    out = io.StringIO()

    report.show(rows, HERE, 20_000, Console(file=out, width=80))

    lines = out.getvalue().splitlines()[1:]  # the machine may have a long name
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in out.getvalue()
    assert sum(line.rstrip().endswith(" 2 2 2  11 11 11") for line in lines) == len(
        rows
    )


def test_every_row_has_a_name_of_its_own() -> None:
    names = [each.name for figure in figures.FIGURES for each in figure.rows()]

    assert len(set(names)) == len(names)


def test_programs_get_every_run() -> None:
    facts = report.as_dict([row((50, 100), (60, 100))], HERE, 20_000)

    read = json.loads(json.dumps(facts))
    assert read["machine"]["server"] == "Valkey 8.1.8"
    assert read["figures"]["drain"]["runs"] == [
        {"ours": 50, "raw": 100, "ratio": 0.5, "stolen": 0.25, "others": 0.5},
        {"ours": 60, "raw": 100, "ratio": 0.6, "stolen": 0.25, "others": 0.5},
    ]


@pytest.mark.parametrize("argv", [["--tasks", "99"], ["--runs", "0"], ["--only", "x"]])
def test_options_that_measure_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)


@pytest.mark.parametrize(
    ("unit", "was", "is_now", "falls"),
    [
        ("/s", 1.0, 0.71, False),
        ("/s", 1.0, 0.69, True),
        ("/s", 0.5, 2.0, False),
        ("ms", 2.0, 2.8, False),
        ("ms", 2.0, 2.9, True),
        ("ms", 2.0, 0.1, False),
    ],
)
def test_a_figure_falls_when_it_is_much_worse_than_it_was(
    tmp_path: Path, unit: str, was: float, is_now: float, falls: bool
) -> None:
    """More of a rate is better, less of a time."""
    file = tmp_path / "baseline.json"
    then, now = Row("x", "thing", unit), Row("x", "thing", unit)
    then.pairs, then.loads = [Pair(was, 1.0)], [None]
    now.pairs, now.loads = [Pair(is_now, 1.0)], [None]
    baseline.keep(file, [then], HERE, 100)

    said = baseline.fallen([now], baseline.kept(file))

    assert bool(said) is falls
    assert all("at least 70% is asked" in sentence for sentence in said)


def test_a_figure_that_is_new_is_not_judged() -> None:
    assert baseline.fallen([row((1, 100))], {"other": 9.0}) == []


@pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"ratios": {"x": "fast"}}'])
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "baseline.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(stage.BenchError, match="is no baseline"):
        baseline.kept(file)


def test_the_kept_baseline_knows_every_figure() -> None:
    names = {row.name for figure in figures.FIGURES for row in figure.rows()}
    assert set(baseline.kept(baseline.PATH)) == names
