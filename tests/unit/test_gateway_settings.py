"""A wrong setting of the gateway is told when a command starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from pytest_django import Settings

from bus import apps
from tests.support.processes import ROOT


def _ids() -> list[str | None]:
    return [each.id for each in apps.gateway_makes_sense()]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:11434", "https://ollama.example/sub/path", "http://[::1]"]
)
@pytest.mark.parametrize("mode", apps.CACHE_MODES)
def test_it_says_nothing_where_all_is_well(
    url: str, mode: str, settings: Settings
) -> None:
    settings.MESH_OLLAMA_BASE_URL = url
    settings.MESH_OLLAMA_CACHE = mode

    assert _ids() == []


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:11434", "localhost", "ftp://x", "http://", "http://x:y"]
)
def test_it_names_an_address_that_is_none(url: str, settings: Settings) -> None:
    settings.MESH_OLLAMA_BASE_URL = url

    assert _ids() == ["bus.E001"]


def test_it_names_a_mode_that_is_none(settings: Settings) -> None:
    settings.MESH_OLLAMA_CACHE = "yes"

    assert _ids() == ["bus.E002"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RATE_CAPACITY", 0.5),
        ("RATE_CAPACITY", float("nan")),
        ("RATE_REFILL_PER_S", 0),
        ("CONCURRENCY", 0),
        ("QUEUE", -1),
    ],
)
def test_it_names_a_limit_that_lets_nothing_through(
    name: str, value: float, settings: Settings
) -> None:
    setattr(settings, f"MESH_OLLAMA_{name}", value)

    [found] = apps.gateway_makes_sense()

    assert found.id == "bus.E003"
    assert f"OLLAMA_{name}" in found.msg


def test_a_limit_that_is_no_number_is_told_when_a_command_starts() -> None:
    told = subprocess.run(
        [sys.executable, "manage.py", "check"],
        cwd=ROOT,
        env={**os.environ, "OLLAMA_QUEUE": "many"},
        capture_output=True,
        text=True,
    )

    assert told.returncode == 2
    assert told.stderr.startswith("settings: a limit of OLLAMA_")
    assert "Traceback" not in told.stderr


def test_spaces_between_the_names_of_models_are_none_of_the_names() -> None:
    code = "from meshsite import settings; print(settings.MESH_OLLAMA_MODELS)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "OLLAMA_MODELS": "small, big:70b ,large"},
        capture_output=True,
        text=True,
    )

    assert told.stdout.strip() == "['small', 'big:70b', 'large']", told.stderr
