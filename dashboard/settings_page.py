"""How the mesh is set up: its checks and ledgers, its settings, its tokens."""

from __future__ import annotations

import re
import uuid
from datetime import timedelta
from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from bus import accounts, audit, effective, errors, health, roles, topics
from dashboard import formats
from dashboard.access import action, confirmed, page, to
from dashboard.frame import shown

# For how many days a token may be; empty: until somebody revokes it.
_DAYS: Final = (("", "until revoked"), ("7", "7 days"), ("30", "30 days"),
                ("90", "90 days"), ("365", "a year"))  # fmt: skip
_BETWEEN: Final = re.compile(r"[\s,]+")


@page
def settings(request: Any) -> HttpResponse:
    """The page: whoever reads sees how things are; admins see and make tokens."""
    return _shown(request)


@action(roles.TOKENS)
def make_token(request: Any) -> HttpResponse:
    """Make a token and show its text, this once; a mistake is shown in the form."""
    form = request.POST
    days = form.get("days", "")
    draft = {name: form.get(name, "") for name in _FIELDS}
    try:
        if days not in dict(_DAYS):
            raise errors.InvalidOption(f"{days!r:.20} days are none of the choices")
        ends = timezone.now() + timedelta(days=int(days)) if days else None
        token, text = accounts.create_token(
            draft["name"],
            draft["role"],
            filter(None, _BETWEEN.split(draft["topics"])),
            description=draft["description"],
            expires_at=ends,
            maker=request.principal,
            once=f"{request.principal.key} {draft['once']}" if draft["once"] else "",
        )
    except (errors.InvalidOption, errors.InvalidName) as exc:
        return _shown(request, {**draft, "error": formats.said(exc)}, 422)
    except errors.Conflict as exc:
        return _shown(request, {"error": formats.said(exc)}, 409)
    facts = accounts.facts(token)
    audit.record(request.principal, "create token", target=token.name, after=facts)
    context = {"section": "settings", "token": facts, "text": text}
    return shown(request, "token_made.html", context, 201)


@confirmed(roles.TOKENS)
def revoke_token(request: Any, key: str) -> HttpResponse:
    """Ask, then end a token."""
    back = reverse("dashboard:settings")
    try:
        token = accounts.find_token(request.principal, key)
    except errors.NotFound:
        if request.method != "POST":
            raise
        toasts.warning(request, "That token was revoked before.")
        return to(back)
    facts = accounts.facts(token)
    if request.method != "POST":
        context = {"section": "settings", "token": facts}
        return shown(request, "token_revoke.html", context)
    accounts.revoke(token)
    audit.record(request.principal, "revoke token", target=token.name, before=facts)
    says = "The token of {} is revoked: it opens nothing from now on."
    toasts.success(request, format_html(says, token.name))
    return to(back)


_FIELDS: Final = ("name", "role", "topics", "description", "days", "once")


def _shown(
    request: Any, draft: dict[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    everything = effective.everything()
    ledgers = _ledgers()
    context: dict[str, Any] = {
        "section": "settings",
        "checks": health.checks(ledgers),
        "ledgers": ledgers,
        "chosen": [each for each in everything if each.source != effective.DEFAULT],
        "defaults": [each for each in everything if each.source == effective.DEFAULT],
    }
    if request.principal.may(roles.TOKENS):
        context |= {
            "tokens": [*map(accounts.facts, accounts.tokens(request.principal))],
            "draft": {"once": uuid.uuid4().hex, "role": roles.AGENT, **(draft or {})},
            "roles": [(role, _ABLE[role]) for role in roles.ROLES[::-1]],
            "days": _DAYS,
        }
    return shown(request, "settings.html", context, status)


def _ledgers() -> list[dict[str, Any]] | None:
    """Every topic's ledger; None where Redis does not answer, which a check says."""
    try:
        return topics.all_stats()
    except errors.BusUnavailable:
        return None


_ABLE: Final = {
    roles.AGENT: "registry and lease protocol only",
    roles.VIEWER: "reads",
    roles.OPERATOR: "reads, sends, replays, pauses, cancels",
    roles.ADMIN: "everything",
}
