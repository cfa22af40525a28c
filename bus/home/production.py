"""What a mesh that others reach must not leave to defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from django.conf import settings

from .. import conf

SECRET_LEAST: Final = 32  # characters


def refusals() -> list[str]:
    """What `up --prod` objects to, one sentence each with what to set; empty: go."""
    return list(_refusals())


def _refusals() -> Iterator[str]:
    given = set(conf.conf.GIVEN)
    if "SECRET_KEY" not in given:
        yield (
            "SECRET_KEY is not set. Make one, once, and keep it: python3 -c 'import "
            "secrets; print(secrets.token_urlsafe(48))'"
        )
    elif len(settings.SECRET_KEY) < SECRET_LEAST:
        yield f"SECRET_KEY is shorter than {SECRET_LEAST} characters"
    if settings.DEBUG:
        yield "DEBUG is on: it shows settings and source to whoever meets an error"
    if "ALLOWED_HOSTS" not in given:
        yield "ALLOWED_HOSTS is not set: the names of this site, comma-separated"
    elif any(name in {"*", "."} for name in settings.ALLOWED_HOSTS):
        yield "ALLOWED_HOSTS has a wildcard: list the names of this site"
    if "HTTPS" not in given:
        yield (
            "HTTPS is not set: 1 where browsers come over https through a proxy, 0 if "
            "they really come over plain http"
        )
    elif settings.HTTPS and not conf.conf.TRUSTED_PROXIES:
        yield (
            "HTTPS is on and TRUSTED_PROXIES is not set: the address of the proxy that "
            "ends https, 127.0.0.1 if it runs here; otherwise no form is accepted"
        )
