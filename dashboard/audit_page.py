"""Who did what: the audit trail, filtered, page by page, and as a file."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

from django.http import HttpRequest, HttpResponse

import bus
from bus import audit, errors, records, roles
from dashboard import links
from dashboard.access import reading
from dashboard.frame import shown

_PAGE: Final = 50
_TEXTS: Final = ("who", "verb", "topic", "target", "request_id")


@reading(roles.AUDIT)
def trail(request: Any) -> HttpResponse:
    """The newest entries first; whatever the address asks for."""
    asked = {name: request.GET.get(name, "").strip() for name in (*_TEXTS, *_DAYS)}
    sought = audit.Sought(
        **{name: asked[name] for name in _TEXTS},
        since=_day(asked["since"], timedelta()),
        until=_day(asked["until"], timedelta(days=1)),
    )
    found = audit.find(request.principal, sought, _PAGE + 1, _before(request))
    context = {
        "section": "audit",
        "entries": [audit.row(entry) for entry in found[:_PAGE]],
        "next": found[_PAGE - 1].pk if len(found) > _PAGE else None,
        "first": not request.GET.get("before"),
        "asked": asked,
        "filtered": any(asked.values()),
        "verbs": audit.verbs(),
        "names": _topics(),
        "files": _files(sought),
    }
    return shown(request, "audit.html", context)


_DAYS: Final = ("since", "until")


def _day(text: str, more: timedelta) -> datetime | None:
    """Where a day begins, or the next one, in UTC; InvalidOption for what is no day."""
    if not text:
        return None
    try:
        return datetime.combine(date.fromisoformat(text), time(), UTC) + more
    except (ValueError, OverflowError):
        raise errors.InvalidOption(f"{text!r:.40} is no day") from None


def _before(request: HttpRequest) -> int | None:
    text = request.GET.get("before", "")
    if not text:
        return None
    place = records.number(text, 18)
    if place is None:
        raise errors.InvalidOption("the address names no place in this list")
    return place


def _topics() -> list[str]:
    """For a choice; the trail is there without Redis as well."""
    try:
        return sorted(bus.list_topics())
    except errors.BusUnavailable:
        return []


def _files(sought: audit.Sought) -> list[tuple[str, str]]:
    """Where the same entries are to be had as a file."""
    asked = {name: getattr(sought, name) for name in _TEXTS}
    for name in _DAYS:
        at = getattr(sought, name)
        asked[name] = at.isoformat() if at else ""
    return links.files("api-audit", asked)
