"""Who listens on a socket, asked of the session or the token as it stands now."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from typing import Any, Final

from channels.db import database_sync_to_async
from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest, parse_cookie

from bus import accounts, roles
from bus.conf import conf

# How many sockets of this process each principal has open.
open_sockets: Final[Counter[str]] = Counter()


def viewer(scope: Any) -> roles.Principal | None:
    """The principal of a socket's handshake; None if it is nobody's (any more).

    A session that was signed out or a user without its role counts from the next look
    on, a revoked token within the 2 s that `principal_of` remembers.
    """
    headers = {name.lower(): value for name, value in scope["headers"]}
    scheme, _, token = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return accounts.principal_of(token.strip())
    cookies = parse_cookie(headers.get(b"cookie", b"").decode("latin-1"))
    return _of_session(cookies.get(settings.SESSION_COOKIE_NAME, ""))


aviewer = database_sync_to_async(viewer)


def _of_session(key: str) -> roles.Principal | None:
    if not (key.isascii() and key.isalnum()):
        return None
    request: Any = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(key)
    user = auth.get_user(request)  # nobody if inactive, or the password was changed
    return accounts.of_user(user) if user.is_authenticated else None


def enter(principal: roles.Principal) -> bool:
    """Count one more socket; False if this process has enough of that principal."""
    if open_sockets[principal.key] >= conf.FEED_SOCKETS_PER_USER:
        return False
    open_sockets[principal.key] += 1
    return True


def leave(principal: roles.Principal) -> None:
    """The end of `enter`."""
    open_sockets[principal.key] -= 1
    if open_sockets[principal.key] <= 0:
        del open_sockets[principal.key]
