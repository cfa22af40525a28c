"""One site for the whole contract, and the two doors through which it is asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from pytest_django import DjangoDbBlocker, Settings

from tests.support.doors import Door
from tests.support.site import LiveSite

Enter = Callable[[str], Door]


@pytest.fixture(scope="module")
def site(
    mesh_server: Any, django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[LiveSite]:
    """The site behind a real web server, with accounts that last as long as it does."""
    from django.contrib.auth import get_user_model
    from django.core.management import call_command

    before = os.environ.get("REDIS_URL")
    os.environ["REDIS_URL"] = mesh_server.url
    with django_db_blocker.unblock():
        # Tables are made only where a test is marked for them, and then emptied by it.
        call_command("migrate", verbosity=0)
        known = set(get_user_model().objects.values_list("pk", flat=True))
        try:
            with LiveSite() as live:
                yield live
        finally:
            # Their tokens go with them: nothing is left for other tests.
            get_user_model().objects.exclude(pk__in=known).delete()
    if before is None:
        os.environ.pop("REDIS_URL")
    else:
        os.environ["REDIS_URL"] = before


@pytest.fixture(scope="module")
def tokens(site: LiveSite) -> dict[str, str]:
    """A token of each kind that the contract asks with."""
    from bus import accounts

    made = {
        role: accounts.create_token(f"contract {role}", role)[1]
        for role in ("admin", "operator", "viewer", "agent")
    }
    made["bound"] = accounts.create_token("contract bound", "operator", ["only-"])[1]
    gone, made["revoked"] = accounts.create_token("contract gone", "operator")
    accounts.revoke_token(gone.token_key)
    return made


@pytest.fixture
def enter(
    site: LiveSite,
    tokens: dict[str, str],
    redis_client: redis.Redis,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> Enter:
    """A door, with nothing behind it: `express`, or `views`."""
    from bus import scripts
    from bus.api import express

    answered = express._answered
    doors: list[Door] = []

    async def counting(*args: Any) -> Any:
        doors[-1].in_the_lane += 1
        return await answered(*args)

    monkeypatch.setattr(express, "_answered", counting)

    def entered(name: str) -> Door:
        settings.MESH_EXPRESS_LANE = name == "express"
        redis_client.config_set("maxmemory", 0)
        redis_client.flushall()
        scripts.forget_topics()
        doors.append(Door(site.url, tokens))
        return doors[-1]

    return entered
