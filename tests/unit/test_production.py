"""`--prod` starts with nothing that was left to a default."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_django import Settings

from bus.home import production
from tests.support.processes import ROOT

GIVEN = ["SECRET_KEY", "ALLOWED_HOSTS", "HTTPS"]


@pytest.fixture(autouse=True)
def good(settings: Settings) -> None:
    """Settings that are fit for others."""
    settings.MESH_GIVEN = list(GIVEN)
    settings.SECRET_KEY = "k" * 50
    settings.DEBUG = False
    settings.ALLOWED_HOSTS = ["mesh.example"]
    settings.HTTPS = True
    settings.MESH_TRUSTED_PROXIES = ["127.0.0.1"]


def test_what_was_chosen_well_is_accepted(settings: Settings) -> None:
    assert production.refusals() == []

    settings.HTTPS = False
    settings.MESH_TRUSTED_PROXIES = []
    assert production.refusals() == []  # plain http, said on purpose


@pytest.mark.parametrize("name", GIVEN)
def test_what_was_not_chosen_is_refused(settings: Settings, name: str) -> None:
    settings.MESH_GIVEN = [each for each in GIVEN if each != name]

    assert [text.split()[0] for text in production.refusals()] == [name]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("SECRET_KEY", "short", "SECRET_KEY is shorter than 32"),
        ("DEBUG", True, "DEBUG is on"),
        ("ALLOWED_HOSTS", ["mesh.example", "*"], "ALLOWED_HOSTS has a wildcard"),
        ("MESH_TRUSTED_PROXIES", [], "TRUSTED_PROXIES is not set"),
    ],
)
def test_what_was_chosen_badly_is_refused(
    settings: Settings, name: str, value: object, says: str
) -> None:
    setattr(settings, name, value)

    found = production.refusals()

    assert len(found) == 1
    assert says in found[0]


def test_all_is_told_at_once(settings: Settings) -> None:
    settings.MESH_GIVEN = []
    settings.DEBUG = True

    assert len(production.refusals()) == 4


def test_djangos_own_check_of_a_deployment_finds_nothing(tmp_path: Path) -> None:
    """With the environment that docs/running.md shows."""
    own = {
        "SECRET_KEY": secrets.token_urlsafe(48),
        "ALLOWED_HOSTS": "mesh.example.org",
        "HTTPS": "1",
        "TRUSTED_PROXIES": "127.0.0.1",
        "MESH_VAR_DIR": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "meshsite.settings",
    }
    done = subprocess.run(
        [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"],
        cwd=ROOT,
        env=os.environ | own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout
