"""What the site makes of its environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import program

_LOOK = """
import json
from meshsite import settings
database = settings.DATABASES["default"]
told = {name: getattr(settings, name) for name in dir(settings)
        if name.startswith(("MESH_", "SECURE_HSTS"))}
print(json.dumps({**told, "database": [database["ENGINE"], database["NAME"]]}))
"""
_VARIABLES = (
    *("MESH_REDIS_PORT", "MESH_REDIS_MAXMEMORY", "MESH_EXPRESS_LANE", "HSTS_SECONDS"),
    *("HOST", "OLLAMA_BASE_URL", "OLLAMA_CACHE", "OLLAMA_QUEUE", "DATABASE_URL"),
)


def look(env: dict[str, str]) -> dict[str, Any]:
    # Named for itself, since the state of a test is where the variable says.
    with program(_LOOK, env={"SECRET_KEY": "of a test", **env}) as asked:
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
