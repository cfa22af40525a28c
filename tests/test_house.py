"""The house rules that a machine can check."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections import Counter
from pathlib import Path

import pytest

import bus
from bus import errors, keys, verbs

ROOT = Path(__file__).resolve().parent.parent
CEILING_LINES = 300
TESTS_CEILING_LINES = 600
# Grows only in a commit that says why.
LONGER: dict[str, int] = {}

TOP_LEVEL = {
    "manage.py",
    "meshsite",
    "bus",
    "dashboard",
    "tests",
    "requirements.txt",
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "pyproject.toml",
    "docs",
    "examples",
    "bench",
    "deploy",
    # What the house makes and git ignores.
    "var",
    "wheelhouse",
    "htmlcov",
    "mutants",
}

# Imports fall: a room imports only from floors below its own, never from its own.
FLOORS: list[set[str]] = [
    {
        "home.child",
        "conf",
        "databases",
        "errors",
        "gateway.links",
        "home.joined",
        "lines",
        "mishaps",
        "runtime.crowds",
        "runtime.quiet",
        "runtime.rate",
        "runtime.usage",
        "home.syncing",
        "recent",
        "records",
        "replies",
        "roles",
        "whence",
        "words",
    },
    {
        "address",
        "announcement",
        "bulk.pace",
        "gateway.keys",
        "home.allocator",
        "home.binary",
        "home.claim",
        "home.cradle",
        "home.heads",
        "home.server_config",
        "exact",
        "keys",
        "messages",
        "models",
        "owners",
        "pace",
        "live.polls",
        "home.production",
        "gateway.prompts",
        "home.screen",
        "gateway.upstream",
        "wire",
    },
    {
        "accounts",
        "audit",
        "cache",
        "connection",
        "effective",
        "endings",
        "exports",
        "failures",
        "foreign",
        "gateway.mirrored",
        "handlers",
        "history",
        "refusals",
        "server",
        "wanted",
    },
    {
        "admin",
        "gateway.answers",
        "letters",
        "live.nudged",
        "lived",
        "patience",
        "verbs",
    },
    {
        "home.turns",
        "home.credentials",
        "layout",
        "levels",
        "runtime.processes",
        "scripts",
        "supervisor",
        "live.window",
    },
    {"bulk.record", "fitness", "footprint", "sought", "settled", "volley"},
    {"abreast", "home.taken"},
    {
        "looks",
        "agents",
        "alike",
        "auditor",
        "batches",
        "deaths",
        "deliveries",
        "trips",
        "fences",
        "gateway.relay",
        "gateway.reports",
        "lookup",
        "ratelimit",
        "live.frames",
        "rates",
        "live.arrivals",
        "live.reading",
        "topics",
    },
    {
        "accepting",
        "browse",
        "dead",
        "gateway.seats",
        "incoming",
        "judge",
        "live.tailer",
        "whynot",
    },
    {"committed", "decisions", "ghosts"},
    {
        "gateway.flights",
        "runtime.beats",
        "bulk.selection",
        "groups",
        "health",
        "janitor",
        "ledgers",
        "many",
        "metrics",
        "live.past",
        "purges",
        "results",
        "live.roster",
        "runtime.runs",
        "tasks",
        "timeline",
    },
    {
        "leases",
        "ollama",
        "bulk.parts",
        "again",
        "live.following",
        "runtime.outbox",
        "runtime.coroutines",
        "runtime.receipts",
        "testing",
        "together",
    },
    {"blame", "bulk.room"},
    {"feed", "replays", "runtime.intake", "runtime.reports", "runtime.slots", "twins"},
    {"bulk.driver", "home.pulse", "runtime.lane", "waits"},
    {"home.web"},
    {"agent", "crash", "home.folder"},
    {"apps"},
]
FLOOR_OF = {name: floor for floor, names in enumerate(FLOORS) for name in names}


PACKAGES = {name.partition(".")[0] for name in FLOOR_OF if "." in name}


def rooms() -> list[Path]:
    folders = [ROOT / "bus", *(ROOT / "bus" / name for name in sorted(PACKAGES))]
    return sorted(path for folder in folders for path in folder.glob("*.py"))


def name_of(path: Path) -> str:
    """`tasks`, or `runtime.lane` in a package."""
    return ".".join(path.relative_to(ROOT / "bus").with_suffix("").parts)


def code_files() -> list[Path]:
    folders = ("bus", "dashboard", "meshsite", "bench", "examples")
    files = [path for name in folders for path in (ROOT / name).rglob("*.py")]
    return sorted(path for path in files if "broken" not in path.parts)


def imported_rooms(path: Path) -> set[str]:
    package = name_of(path).rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        parts = package.split(".") if package and node.level == 1 else []
        parts += node.module.split(".") if node.module else []
        whole = ".".join(parts)
        if not whole or whole in PACKAGES:
            prefix = f"{whole}." if whole else ""
            found |= {prefix + alias.name for alias in node.names}
        else:
            found.add(whole)
    return found


def test_the_top_level_holds_only_what_the_design_names() -> None:
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}

    assert found <= TOP_LEVEL | {"__pycache__"}


def test_every_room_has_a_floor() -> None:
    found = {name_of(path) for path in rooms() if path.stem != "__init__"}

    assert found == set(FLOOR_OF)


@pytest.mark.parametrize("path", rooms(), ids=name_of)
def test_imports_fall(path: Path) -> None:
    if path.stem == "__init__":
        return
    floor = FLOOR_OF[name_of(path)]

    level = {name: FLOOR_OF[name] for name in imported_rooms(path)}

    assert {name: at for name, at in level.items() if at >= floor} == {}


@pytest.mark.parametrize("path", rooms(), ids=name_of)
def test_the_bus_knows_neither_its_doors_nor_its_models(path: Path) -> None:
    text = path.read_text()

    assert not re.search(
        r"^\s*(from|import) (meshsite|dashboard|examples)\b", text, re.M
    )
    if path.stem == "__init__":
        assert "models" not in imported_rooms(path)


@pytest.mark.parametrize("path", code_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_room_outgrows_the_ceiling(path: Path) -> None:
    lines = len(path.read_text().splitlines())

    assert lines <= LONGER.get(str(path.relative_to(ROOT)), CEILING_LINES)


@pytest.mark.parametrize("path", code_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_room_says_its_one_reason(path: Path) -> None:
    text = path.read_text()
    if not text.strip():
        return

    docstring = ast.get_docstring(ast.parse(text)) or ""

    assert docstring, "a module docstring is missing"
    assert docstring.splitlines()[0].rstrip()[-1] in ".:,"


def test_no_public_name_hides_a_room() -> None:
    stems = {path.stem for path in rooms()}

    hidden = [
        name
        for name in bus.__all__
        if name in stems and not isinstance(getattr(bus, name), types.ModuleType)
    ]

    assert hidden == []


def test_everything_public_is_declared_and_documented() -> None:
    names = list(bus.__all__)

    assert len(names) == len(set(names))
    for name in names:
        assert getattr(bus, name).__doc__, name


def test_every_error_that_a_public_call_tells_of_is_public() -> None:
    told = {
        word
        for name in bus.__all__
        for word in re.findall(r"\w+", getattr(bus, name).__doc__ or "")
        if inspect.isclass(getattr(errors, word, None))
    }

    assert "TaskConflict" in told
    assert told <= set(bus.__all__)


@pytest.mark.parametrize("name", sorted(verbs.SCRIPTS))
def test_every_script_has_its_contract(name: str) -> None:
    text = (ROOT / "bus" / "lua" / f"{name}.lua").read_text()
    head = text.split("\nlocal ")[0]

    assert text.startswith("-- "), "the first line says what it does"
    assert re.search(r"^-- KEYS: ", text, re.M)
    assert re.search(r"^-- (ARGV|Returns)", head, re.M)
    assert "KEYS[" not in text, "keys are bound by name"
    assert not re.search(r"cjson|'(mesh|stream):", text), "no payloads, no key names"


@pytest.mark.parametrize("name", sorted(verbs.SCRIPTS))
def test_every_script_touches_only_keys_it_declares(name: str) -> None:
    script = verbs.SCRIPTS[name]
    text = (ROOT / "bus" / "lua" / f"{name}.lua").read_text()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("--"))

    for key in keys.NAMES - {word.strip("<>") for word in script.names}:
        used = re.search(rf"(?:call|pcall)\('\w+', {key}\b", body)
        assert used is None, f"{key} is touched and not declared"


def test_keys_are_born_in_one_room() -> None:
    for path in code_files():
        if path.name in {"keys.py"} or "bench" in path.parts:
            continue
        text = path.read_text()
        assert not re.search(r"[\"'](stream|mesh):[a-z{]", text), path


def reads_environment(text: str) -> bool:
    """By whichever name: os.environ, os.getenv, or either of them imported."""
    reads = r"\bos\.(environ|getenv)b?\b|^\s*from os import .*\b(environ|getenv)"
    return re.search(reads, text, re.M) is not None


@pytest.mark.parametrize(
    "text",
    [
        "home = os.environ['HOME']",
        "home = os.getenv('HOME')",
        "    from os import environ",
        "from os import path, getenv as env",
    ],
)
def test_every_way_to_the_environment_is_seen(text: str) -> None:
    assert reads_environment(f"import os\n{text}\n")


def test_the_environment_is_read_in_settings_and_conf_only() -> None:
    allowed = {
        "allocator.py",
        "asgi.py",
        "child.py",
        "conf.py",
        "cradle.py",
        "processes.py",
        "screen.py",
        "settings.py",
    }
    for path in code_files():
        if path.name in allowed or path.parts[-2] in {
            "bench",
            "http",
            "rivals",
            "stdlib_metrics",
        }:
            continue
        assert not reads_environment(path.read_text()), path


def test_whether_it_is_ci_is_asked_in_one_place() -> None:
    """Else one skips under `CI=1` what another takes for missing."""
    asks = re.compile(r"""(environ|getenv)\W+(get\W+)?CI["']""")
    files = [p for p in (ROOT / "tests").rglob("*.py") if asks.search(p.read_text())]

    # A child of a test waits as patiently, and imports no pytest for that.
    assert {path.name for path in files} == {"machine.py", "waiting.py"}


@pytest.mark.parametrize("name", sorted(verbs.SCRIPTS))
def test_a_script_that_says_it_reads_only_does(name: str) -> None:
    script = verbs.SCRIPTS[name]
    # The whole text: what it calls of the prelude counts as well.
    writes = re.search(
        r"call\('(?:X(?:ADD|DEL|ACK|CLAIM|TRIM|GROUP|READGROUP)|H(?:SET|DEL|INCRBY)"
        r"|Z(?:ADD|REM\w*)|S(?:ET|ADD|REM)|DEL|UNLINK|P?EXPIRE)'",
        script.text,
    )

    assert script.reads == (writes is None)


def test_no_file_of_tests_is_too_long_to_read() -> None:
    """What behaves differently gets a file of its own."""
    lines = {p: len(p.read_text().splitlines()) for p in (ROOT / "tests").rglob("*.py")}

    assert {path.name: n for path, n in lines.items() if n > TESTS_CEILING_LINES} == {}


def test_no_two_test_files_share_a_name() -> None:
    """pytest could collect either of them, and neither beside the other."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))

    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize(
    ("marker", "folder"),
    [("pages", "browser"), ("chaos", "chaos"), ("soak", "chaos")],
)
def test_tests_of_a_lane_are_where_the_makefile_looks_for_them(
    marker: str, folder: str
) -> None:
    word = f"mark.{marker}"
    files = [p for p in (ROOT / "tests").rglob("test_*.py") if word in p.read_text()]

    assert files
    assert {path.parent for path in files} == {ROOT / "tests" / folder}
