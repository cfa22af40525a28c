"""Pages for what went wrong: not allowed, not there, Redis away, our own mistake."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.http import HttpRequest, HttpResponse
from django.template import loader

from bus import accounts, databases, errors, mishaps, refusals, roles
from dashboard import frame

log = logging.getLogger(__name__)


def forbidden(request: Any, exception: Any = None) -> HttpResponse:
    """403: the role lacks the verb, or the user has no role at all."""
    principal = _principal(request)
    context = {"who": principal, "ask": _admins() if principal else []}
    return _page(request, "403.html", context, 403)


def refused(request: Any, who: roles.Principal, verb: str) -> HttpResponse:
    """403 for somebody we know: told to the log in one line, since it is no fault."""
    # A path says only what its sender wants; in quotes it stays one line.
    said = "%s (%s) may not %s: %s %.200r"
    log.info(said, who.name, who.role, verb, request.method, request.path)
    return forbidden(request)


def _admins() -> list[str]:
    """Some of those who can give somebody a role."""
    users = get_user_model().objects.filter(is_active=True)
    named = users.filter(groups__name=roles.ADMIN) | users.filter(is_superuser=True)
    return list(named.distinct().order_by("pk").values_list("username", flat=True)[:3])


def not_found(request: Any, exception: Any = None) -> HttpResponse:
    """404: no such page, task, letter, agent or topic."""
    # Django's own resolver errors list our routes; sentences of the bus are for eyes.
    cause = getattr(exception, "__cause__", None)
    says = str(cause) if isinstance(cause, errors.BusError) else ""
    return _page(request, "404.html", {"says": says}, 404)


def unavailable(request: HttpRequest, exception: errors.BusError) -> HttpResponse:
    """503: Redis does not answer, or refuses for now; or a key is being mended.

    A view that changes several things says by `request.partly` that one is done.
    """
    partly = hasattr(request, "partly") or any(exception.facts.get("done", {}).values())
    context = {
        "says": why(exception),
        "unknown": isinstance(exception, errors.OutcomeUnknown),
        "partly": partly,
        "changed": request.method == "POST",
    }
    context["mending"] = isinstance(exception, refusals.DamagedKey)
    response = _page(request, "503.html", context, 503)
    response["Retry-After"] = "5"
    return response


def why(exception: errors.BusError) -> str:
    """Why Redis took nothing, without saying where it is."""
    return _REFUSED.get(exception.code, "Redis does not answer")


_REFUSED: Final = {
    "memory_full": "Redis has no memory for new tasks",
    "disk_failing": "Redis cannot write to its disk",
    "replicas_missing": "Redis has too few replicas",
    "read_only": "Redis is a replica and takes nothing",
    "damaged_key": "Somebody changed a key by hand, which is mended within seconds",
}


def csrf_failure(request: Any, reason: str = "") -> HttpResponse:
    """403 for a form without its token: an old tab, cookies off, or another site."""
    return _page(request, "csrf.html", {}, 403)


def server_error(request: Any) -> HttpResponse:
    """500: nothing but the id under which the log has whatever failed; 503 where that
    is the database.

    Rendered without a request: whatever broke may break context processors as well.
    """
    mark = mishaps.id_of(request)
    # Django calls this while it handles what went wrong.
    away = isinstance(sys.exception(), databases.AWAY)
    template, status = ("database.html", 503) if away else ("500.html", 500)
    context = {"theme": "auto", "mark": mark}
    text = loader.render_to_string(f"dashboard/{template}", context)
    return HttpResponse(text, status=status, headers={mishaps.HEADER: mark})


def _principal(request: Any) -> roles.Principal | None:
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return None
    return accounts.of_user(user)


def _page(
    request: Any, template: str, context: dict[str, Any], status: int
) -> HttpResponse:
    """The page, with navigation for those who may use it."""
    principal = _principal(request)
    if principal is not None and principal.may(roles.READ):
        request.principal = principal
    return frame.shown(request, template, context, status)
