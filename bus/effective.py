"""Every setting as it holds here: its value for eyes, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings

from . import address, announcement
from . import conf as given
from .conf import conf

DEFAULT: Final = "default"
SETTINGS: Final = "settings"
ENVIRONMENT: Final = "environment"
EMBEDDED: Final = "embedded server"
KEPT: Final = "var folder"
# Which variable of the environment meshsite/settings.py reads a setting of ours from.
VARIABLES: Final = {
    "DURABILITY": "MESH_DURABILITY",
    "ENVIRONMENT": "MESH_ENVIRONMENT",
    "EXPRESS_LANE": "MESH_EXPRESS_LANE",
    "HOST": "HOST",
    "OLLAMA_BASE_URL": "OLLAMA_BASE_URL",
    "OLLAMA_CACHE": "OLLAMA_CACHE",
    "OLLAMA_CACHE_SHARED": "OLLAMA_CACHE_SHARED",
    "OLLAMA_CONCURRENCY": "OLLAMA_CONCURRENCY",
    "OLLAMA_MODEL": "OLLAMA_MODEL",
    "OLLAMA_MODELS": "OLLAMA_MODELS",
    "OLLAMA_QUEUE": "OLLAMA_QUEUE",
    "OLLAMA_RATE_CAPACITY": "OLLAMA_RATE_CAPACITY",
    "OLLAMA_RATE_REFILL_PER_S": "OLLAMA_RATE_REFILL_PER_S",
    "PORT": "PORT",
    "REDIS_BIN": "MESH_REDIS_BIN",
    "REDIS_MAXMEMORY": "MESH_REDIS_MAXMEMORY",
    "REDIS_PORT": "MESH_REDIS_PORT",
    "TRUSTED_PROXIES": "TRUSTED_PROXIES",
    "VAR_DIR": "MESH_VAR_DIR",
}
_SITE: Final = ("ALLOWED_HOSTS", "CSRF_TRUSTED_ORIGINS", "DEBUG", "HTTPS")
_HIDDEN: Final = "set, and shown to nobody"


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting; `variable` is that of the environment which sets it, if any does."""

    name: str
    value: str
    source: str
    variable: str = ""


def everything() -> list[Setting]:
    """All settings of the mesh and those of the site that matter to it, by name.

    No password is in it: addresses are shown without, the secret key not at all.
    """
    return sorted([*_of_mesh(), *_of_site()], key=lambda each: each.name)


def _of_mesh() -> Iterator[Setting]:
    for name in given.names():
        if name == "GIVEN":  # a note of ours, for `up --prod`
            continue
        value, default = getattr(conf, name), given.default(name)
        variable = VARIABLES.get(name, "")
        if _alike(value, default):
            # Also where `up` says so to its children: nobody has chosen it.
            source = DEFAULT
        else:
            told = variable and given.in_environment(variable)
            source = ENVIRONMENT if told else SETTINGS
        text = str(value) if name.endswith("PORT") else _text(value)
        yield Setting(f"MESH_{name}", text, source, variable)


def _of_site() -> Iterator[Setting]:
    yield _of_redis()
    yield Setting("DATABASE_URL", _database(), _from("DATABASE_URL"), "DATABASE_URL")
    secret = ENVIRONMENT if given.in_environment("SECRET_KEY") else KEPT
    yield Setting("SECRET_KEY", _HIDDEN, secret, "SECRET_KEY")
    for name in _SITE:
        yield Setting(name, _text(getattr(settings, name, "")), _from(name), name)


def _of_redis() -> Setting:
    url = address.redis_url()
    if url == announcement.read():
        source = EMBEDDED  # `up` hands it to its children by their environment
    elif given.in_environment("REDIS_URL"):
        source = ENVIRONMENT
    else:
        source = SETTINGS if given.redis_url_given() else DEFAULT
    return Setting("REDIS_URL", address.shown_url(url), source, "REDIS_URL")


def _from(variable: str) -> str:
    return ENVIRONMENT if given.in_environment(variable) else DEFAULT


def _database() -> str:
    """The database without its password: kind, and where it is."""
    told = settings.DATABASES["default"]
    kind = told["ENGINE"].rpartition(".")[2]
    host = ":".join(str(told[name]) for name in ("HOST", "PORT") if told.get(name))
    return " ".join(filter(None, (kind, host, str(told["NAME"]))))


def _alike(value: Any, default: Any) -> bool:
    if isinstance(default, (list, tuple)):
        return list(value) == list(default)
    return bool(value == default)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    if isinstance(value, int):
        return f"{value:,}"
    return address.shown_url(str(value)) if "://" in str(value) else str(value)
