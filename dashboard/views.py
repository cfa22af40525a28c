"""Pages to read. Each view does three things: ask, assemble, render."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect

import bus
from bus import agents as registry
from bus import errors, timeline, whynot
from bus.messages import DEAD, DELAYED, ENDED
from bus.tasks import new_id
from dashboard import (
    alike,
    charts,
    dead_page,
    lifeline,
    links,
    lists,
    live,
    queries,
    search,
    seeking,
    topic_page,
    watched,
)
from dashboard.access import page
from dashboard.frame import shown
from dashboard.status import TASKS

_TOP = 10
_TOPICS = 100  # on a page of many
_AGENTS = 100


@page
def overview(request: HttpRequest) -> HttpResponse:
    """How the mesh stands, in one sentence first."""
    now = queries.standing()
    checks = queries.checks(now.topics)
    busiest = sorted(now.topics, key=lambda row: (-row["backlog"], row["topic"]))
    context = {
        "section": "overview",
        "problems": queries.problems(now, checks),
        "totals": now.totals,
        "topics": busiest[:_TOP],
        "more_topics": max(0, len(now.topics) - _TOP),
        "groups": alike.failures(now.topics, most=5).rows,
        "checks": queries.of_server(checks),
        "live": live.state([]),
    }
    return shown(request, "overview.html", context)


@page
def topics(request: HttpRequest) -> HttpResponse:
    """Topics by name: all of them live, or page by page where they are many."""
    now = queries.standing()
    wanted = request.GET.get("q", "").strip()
    found = [row for row in now.topics if wanted in row["topic"]]
    rest = [row for row in found if row["topic"] > request.GET.get("after", "")]
    whole = len(rest) == len(now.topics) <= lists.TOPICS_MOST
    rows = rest if whole else rest[:_TOPICS]
    context = {
        "section": "topics",
        "topics": rows,
        "totals": now.totals,
        "found": len(found),
        "q": wanted,
        "first": len(rest) == len(found),
        "next": rows[-1]["topic"] if len(rest) > len(rows) else None,
        "live": live.state([]) if whole else None,
    }
    return shown(request, "topics.html", context)


@page
def topic(request: HttpRequest, topic: str) -> HttpResponse:
    """One topic: how it stands, what runs and waits, and a form to send a task."""
    span = request.GET.get("span", charts.HOUR)
    return shown(request, "topic.html", topic_page.context(topic, span=span))


@page
def tasks(request: HttpRequest) -> HttpResponse:
    """Tasks by state and topic; the whole id of one in the search goes to its page.

    Any other text is looked for in payloads and errors of the list.
    """
    sought = search.of(request.GET)
    if sought.q and (response := _by_id(sought.q)):
        return response
    topic = request.GET.get("topic", "")
    names, chosen = lists.facts(topic)
    state = request.GET.get("state", "")
    states, fits = lists.states_of(state), sought.fits if sought.given else None
    cursor, so_far = seeking.opened(request.GET.get("cursor"))
    left = so_far.left(lists.PAGE)
    found = lists.tasks_page(chosen, states, left, cursor, fits)
    so_far = so_far.plus(len(found.tasks), found.looked)
    context = {
        "section": "tasks",
        "page": found,
        "so_far": so_far,
        "part": so_far.part(found.next, lists.PAGE),
        "cancellable": any(not task.ended for task in found.tasks) or found.next,
        "q": sought.q,
        "sought": sought,
        "suggestions": search.suggestions(found.tasks),
        "state": state,
        "topic": topic,
        "names": names,
        "tabs": [(name, TASKS[name], n) for name, n in lists.counts(chosen).items()],
        "first": not cursor,
        "filtered": bool(state or topic or sought.given),
    }
    return shown(request, "tasks.html", context)


def _by_id(wanted: str) -> HttpResponse | None:
    """To the task with this id; None where it is none: payloads name other things by
    such ids, which are looked for like any text."""
    try:
        task = bus.get_task(wanted)
    except (errors.InvalidName, errors.TaskNotFound):
        return None
    return redirect(links.task(task.id, task.topic))


@page
def task(request: Any, task_id: str) -> HttpResponse:
    """One task: what is true now, what happened, what came out."""
    found = bus.get_task(task_id, request.GET.get("topic") or None)
    rows = timeline.timeline(found)
    context = {
        "section": "tasks",
        "task": found,
        "same": search.values(found.payload),
        "explain": whynot.explain(found),
        "life": lifeline.drawn(rows, found.ended),
        "timeline": lifeline.timed(rows),
        "ended": found.state in ENDED,
        "runs": found.state == DELAYED,
        "again": found.ended and found.state != DEAD,
        "entry": _entry_of(found),
        "click": new_id(),  # what tells a second click of this page from a second wish
        "cancellable": not found.ended and not found.cancel_requested,
    }
    template = "_task_now.html" if request.htmx else "task.html"
    return shown(request, template, context)


def _entry_of(found: bus.Task) -> str:
    """The letter that a replay of a dead task is of; empty where there is none."""
    if found.state != DEAD:
        return ""
    try:
        return bus.get_dead(found.id, found.topic).entry_id
    except errors.DeadLetterNotFound:
        return ""  # replayed or discarded at this moment


@page
def results(request: HttpRequest) -> HttpResponse:
    """What tasks came to, the newest first, live on the first page."""
    topic = request.GET.get("topic", "")
    names, chosen = lists.facts(topic)
    only = watched.of(request.GET)
    before, so_far = seeking.opened(request.GET.get("before"))
    part = ""
    if only.given:
        left = so_far.left(lists.PAGE)
        found = lists.results_watched(chosen, only, left, before)
        so_far = so_far.plus(len(found.items), found.looked)
        part = so_far.part(found.older, lists.PAGE)
    else:
        found = lists.results_page(chosen, before, request.GET.get("after"))
    context = {
        "section": "results",
        "page": found,
        "so_far": so_far,
        "part": part,
        "topic": topic,
        "names": names,
        "only": only,
        "states": watched.STATES,
        "left_out": lists.left_out(chosen, "results"),
        "live": live.state(chosen, topic=topic, results=found, only=only.given)
        if found.first
        else None,
    }
    return shown(request, "results.html", context)


@page
def agents(request: HttpRequest) -> HttpResponse:
    """Every agent of the last day, live on the first page."""
    told = queries.agent_rows(registry.overview())
    wanted = request.GET.get("q", "").strip()
    found = [row for row in told if wanted in row["agent_id"]]
    rest = queries.agents_after(found, request.GET.get("after", ""))
    rows, first = rest[:_AGENTS], len(rest) == len(found)
    context = {
        "section": "agents",
        "agents": rows,
        "most": _AGENTS,
        "fleet": queries.agent_totals(told),
        "known": len(told),
        "q": wanted,
        "first": first,
        "next": queries.agent_place(rows[-1]) if len(rest) > len(rows) else None,
        "live": live.state([]) if first and not wanted else None,
    }
    return shown(request, "agents.html", context)


@page
def agent(request: Any, agent_id: str) -> HttpResponse:
    """One agent: what it says of itself, what it holds, what it did lately."""
    try:
        found = registry.get_agent(agent_id)
    except errors.AgentNotFound as exc:
        # Results tell of agents that left long ago.
        told = {"section": "agents", "agent_id": agent_id, "says": str(exc)}
        return shown(request, "agent_gone.html", told, status=404)
    context = {
        "section": "agents",
        "agent": found,
        "running": lists.held_by(found),
        "done": lists.done_by(found),
    }
    template = "_agent_now.html" if request.htmx else "agent.html"
    return shown(request, template, context)


@page
def group(request: HttpRequest, fingerprint: str) -> HttpResponse:
    """One failure: the letters that died of it."""
    topic = request.GET.get("topic", "")
    everywhere = alike.failure(fingerprint)
    found = [row for row in everywhere if topic in ("", row["topic"])]
    if not found:
        raise errors.NotFound("no dead letters of this failure (any more)")
    names, whole = [row["topic"] for row in found], alike.merged(found)
    letters = alike.letters_page(names, fingerprint, request.GET.get("before"))
    context = {
        "section": "dead",
        "groups": found,
        "elsewhere": len(everywhere) - len(found),
        "whole": whole,
        "chart": charts.of_deaths(*alike.deaths_of(whole)),
        "error": whole["error"],
        "fingerprint": fingerprint,
        "count": whole["count"],
        "page": letters,
        "agents": alike.agents_of(letters.items),
        "files": dead_page.files(topic=topic, group=fingerprint),
        "topic": topic,
    }
    return shown(request, "group.html", context)


@page
def letter(request: HttpRequest, task_id: str) -> HttpResponse:
    """One dead letter with every attempt of all its lives; or what became of it."""
    found = bus.get_task(task_id, request.GET.get("topic") or None)
    same = search.values(found.payload)
    context: dict[str, Any] = {"section": "dead", "task": found, "same": same}
    if found.state != "dead":
        return shown(request, "letter_left.html", context)
    try:
        context["letter"] = bus.get_dead(found.id, found.topic)
    except errors.DeadLetterNotFound:  # somebody was quicker in between
        context["task"] = bus.get_task(found.id, found.topic)
        return shown(request, "letter_left.html", context)
    context["live"] = live.state([], topic=found.topic)
    return shown(request, "letter.html", context)
