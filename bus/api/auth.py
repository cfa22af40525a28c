"""Who a request acts for: a bearer token, else the session of a signed-in user."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from django.utils import timezone
from knox.auth import TokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from bus import accounts, errors, ratelimit, roles
from bus.conf import conf

from .problems import Problem, later

_ODD_TOKEN = "Invalid token."
_USED_EVERY: Final = timedelta(minutes=1)


class BearerAuthentication(TokenAuthentication):
    """Knox tokens; bytes that are no text are a wrong token, not an error of ours."""

    def authenticate_credentials(self, token: bytes) -> Any:
        try:
            token.decode("ascii")
        except UnicodeDecodeError:
            raise exceptions.AuthenticationFailed(_ODD_TOKEN) from None
        user, found = super().authenticate_credentials(token)
        _used(found)
        return user, found


def _used(token: Any) -> None:
    """Write down that a token is in use, at most once a minute: reads stay reads."""
    now = timezone.now()
    if token.last_used is None or now - token.last_used > _USED_EVERY:
        type(token).objects.filter(pk=token.pk).update(last_used=now)


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
        return accounts.of_token(request.auth)
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
