"""Saved views: filters of a list under a name, each for whoever saved it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlencode

from django.http import QueryDict

from bus.models import SavedView
from dashboard import links, watched

# Lists that have filters, and what of their address is a filter: places are none.
FILTERS: Final = {
    "tasks": ("state", "topic", "q", "since", "until"),
    "results": ("topic", *watched.NAMES),
    "dead": ("topic", "error", "since", "until", "groups"),
    "topics": ("q",),
    "agents": ("q",),
    "audit": ("who", "verb", "topic", "target", "since", "until", "request_id"),
}
MOST: Final = 20  # of one list, as many as a row of them may have


@dataclass(frozen=True, slots=True)
class Shown:
    """One saved view as a list shows it; `here` says that it is what one sees."""

    name: str
    url: str
    here: bool


@dataclass(frozen=True, slots=True)
class Saved:
    """The saved views of a list; `query` is what could be saved, if it is new."""

    page: str
    query: str
    views: list[Shown]

    @property
    def here(self) -> Shown | None:
        return next((each for each in self.views if each.here), None)


def of(request: Any) -> Saved | None:
    """What the page of this request has to show; None where it is no list."""
    match = request.resolver_match
    page = match.url_name if match and match.app_name == "dashboard" else ""
    if page not in FILTERS:
        return None
    query, base = filters(page, request.GET), links.to(page)
    kept = SavedView.objects.filter(user=request.user, page=page).order_by("name")
    views = [
        Shown(each.name, f"{base}?{each.query}", each.query == query)
        for each in kept[:MOST]
    ]
    return Saved(page, query, views)


def filters(page: str, asked: QueryDict) -> str:
    """The filters of an address, always in the same order."""
    told = {name: asked.get(name, "").strip() for name in FILTERS[page]}
    return urlencode({name: value for name, value in told.items() if value})
