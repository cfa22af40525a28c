"""Who a request acts for: a bearer token, else the session of a signed-in user."""

from __future__ import annotations

from typing import Any, Final

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from knox.auth import TokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from bus import accounts, errors, ratelimit, roles
from bus.conf import conf

from .problems import Problem, later

_ODD_TOKEN: Final = "Invalid token."


class BearerAuthentication(TokenAuthentication):
    """`Authorization: Bearer …`, read by knox and looked up in `bus.accounts`."""

    def authenticate_credentials(self, token: bytes) -> Any:
        """Nobody signed in, and the principal as `auth` of the request."""
        found = accounts.principal_of(token)
        if found is None:
            raise exceptions.AuthenticationFailed(_ODD_TOKEN)
        return AnonymousUser(), found


class CsrfFailed(exceptions.PermissionDenied):
    """A session without its CSRF token: perhaps somebody else's page."""


class SessionAuthentication(authentication.SessionAuthentication):
    """Sessions of the dashboard, with CSRF for whatever changes something."""

    def authenticate_header(self, request: Request) -> str:
        # Without this DRF answers 403 where nobody is signed in at all.
        return "Bearer"

    def enforce_csrf(self, request: Any) -> None:
        try:
            # Django's own request: ours would parse the body to look for the token.
            super().enforce_csrf(getattr(request, "_request", request))
        except exceptions.PermissionDenied as exc:
            raise CsrfFailed(exc.detail) from None


AUTHENTICATION = (BearerAuthentication, SessionAuthentication)


def principal(request: Any) -> roles.Principal | None:
    """Whom an authenticated DRF request acts for, None for an anonymous one."""
    if request.auth is not None:
        found: roles.Principal = request.auth
        return found
    if request.user is not None and request.user.is_authenticated:
        return accounts.of_user(request.user)
    return None


def authenticate(request: HttpRequest) -> roles.Principal:
    """The principal of a plain Django request; NotAuthenticated, AuthenticationFailed.

    For views that are not DRF's: the same classes in the same order.
    """
    drf = Request(request, authenticators=[each() for each in AUTHENTICATION])
    found = principal(drf)
    if found is None:
        raise exceptions.NotAuthenticated()
    return found


aauthenticate = sync_to_async(authenticate)


def counted(refused: Problem, request: Any) -> Problem:
    """The refusal of a wrong token, or rate_limited for who tries one after the other.

    Counted by the address of the connection: whoever guesses also writes the headers.
    """
    most = conf.API_WRONG_TOKENS_PER_MINUTE
    key = f"wrong-tokens:{request.META.get('REMOTE_ADDR', '')}"
    try:
        wait_s = ratelimit.take(key, most, most / 60)
    except errors.BusUnavailable:
        return refused
    if wait_s:
        return later("rate_limited", "Too many wrong tokens.", wait_s)
    return refused
