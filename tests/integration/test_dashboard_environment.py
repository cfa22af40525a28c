"""The word that tells one mesh from another: production is no place for a slip."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import Client

from bus import effective
from tests.support.pages import looked_at, signed_in


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("word", "tone"), [("production", "bad"), ("Prod EU", "bad"), ("staging", "warn")]
)
def test_every_page_says_which_mesh_it_is(
    word: str, tone: str, settings: Any, client: Client
) -> None:
    settings.MESH_ENVIRONMENT = word

    for browser, path in ((client, "/login/"), (signed_in("viewer"), "/tasks/")):
        response = browser.get(path)
        seen = looked_at(response)

        pill = f'<span class="env pill" data-tone="{tone}">{word}</span>'
        assert pill in response.content.decode()
        assert seen.title.endswith(f"· Mesh {word}")


@pytest.mark.django_db
def test_without_a_word_nothing_is_said() -> None:
    page = signed_in("viewer").get("/tasks/")

    assert "env pill" not in page.content.decode()
    assert looked_at(page).title.endswith("· Mesh")


@pytest.mark.parametrize("word", ["x" * 25, "two\nlines"])
def test_what_would_not_fit_is_refused_at_the_start(word: str, settings: Any) -> None:
    settings.MESH_ENVIRONMENT = word

    [found] = [each for each in run_checks() if each.id == "bus.E004"]

    assert "MESH_ENVIRONMENT" in found.msg
    assert "24 characters at most" in (found.hint or "")


def test_the_settings_page_names_its_variable(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESH_ENVIRONMENT", "staging")
    settings.MESH_ENVIRONMENT = "staging"

    [found] = [e for e in effective.everything() if e.name == "MESH_ENVIRONMENT"]

    assert (found.value, found.source) == ("staging", "environment")
