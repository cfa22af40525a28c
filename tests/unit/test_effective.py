"""What the settings page says of each setting: its value, and where it comes from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as django_settings

from bus import conf, effective

ROOT = Path(__file__).resolve().parent.parent.parent


def of(name: str) -> effective.Setting:
    (found,) = [each for each in effective.everything() if each.name == name]
    return found


def test_every_setting_is_told_by_name() -> None:
    names = [each.name for each in effective.everything()]

    assert names == sorted(names) and len(names) == len(set(names))
    wanted = {f"MESH_{name}" for name in conf.names()} - {"MESH_GIVEN"}
    assert wanted <= set(names)
    assert {"REDIS_URL", "DATABASE_URL", "SECRET_KEY", "DEBUG"} <= set(names)


def test_a_default_is_one(settings: Any) -> None:
    assert of("MESH_BACKLOG_MAX") == effective.Setting(
        "MESH_BACKLOG_MAX", "100,000", "default"
    )


def test_a_setting_is_told_from_a_default(settings: Any) -> None:
    settings.MESH_BACKLOG_MAX = 5

    assert of("MESH_BACKLOG_MAX").value == "5"
    assert of("MESH_BACKLOG_MAX").source == "settings"


def test_the_environment_is_told_from_settings(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_OLLAMA_MODELS = ["a", "b"]
    assert of("MESH_OLLAMA_MODELS").source == "settings"

    monkeypatch.setenv("OLLAMA_MODELS", "a,b")

    found = of("MESH_OLLAMA_MODELS")
    assert (found.value, found.source) == ("a, b", "environment")
    assert found.variable == "OLLAMA_MODELS"


def test_what_says_the_same_as_the_default_is_no_choice(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setenv("HOST", "127.0.0.1")
    settings.MESH_HOST = "127.0.0.1"

    assert of("MESH_HOST").source == "default"


def test_a_port_is_a_name_and_no_count(settings: Any) -> None:
    settings.MESH_REDIS_PORT = 63_900

    assert of("MESH_REDIS_PORT").value == "63900"


def test_an_empty_list_is_the_default_whatever_its_type(settings: Any) -> None:
    settings.MESH_OLLAMA_MODELS = []

    assert of("MESH_OLLAMA_MODELS").source == "default"


def test_no_password_is_told(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@cache.example:6379/0")
    settings.MESH_OLLAMA_BASE_URL = "http://me:hunter2@model.example"
    settings.SECRET_KEY = "hunter2-secret"
    where = {"PASSWORD": "hunter2", "HOST": "db.example", "PORT": 5}
    database = {**django_settings.DATABASES["default"], **where}
    monkeypatch.setitem(django_settings.DATABASES, "default", database)

    told = effective.everything()

    assert "hunter2" not in str(told)
    assert of("REDIS_URL").value == "redis://me:***@cache.example:6379/0"
    assert of("REDIS_URL").source == "environment"
    assert "db.example:5" in of("DATABASE_URL").value


def test_where_redis_comes_from_is_told(
    settings: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("REDIS_URL", raising=False)
    settings.REDIS_URL = ""
    settings.MESH_VAR_DIR = str(tmp_path)
    assert of("REDIS_URL").source == "default"

    (tmp_path / "redis").mkdir()
    (tmp_path / "redis" / "url").write_text("redis://127.0.0.1:6390/0\n")
    assert of("REDIS_URL").source == "embedded server"
    # So it is in the children of `up`, which hands it on.
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:6390/0")
    assert of("REDIS_URL").source == "embedded server"
    monkeypatch.setenv("REDIS_URL", "redis://other/0")
    assert of("REDIS_URL").source == "environment"
    monkeypatch.delenv("REDIS_URL")
    settings.REDIS_URL = "redis://elsewhere/0"
    assert of("REDIS_URL").source == "settings"


def test_the_variables_are_those_that_settings_reads() -> None:
    text = (ROOT / "meshsite" / "settings.py").read_text()
    read = re.findall(r'MESH_(\w+) = (?:env\.\w+|_\w+)\(\s*"(\w+)"', text)

    assert dict(read) == effective.VARIABLES
