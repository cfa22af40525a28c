"""What the site makes of its environment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT, program

_LOOK = """
import json
from meshsite import settings
database = settings.DATABASES["default"]
ours = ("MESH_", "SECURE_HSTS", "ALLOWED_HOSTS", "CSRF_TRUSTED", "HTTPS")
told = {name: getattr(settings, name) for name in dir(settings)
        if name.startswith(ours)}
print(json.dumps({**told, "database": [database["ENGINE"], database["NAME"]]}))
"""
_VARIABLES = (
    *("MESH_REDIS_PORT", "MESH_REDIS_MAXMEMORY", "MESH_EXPRESS_LANE", "HSTS_SECONDS"),
    *("ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "HTTPS", "TRUSTED_PROXIES"),
    *("HOST", "OLLAMA_BASE_URL", "OLLAMA_CACHE", "OLLAMA_QUEUE", "DATABASE_URL"),
)


def look(env: dict[str, str], before: str = "") -> dict[str, Any]:
    # Named for itself, since the state of a test is where the variable says.
    with program(before + _LOOK, env={"SECRET_KEY": "of a test", **env}) as asked:
        said, _ = asked.communicate(timeout=60)
    facts: dict[str, Any] = json.loads(said)
    return facts


@pytest.mark.parametrize("empty", ["", " "])
def test_what_is_empty_counts_as_not_set(empty: str) -> None:
    assert look(dict.fromkeys(_VARIABLES, empty)) == look({})


def test_state_is_in_the_folder_where_none_is_named() -> None:
    facts = look({"MESH_VAR_DIR": ""})

    var_dir = Path(__file__).resolve().parents[2] / "var"
    assert facts["MESH_VAR_DIR"] == str(var_dir)
    assert facts["database"][1] == str(var_dir / "db.sqlite3")


def test_the_database_is_in_a_folder_of_any_name(tmp_path: Path) -> None:
    var_dir = str(tmp_path / "c# 100%20?x=1")

    assert look({"MESH_VAR_DIR": var_dir})["database"] == [
        "django.db.backends.sqlite3",
        f"{var_dir}/db.sqlite3",
    ]


def test_another_database_is_taken_as_it_is_named() -> None:
    facts = look({"DATABASE_URL": "postgres://me:pass@db.example:5/mesh"})

    assert facts["database"] == ["django.db.backends.postgresql", "mesh"]


def test_where_no_folder_takes_files_it_is_the_same() -> None:
    """On a full disk `doctor` has to start, above all."""
    nowhere = "import tempfile; tempfile._candidate_tempdir_list = list"

    assert look({}, before=nowhere) == look({})


@pytest.mark.parametrize(
    ("variable", "setting"),
    [
        ("ALLOWED_HOSTS", "ALLOWED_HOSTS"),
        ("CSRF_TRUSTED_ORIGINS", "CSRF_TRUSTED_ORIGINS"),
        ("TRUSTED_PROXIES", "MESH_TRUSTED_PROXIES"),
        ("OLLAMA_MODELS", "MESH_OLLAMA_MODELS"),
    ],
)
def test_spaces_around_commas_are_no_part_of_a_name(
    variable: str, setting: str
) -> None:
    assert look({variable: " one, two ,, ,three"})[setting] == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("word", "on"), [("1", True), ("True ", True), ("ON", True), ("no", False)]
)
def test_a_flag_is_on_or_off(word: str, on: bool) -> None:
    assert look({"HTTPS": word})["HTTPS"] is on


@pytest.mark.parametrize("name", ["HTTPS", "MESH_EXPRESS_LANE", "OLLAMA_CACHE_SHARED"])
def test_a_flag_that_is_neither_is_refused(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "topics"],
        cwd=ROOT,
        env={**os.environ, name: "enabled"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"settings: {name} is neither on nor off")
