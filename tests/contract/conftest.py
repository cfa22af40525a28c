"""One site for the whole contract, and the two doors through which it is asked."""

from __future__ import annotations

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
    mesh_server: Any,
    django_db_blocker: DjangoDbBlocker,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[LiveSite]:
    """The site behind a real web server, with a database of its own beside it."""
    from django.core.management import call_command
    from django.db import connection

    place = connection.settings_dict
    with pytest.MonkeyPatch.context() as patch, django_db_blocker.unblock():
        patch.setenv("REDIS_URL", mesh_server.url)
        connection.close()
        folder = tmp_path_factory.mktemp("contract")
        patch.setitem(place, "NAME", str(folder / "db.sqlite3"))
        call_command("migrate", verbosity=0)
        with LiveSite() as live:
            yield live
        connection.close()


@pytest.fixture(scope="module")
def tokens(site: LiveSite) -> dict[str, str]:
    """A token of each kind that the contract asks with."""
    from bus import accounts

    made = {
        role: accounts.create_token(f"contract {role}", role)[1]
        for role in ("admin", "operator", "viewer", "agent")
    }
    for name, role in (("bound", "operator"), ("bound agent", "agent")):
        made[name] = accounts.create_token(f"contract {name}", role, ["only-"])[1]
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
        for role in tokens:  # the first look at a token is Django's
            doors[-1].ask("enqueue", method="GET", token=role)
        return doors[-1]

    return entered
