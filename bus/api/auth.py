"""Who a request acts for: a bearer token, else the session of a signed-in user."""

from __future__ import annotations

from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest
from knox.auth import TokenAuthentication
from rest_framework import authentication, exceptions
from rest_framework.request import Request

from bus import accounts, roles

_ODD_TOKEN = "Invalid token."


class BearerAuthentication(TokenAuthentication):
    """Knox tokens; bytes that are no text are a wrong token, not an error of ours."""

    def authenticate_credentials(self, token: bytes) -> Any:
        try:
            token.decode("ascii")
        except UnicodeDecodeError:
            raise exceptions.AuthenticationFailed(_ODD_TOKEN) from None
        return super().authenticate_credentials(token)


class SessionAuthentication(authentication.SessionAuthentication):
    """Sessions of the dashboard, with CSRF for whatever changes something."""

    def authenticate_header(self, request: Request) -> str:
        # Without this DRF answers 403 where nobody is signed in at all.
        return "Bearer"


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
