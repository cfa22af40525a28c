"""A wrong setting of the gateway is told when a command starts."""

from __future__ import annotations

import pytest
from pytest_django import Settings

from bus import apps


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
