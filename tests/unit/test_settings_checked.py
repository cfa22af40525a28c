"""A setting of another kind than its default is told before anything counts with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from pytest_django import Settings

from bus import apps
from bus.management.commands import agent, up, web


def of_ours(number: str) -> list[str]:
    """What all checks of a start say of these settings."""
    return [each.msg for each in run_checks() if each.id == f"bus.{number}"]


def test_the_settings_of_this_site_are_in_order() -> None:
    assert of_ours("E006") == of_ours("W002") == []


@pytest.mark.parametrize(
    ("name", "value", "kind"),
    [
        ("LEASE_S", "15", "a number"),
        ("LEASE_S", None, "a number"),
        ("LEASE_S", True, "a number"),
        ("POOL_SIZE", "50", "a whole number"),
        ("POOL_SIZE", 50.0, "a whole number"),
        ("POOL_SIZE", True, "a whole number"),
        ("OLLAMA_QUEUE", "32", "a whole number"),
        ("EXPRESS_LANE", "off", "True or False"),
        ("EXPRESS_LANE", 1, "True or False"),
        ("PORT", True, "a text"),
        ("HOST", 127, "a text"),
        ("TRUSTED_PROXIES", "127.0.0.1", "a list"),
        ("OLLAMA_MODELS", "llama3.2", "a list"),
    ],
)
def test_one_of_another_kind_is_an_error(
    name: str, value: Any, kind: str, settings: Settings
) -> None:
    setattr(settings, f"MESH_{name}", value)

    [said] = of_ours("E006")

    assert said == f"MESH_{name} is {value!r}, which is not {kind}."


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LEASE_S", 20),
        ("OLLAMA_RATE_CAPACITY", 5),
        ("OLLAMA_RATE_REFILL_PER_S", 0.5),
        ("TRUSTED_PROXIES", ["127.0.0.1"]),
        ("OLLAMA_MODELS", {"llama3.2"}),
        ("PORT", 9000),
        ("VAR_DIR", Path("var")),
    ],
)
def test_what_serves_as_well_is_none(name: str, value: Any, settings: Settings) -> None:
    setattr(settings, f"MESH_{name}", value)

    assert of_ours("E006") == []


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("MESH_LEASE", ["MESH_LEASE_S is one."]),
        ("MESH_RESULT_KEEP", ["MESH_RESULTS_KEEP is one."]),
        ("MESH_SHOP_NAME", []),
    ],
)
def test_a_name_that_is_nearly_one_is_warned_of(
    name: str, meant: list[str], settings: Settings
) -> None:
    setattr(settings, name, 5)

    assert [each.hint for each in apps.settings_are_known()] == meant


@pytest.mark.parametrize("command", [agent.Command, up.Command, web.Command])
def test_what_starts_something_looks_first(command: Any) -> None:
    assert command.requires_system_checks == "__all__"
