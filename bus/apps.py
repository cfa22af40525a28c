"""The Django app of the bus, with what it says when a command starts."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from django.apps import AppConfig
from django.conf import settings
from django.core import checks
from django.core.exceptions import ImproperlyConfigured

from . import conf, errors

CACHE_MODES: Final = ("off", "repeatable", "plain", "all")


class BusConfig(AppConfig):
    """The engine: topics, tasks, agents."""

    name = "bus"
    verbose_name = "Task mesh"

    def ready(self) -> None:
        checks.register(runserver_lacks_sockets)
        checks.register(gateway_makes_sense)
        checks.register(environment_fits)
        checks.register(durability_is_known)
        checks.register(settings_are_of_their_kind)
        checks.register(settings_are_known)
        if wish := conf.crash_at():
            from . import crash  # tests only; it loads the whole engine

            try:
                crash.arm(wish)
            except errors.InvalidOption as exc:
                raise ImproperlyConfigured(str(exc)) from None


def runserver_lacks_sockets(**_: Any) -> list[checks.CheckMessage]:
    """Django's development server speaks no websockets: pages would stand still."""
    if sys.argv[1:2] != ["runserver"]:
        return []
    return [
        checks.Warning(
            "runserver serves no websockets, so pages do not update by themselves, "
            "and without DEBUG no static files.",
            hint="Use `make run` or `manage.py up`, or `manage.py web` for the web "
            "server alone.",
            id="bus.W001",
        )
    ]


def gateway_makes_sense(**_: Any) -> list[checks.CheckMessage]:
    """What the environment says of Ollama; else a typo shows at the first request."""
    found: list[checks.CheckMessage] = []
    address = str(getattr(settings, "MESH_OLLAMA_BASE_URL", "http://127.0.0.1"))
    try:
        parts = urlsplit(address)
        good = parts.scheme in ("http", "https") and bool(parts.hostname)
        good = good and parts.port != 0  # parsing a port is lazy and may raise
    except ValueError:
        good = False
    if not good:
        hint = "It looks like http://127.0.0.1:11434, with the scheme."
        text = "OLLAMA_BASE_URL is not the address of a server."  # may hold a password
        found.append(checks.Error(text, hint=hint, id="bus.E001"))
    mode = getattr(settings, "MESH_OLLAMA_CACHE", "off")
    if mode not in CACHE_MODES:
        hint = f"There are {', '.join(CACHE_MODES)}."
        text = f"OLLAMA_CACHE {mode!r} is unknown."
        found.append(checks.Error(text, hint=hint, id="bus.E002"))
    for name, least in _LEAST.items():
        value = getattr(settings, f"MESH_{name}", least)
        if _fits(value, conf.default(name)) and not value >= least:
            hint = f"It is {least:g} or more."
            text = f"{name} would let no request through."
            found.append(checks.Error(text, hint=hint, id="bus.E003"))
    return found


def environment_fits(**_: Any) -> list[checks.CheckMessage]:
    """The word that stands on every page must leave room for the page."""
    word = str(getattr(settings, "MESH_ENVIRONMENT", ""))
    if len(word) <= _ENVIRONMENT_MOST and (not word or word.isprintable()):
        return []
    text = f"MESH_ENVIRONMENT {word[:80]!r} does not fit on every page."
    hint = f"A word such as production, {_ENVIRONMENT_MOST} characters at most."
    return [checks.Error(text, hint=hint, id="bus.E004")]


def durability_is_known(**_: Any) -> list[checks.CheckMessage]:
    """A misspelt level, told also while the server is away."""
    from . import levels  # only here: it loads what speaks to the server

    try:
        levels.of_mesh()
    except errors.InvalidOption as exc:
        return [checks.Error(str(exc), id="bus.E005")]
    return []


def settings_are_of_their_kind(**_: Any) -> list[checks.CheckMessage]:
    """A number given as text passes for one until something counts with it."""
    found: list[checks.CheckMessage] = []
    for name in conf.names():
        default = conf.default(name)
        value = getattr(settings, f"MESH_{name}", default)
        if _fits(value, default, _AS_WELL.get(name)) or name == _MAY_HIDE_A_PASSWORD:
            continue
        text = f"MESH_{name} is {value!r:.80}, which is not {_KINDS[type(default)]}."
        hint = f"Something like the default, {default!r}."
        found.append(checks.Error(text, hint=hint, id="bus.E006"))
    return found


def settings_are_known(**_: Any) -> list[checks.CheckMessage]:
    """A name that is nearly one of ours does nothing where it stands."""
    known = [f"MESH_{name}" for name in conf.names()]
    found: list[checks.CheckMessage] = []
    for name in dir(settings):
        if not name.startswith("MESH_") or name in known:
            continue
        for meant in difflib.get_close_matches(name, known, 1, _ALIKE):
            text = f"{name} is no setting of the mesh."
            found.append(checks.Warning(text, hint=f"{meant} is one.", id="bus.W002"))
    return found


def _fits(value: Any, default: Any, as_well: type | None = None) -> bool:
    """Whether a value is of its default's kind; True and False are no numbers."""
    if isinstance(default, bool) or isinstance(value, bool):
        return type(value) is type(default)
    if as_well is not None and isinstance(value, as_well):
        return True
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple, set, frozenset))
    return isinstance(value, type(default))


_KINDS: Final = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list",
}
# What serves as well as the kind of the default.
_AS_WELL: Final[dict[str, type]] = {
    "PORT": int,
    "REDIS_BIN": Path,
    "REDIS_MAXMEMORY": int,
    "VAR_DIR": Path,
}
_MAY_HIDE_A_PASSWORD: Final = "OLLAMA_BASE_URL"  # told, without it, by E001
_ALIKE: Final = 0.85  # of difflib: a letter or two
_ENVIRONMENT_MOST: Final = 24
# Below these the gateway answers nobody.
_LEAST: Final = {
    "OLLAMA_RATE_CAPACITY": 1,
    "OLLAMA_RATE_REFILL_PER_S": 0.0001,
    "OLLAMA_CONCURRENCY": 1,
    "OLLAMA_QUEUE": 0,
}
