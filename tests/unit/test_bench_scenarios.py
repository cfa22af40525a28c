"""The scenarios' arithmetic is right, and all of them run on a small server."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from pytest_django import Settings
from rich.console import Console

from bench import handlers, report, stage
from bench.machine import Load, Machine
from bench.report import Pair
from bench.scenarios import __main__ as command
from bench.scenarios import drains, full, idle_agents, two_agents, work
from bench.scenarios.sizes import Sizes
from bus import handlers as registered

ROOMS = (two_agents, idle_agents, full, work)


class Stream:
    """Entries as XRANGE gives them."""

    def __init__(self, *times: int) -> None:
        self._rows: list[tuple[bytes, dict[str, str]]] = [
            (f"{ms}-{n}".encode(), {}) for n, ms in enumerate(times)
        ]

    def xrange(
        self, name: str, after: str, *, count: int
    ) -> list[tuple[bytes, dict[str, str]]]:
        assert after.startswith("(")
        first = int(after[1:].partition("-")[0])
        later = [row for row in self._rows if int(row[0].partition(b"-")[0]) > first]
        return later[:count]


def test_a_rate_is_of_the_first_results_alone() -> None:
    # Two in the first millisecond are the start; the last one is not asked for.
    stream = Stream(1_000, 1_000, 1_500, 2_000, 60_000)

    assert drains.first_per_s(stream, "results", 4) == 2.0
    # After those of an earlier drain.
    assert drains.first_per_s(stream, "results", 2, after="1000-1") == 2.0


def test_agents_are_measured_while_all_of_them_work() -> None:
    early = [("one", ms) for ms in range(0, 2_001, 10)]
    late = [("two", ms) for ms in range(1_000, 3_001, 10)]

    # From 1,000 to 2,000 ms: a hundred of each.
    assert drains.together_per_s([*late, *early], 2) == 200.0


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("one", 1), ("one", 9)],
        [("one", 1), ("one", 5), ("two", 5), ("two", 9)],
    ],
)
def test_agents_that_never_worked_together_have_no_rate(
    rows: list[tuple[str, int]],
) -> None:
    with pytest.raises(stage.BenchError, match="never at work together"):
        drains.together_per_s(rows, 2)


def test_large_payloads_are_as_large_as_they_say() -> None:
    sizes = {len(work.heavy_text(number)) for number in (0, 9_999_999)}

    assert sizes == {work.LARGE_BYTES}


def test_computing_is_counted_in_cpu_time_and_has_a_process() -> None:
    handler = registered.load("bench.handlers:computes_aside", "any")

    assert (handler.kind, handler.topic) == ("process", "any")
    assert registered.load("bench.handlers:computes", "any").kind == "thread"
    assert registered.load("bench.handlers:sleeps", "any").is_async
    assert handlers.WORK_S == 0.001


def test_every_row_has_a_name_of_its_own_and_fits_the_table() -> None:
    rows = [row for room in ROOMS for row in room.rows()]
    for row in rows:
        row.pairs, row.loads = [Pair(123_456, 234_567)] * 3, [Load(0.02, 0.11)] * 3
    out = io.StringIO()

    Console(file=out, width=80).print(report.table(rows))

    assert len({row.name for row in rows}) == len(rows)
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    whole = sum(line.rstrip().endswith(" 2 2 2  11 11 11") for line in lines)
    assert whole == len(rows)


def test_the_names_pick_scenarios() -> None:
    def names(only: list[str] | None) -> list[str]:
        return [figure.name for figure in command.chosen(only, Sizes())]

    assert names(None) == list(command.SCENARIOS)
    assert names(["work"]) == ["work"]


@pytest.mark.parametrize(
    "argv",
    [
        ["--tasks", "99"],
        ["--runs", "0"],
        ["--backlog", "0"],
        ["--idle-s", "0"],
        ["--agents", "none"],
        ["--only", "x"],
    ],
)
def test_options_that_measure_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)


def test_a_server_that_is_away_is_told_in_a_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
    tmp_path: Path,
) -> None:
    for name in ("REDIS_URL", "MESH_VAR_DIR", "DJANGO_SETTINGS_MODULE"):
        monkeypatch.setenv(name, "")  # so that what it sets is taken back
    settings.MESH_REDIS_BIN = str(tmp_path / "none")
    out = tmp_path / "figures.json"

    code = command.main(["--json", str(out)])

    said = capsys.readouterr().err
    assert code == 69
    assert "bench.scenarios:" in said and "Traceback" not in said
    assert not out.exists()


def test_what_a_scenario_measures_is_written_for_programs() -> None:
    [row, *_] = full.rows()
    row.pairs, row.loads = [Pair(95, 100)], [None]

    facts = report.as_dict([row], HERE, 20_000)

    assert json.loads(json.dumps(facts))["figures"]["backlog"]["verdict"] == "ok"


HERE = Machine("Linux x86_64", "a CPU", 2, "3.11", "8.1", "3.5", "Valkey 8.1")
