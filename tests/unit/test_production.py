"""`--prod` starts with nothing that was left to a default."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from bus.home import production

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
