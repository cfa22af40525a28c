"""Whether a websocket was opened by a page of this site."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from django.conf import settings
from django.http.request import is_same_domain, split_domain_port, validate_host

FORBIDDEN: Final = 4403
_PORTS: Final = {"http": ":80", "https": ":443"}


class SameOrigin:
    """Refuses a handshake from a page of another origin: scheme, host and port.

    Browsers send cookies along whatever page asks, and cookies know no port, so a page
    of another server on this very host would act as the signed-in user. A client that
    sends no Origin is no browser and has to bring its own token.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if ours(scope):
            await self._app(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": FORBIDDEN})


def ours(scope: Any) -> bool:
    """Whether Host is a name of this site, and Origin, if any, the same place."""
    host, origin = _header(scope, b"host"), _header(scope, b"origin")
    if not validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS):
        return False
    if not origin:
        return True
    secure = settings.HTTPS or scope.get("scheme") in {"https", "wss"}
    scheme = "https" if secure else "http"
    try:
        parts = urlsplit(origin.lower())
    except ValueError:
        return False
    if (parts.scheme, _place(parts.netloc, scheme)) == (scheme, _place(host, scheme)):
        return True
    return any(_trusted(parts, each) for each in settings.CSRF_TRUSTED_ORIGINS)


def _trusted(parts: SplitResult, pattern: str) -> bool:
    """As Django reads CSRF_TRUSTED_ORIGINS: `*.` before a domain means all below it."""
    scheme, _, place = pattern.lower().partition("://")
    if parts.scheme != scheme:
        return False
    return place == parts.netloc or (
        place.startswith("*.") and is_same_domain(parts.netloc, place[1:])
    )


def _place(netloc: str, scheme: str) -> str:
    return netloc.lower().removesuffix(_PORTS[scheme])


def _header(scope: Any, name: bytes) -> str:
    """The header's value; empty if it is missing or came more than once."""
    found = [value for key, value in scope["headers"] if key == name]
    return found[0].decode("latin-1").strip() if len(found) == 1 else ""
