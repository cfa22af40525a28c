"""Who may open a page or do something: the guards around views."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.cache import patch_cache_control
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST, require_safe
from django_htmx.http import HttpResponseClientRefresh

from bus import accounts, errors, refusals, roles
from dashboard import failures

View = Callable[..., HttpResponse]


def page(view: View) -> View:
    """A page to read: signed in, with a role that reads."""
    return reading(roles.READ)(view)


def reading(verb: str) -> Callable[[View], View]:
    """A page to read, for roles that have the verb."""
    return lambda view: require_safe(_guarded(view, verb))


def action(verb: str) -> Callable[[View], View]:
    """A form's target: POST only, with a role that has the verb."""
    return lambda view: require_POST(_guarded(view, verb))


def confirmed(verb: str) -> Callable[[View], View]:
    """An action that asks first: GET shows the question, POST does it."""
    return lambda view: _guarded(view, verb)


def _guarded(view: View, verb: str) -> View:
    @functools.wraps(view)
    def guarded(request: Any, *args: Any, **kwargs: Any) -> HttpResponse:
        if not request.user.is_authenticated:
            # After signing in a form's target would only answer "POST only".
            asked = request.method in ("GET", "HEAD")
            back = request.get_full_path() if asked else back_of(request)
            if request.htmx:
                # A part of a page would take the sign-in page for its news.
                return HttpResponseClientRefresh()
            return redirect_to_login(back)
        principal = accounts.of_user(request.user)
        if not principal.may(verb):
            return failures.refused(request, principal, verb)
        request.principal = principal
        try:
            response = view(request, *args, **kwargs)
        except (errors.BusUnavailable, refusals.DamagedKey) as exc:
            return failures.unavailable(request, exc)
        except (errors.InvalidName, errors.InvalidOption, errors.NotFound) as exc:
            raise Http404(str(exc)) from exc
        # What one person saw must not come out of a cache after signing out.
        patch_cache_control(response, private=True, no_store=True)
        return response

    return guarded


def back_of(request: HttpRequest, default: str | None = None) -> str:
    """Where a form came from (its field `next`), if that is a path of ours."""
    path = request.POST.get("next") or request.GET.get("next") or ""
    safe = url_has_allowed_host_and_scheme(
        path, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    )
    return path if safe else default or reverse("dashboard:overview")


def to(url: str) -> HttpResponse:
    """To a page, after a form: 303, which is fetched with GET whatever the form was."""
    return HttpResponse(status=303, headers={"Location": url})
