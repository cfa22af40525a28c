"""The page of dead letters: failures they share, then the letters, filtered."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlencode

from django.http import HttpRequest, HttpResponse

from bus import messages
from bus.sought import Sought
from dashboard import alike, fields, links, lists, live, seeking
from dashboard.access import page
from dashboard.frame import shown

Row = dict[str, Any]
_GROUPS: Final = 10
_ALL_GROUPS: Final = 500
_TIMES: Final = ("since", "until")


@page
def dead(request: HttpRequest) -> HttpResponse:
    """Dead letters: the failures they share first, then the letters."""
    topic = request.GET.get("topic", "")
    asked = {name: request.GET.get(name, "").strip() for name in ("error", *_TIMES)}
    filtered = any(asked.values())
    names, chosen = lists.facts(topic)
    context = {
        "section": "dead",
        "asked": asked,
        "filtered": filtered,
        "total": sum(row["dead"] for row in chosen),
        "topic": topic,
        "names": names,
        "left_out": lists.left_out(chosen, "dead"),
        "files": files(topic=topic, **asked),
        "query": urlencode({"topic": topic, **asked}),
    }
    if filtered:
        context |= _filtered(request, chosen, asked)
    else:
        context |= _whole(request, chosen, topic)
    return shown(request, "dead.html", context)


def _whole(request: HttpRequest, chosen: list[Row], topic: str) -> Row:
    """The list as it is, live on its first page."""
    found = lists.dead_page(chosen, request.GET.get("before"), request.GET.get("after"))
    every = request.GET.get("groups") == "all"
    # Of hundreds nobody sees when they died: of those no line is drawn.
    most = _ALL_GROUPS if every else _GROUPS
    failures = alike.failures(chosen, most, topic, drawn=not every)
    return {
        "page": found,
        "groups": failures.rows,
        "more_groups": failures.more,
        "every": every,
        "live": live.state(chosen, topic=topic, dead=found) if found.first else None,
    }


def _filtered(request: HttpRequest, chosen: list[Row], asked: Row) -> Row:
    sought = Sought(
        (),
        error=asked["error"] or None,
        since_ms=fields.utc_ms(asked["since"]),
        until_ms=fields.utc_ms(asked["until"]),
    )
    before, so_far = seeking.opened(request.GET.get("before"))
    found = lists.dead_sought(chosen, sought, so_far.left(lists.PAGE), before)
    so_far = so_far.plus(len(found.items), found.looked)
    part = so_far.part(found.older, lists.PAGE)
    return {"page": found, "so_far": so_far, "part": part}


def files(**asked: str) -> list[tuple[str, str]]:
    """Words and address of each file with the letters that a filter means."""
    told = {name: text for name, text in asked.items() if text}
    for name in _TIMES:
        if (at := fields.utc_ms(told.get(name))) is not None:
            told[name] = messages.iso(at)
    return links.files("api-dead", told)
