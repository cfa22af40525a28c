"""Views of lists are saved under a name, and forgotten.

They change nothing on the mesh, so everybody who reads may have them, and they are no
entries of the audit trail.
"""

from __future__ import annotations

from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse, QueryDict
from django.urls import reverse

from bus import errors, roles
from bus.models import SavedView
from dashboard.access import action, to
from dashboard.saved import FILTERS, MOST, filters

_NAME_MOST: Final = 40
_QUERY_MOST: Final = 4_000  # 200 characters to look for take up to 2,400 of them


def _page(request: HttpRequest) -> str:
    page = request.POST.get("page", "")
    if page not in FILTERS:
        raise errors.InvalidOption(f"no list {page!r:.40}")
    return page


@action(roles.READ)
def save(request: Any) -> HttpResponse:
    """Keep the filters of a list under a name; the same name again replaces them."""
    page = _page(request)
    query = filters(page, QueryDict(request.POST.get("query", "")))
    name = " ".join(request.POST.get("name", "").split())
    if wrong := _wrong(request.user, page, name, query):
        toasts.warning(request, wrong)
        query = query if len(query) <= _QUERY_MOST else ""
    else:
        SavedView.objects.update_or_create(
            user=request.user, page=page, name=name, defaults={"query": query}
        )
        toasts.success(request, f"Saved as “{name}”, for you.")
    return _to(page, query)


def _wrong(user: Any, page: str, name: str, query: str) -> str:
    """Why this cannot be saved; empty if it can."""
    if not query:
        return "Choose a filter first: there is nothing to save."
    if len(query) > _QUERY_MOST:
        return "This filter is too long to be saved: search for less."
    if not name or len(name) > _NAME_MOST or not name.isprintable():
        return f"A view needs a name of 1 to {_NAME_MOST} characters."
    others = SavedView.objects.filter(user=user, page=page).exclude(name=name)
    if others.count() >= MOST:
        return f"There are {MOST} saved views of this list: forget one first."
    return ""


@action(roles.READ)
def forget(request: Any) -> HttpResponse:
    """Drop one of one's own; a second click finds it gone."""
    page, name = _page(request), request.POST.get("name", "")
    mine = SavedView.objects.filter(user=request.user, page=page)
    # PostgreSQL takes no NUL, not even to look for.
    kept = mine.filter(name=name).first() if name.isprintable() else None
    if kept is None:
        toasts.warning(request, "There is no such saved view (any more).")
        return _to(page, "")
    kept.delete()
    toasts.success(request, f"“{kept.name}” is forgotten.")
    return _to(page, kept.query)


def _to(page: str, query: str) -> HttpResponse:
    url = reverse(f"dashboard:{page}")
    location = f"{url}?{query}" if query else url
    return to(location)
