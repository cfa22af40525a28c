"""The frame around every page: who is signed in, what they may, how it looks."""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.template import loader

from bus import roles
from bus.conf import conf
from dashboard import formats, queries, saved

VERBS: Final = sorted(roles.VERBS[roles.ADMIN])
THEMES: Final = ("auto", "light", "dark")
# With the suffix of this folder, like the session's: two meshes on one host.
THEME_COOKIE: Final = settings.SESSION_COOKIE_NAME.replace("-session-", "-theme-")


def shown(
    request: Any, template: str, context: dict[str, Any], status: int = 200
) -> HttpResponse:
    """A page of the signed-in user, inside the frame with its navigation."""
    around = frame(request)
    # A page that says that Redis does not answer must not ask it again.
    if around["can"][roles.READ] and status < 500:
        around["totals"] = {"dead": queries.dead_letters()}
        around["saved"] = saved.of(request)
    context = {**around, **context}
    text = loader.render_to_string(f"dashboard/{template}", context, request)
    response = HttpResponse(formats.seen(text), status=status)
    if status in (403, 404) and getattr(request, "htmx", False):
        # A part of a page that is not there, or not theirs, any more: all changes.
        response["HX-Refresh"] = "true"
    return response


def frame(request: Any) -> dict[str, Any]:
    """What the frame around every page needs; works without anybody signed in."""
    principal = getattr(request, "principal", None)
    may = principal.may if principal else lambda verb: False
    return {
        "principal": principal,
        "can": {verb: may(verb) for verb in VERBS},
        "theme": theme_of(request),
        "origin": f"{request.scheme}://{request.get_host()}",
        "environment": conf.ENVIRONMENT,
        # Where a slip costs most.
        "earnest": conf.ENVIRONMENT.lower().startswith("prod"),
    }


def theme_of(request: HttpRequest) -> str:
    """auto, light or dark, as the cookie says."""
    theme = request.COOKIES.get(THEME_COOKIE, "")
    return theme if theme in THEMES else "auto"
