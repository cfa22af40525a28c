"""Signing in and out, with a brake on guessing, and the choice of a theme."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Final

from django.conf import settings
from django.contrib import auth
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from bus import accounts, audit, errors, ratelimit, whence
from dashboard import failures, frame
from dashboard.access import back_of, to

# Tries per name from one address, and per address: bursts, then one every so often.
# Neither says whether the name exists.
_TRIES: Final = 10
_TRY_EVERY_S: Final = 10.0
_TRIES_OF_ADDRESS: Final = 60
_ADDRESS_EVERY_S: Final = 1.0
_THEME_KEEP_S: Final = 400 * 24 * 3600  # the most a browser keeps a cookie
_FAILED: Final = "This name and password do not match. Both are case-sensitive."


@require_http_methods(["GET", "HEAD", "POST"])
@never_cache
@csrf_protect
@sensitive_post_parameters("password")
def login(request: HttpRequest) -> HttpResponse:
    """The sign-in form; afterwards to where the user was going."""
    target = back_of(request)
    if request.method != "POST":
        if request.user.is_authenticated:
            return to(target)
        return _form(request, target)
    username = request.POST.get("username", "")
    try:
        wait_s = _braked(request, username)
    except errors.BusUnavailable as exc:
        return failures.unavailable(request, exc)
    if wait_s:
        seconds = math.ceil(wait_s)
        says = f"Too many tries. Please wait {seconds} s, then try again."
        response = _form(request, target, username, says, 429)
        response["Retry-After"] = str(seconds)
        return response
    form = AuthenticationForm(request, data=request.POST)
    if not form.is_valid():
        return _form(request, target, username, _FAILED, 422)
    auth.login(request, form.get_user())
    return to(target)


def _braked(request: HttpRequest, username: str) -> float:
    """Seconds until this try would be allowed, 0.0 if it is now."""
    address = request.META.get("REMOTE_ADDR") or "-"
    name = hashlib.sha256(username.strip().lower().encode()).hexdigest()[:16]
    own = ratelimit.take(f"login:{address}:{name}", _TRIES, 1 / _TRY_EVERY_S)
    return own or ratelimit.take(
        f"login:{address}", _TRIES_OF_ADDRESS, 1 / _ADDRESS_EVERY_S
    )


def _form(
    request: HttpRequest,
    target: str,
    username: str = "",
    error: str = "",
    status: int = 200,
) -> HttpResponse:
    context = {"next": target, "username": username, "error": error}
    return frame.shown(request, "login.html", context, status)


@require_POST
def logout(request: HttpRequest) -> HttpResponse:
    """End the session."""
    auth.logout(request)
    return to(settings.LOGOUT_REDIRECT_URL)


@require_POST
def theme(request: HttpRequest) -> HttpResponse:
    """Remember auto, light or dark, so that the next page comes in it at once."""
    response = to(back_of(request))
    chosen = request.POST.get("theme", "")
    if chosen in frame.THEMES:
        options: dict[str, Any] = {"secure": settings.HTTPS, "samesite": "Lax"}
        response.set_cookie(
            frame.THEME_COOKIE, chosen, _THEME_KEEP_S, httponly=True, **options
        )
    return response


@receiver(user_logged_in)
def _came(sender: Any, user: Any, **_: Any) -> None:
    """Whoever signs in is on the trail, by the form of Django's admin as well."""
    if whence.now().door:
        audit.record(accounts.of_user(user), "sign in", target=user.get_username())


@receiver(user_logged_out)
def _left(sender: Any, user: Any, **_: Any) -> None:
    if whence.now().door and user is not None and user.is_authenticated:
        audit.record(accounts.of_user(user), "sign out", target=user.get_username())
