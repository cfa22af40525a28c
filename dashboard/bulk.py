"""Bulk replays: chosen, looked at before they start, followed, paused, cancelled."""

from __future__ import annotations

import heapq
from functools import partial
from typing import Any

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html

from bus import audit, blame, dead, errors, records, replays, roles
from bus.replays import Job, Pace, Selection
from dashboard import fields, formats, queries
from dashboard.access import action, confirmed, page, to
from dashboard.frame import shown

_LETTERS = 100  # that were not done, on the page of a bulk replay
_GROUPS = 10
_NUMBERS = ("rate", "percent")  # of its pace, in a form


def url_of(job_id: str) -> str:
    """The page of a bulk replay."""
    return reverse("dashboard:bulk", args=[job_id])


@page
def index(request: Any) -> HttpResponse:
    """Every bulk replay that is kept."""
    jobs = [(job, words(job.selection)) for job in replays.list_jobs()]
    context = {"section": "replays", "jobs": jobs, "moves": any(map(_moves, jobs))}
    template = "_bulk_rows.html" if request.htmx else "bulk_list.html"
    return shown(request, template, context)


def _moves(row: tuple[Job, str]) -> bool:
    return row[0].state == "running"


@page
def job(request: Any, job_id: str) -> HttpResponse:
    """One bulk replay: what it is of, how far it is, what came of its letters."""
    template = "_bulk_now.html" if request.htmx else "bulk.html"
    return shown(request, template, _context(replays.get(job_id)))


def _context(found: Job, wrong: str = "", draft: Any = None) -> dict[str, Any]:
    rows = blame.reasons(replays.letters(found, _LETTERS))
    frozen = found.state == "frozen"
    return {
        "section": "replays",
        "job": found,
        "words": words(found.selection),
        "letters": rows,
        "groups": found.groups[:_GROUPS],
        "warnings": _warnings(found) if frozen else [],
        "follows": found.state in ("running", "cancelled") and _goes_on(found),
        "settled": found.counts.replayed - found.counts.open,
        "draft": draft or _draft_of(found),
        "wrong": wrong,
    }


def _draft_of(found: Job) -> dict[str, Any]:
    """What the form of its pace holds at first: a canary, or what it went with."""
    if found.state == "frozen":
        return {"rate": "", "canary": True, "percent": "10"}
    rate, most = found.pace.rate, found.pace.max_failure_rate
    return {
        "rate": "" if rate is None else f"{rate:g}",
        "canary": found.pace.canary,
        "percent": "" if most is None else f"{most * 100:g}",
    }


def _goes_on(found: Job) -> bool:
    return found.state == "running" or found.counts.open > 0


def _warnings(found: Job) -> list[str]:
    """What will keep its tasks from being run."""
    told = []
    for row in queries.standing().topics:
        if row["topic"] in found.topics and row["paused"]:
            told.append(f"{row['topic']} is paused: its tasks will wait.")
        elif row["topic"] in found.topics and not row["agents"]:
            told.append(f"No live agent serves {row['topic']}: its tasks will wait.")
    return told


def words(selection: dict[str, Any]) -> str:
    """A selection as half a sentence."""
    if not selection:
        return ""
    letters = "all letters"
    if "ids" in selection:
        count = selection["ids"]
        letters = "1 chosen letter" if count == 1 else f"{count:,} chosen letters"
    if "topics" in selection:
        letters += f" in {', '.join(selection['topics'])}"
    told = [letters]
    if "group" in selection:
        told.append("of one failure")
    if "error" in selection:
        told.append(f"whose error says “{selection['error']}”")
    for name in ("since", "until"):
        if name in selection:
            told.append(f"that died {name} {selection[name][:19].replace('T', ' ')}")
    return ", ".join(told)


@confirmed(roles.REPLAY)
def new(request: Any) -> HttpResponse:
    """Choose letters, and freeze them: nothing is replayed before somebody starts."""
    if request.method != "POST":
        return _form(request, request.GET)
    try:
        found = replays.create(
            _selection(request.POST), by=request.principal.name, start=False
        )
    except errors.DeadLetterNotFound:
        return _form(request, request.POST, "No dead letter matches.")
    except (errors.InvalidOption, errors.InvalidName, errors.Conflict) as exc:
        return _form(request, request.POST, formats.said(exc))
    return to(url_of(found.id))


def _form(request: Any, draft: Any, wrong: str = "") -> HttpResponse:
    counts = dead.counts().items()
    having: list[dict[str, Any]] = [{"topic": name, "dead": n} for name, n in counts]
    context = {
        "section": "replays",
        "draft": draft,
        "wrong": wrong,
        "having": having,
        "there": heapq.nlargest(_GROUPS, having, key=lambda row: row["dead"]),
    }
    return shown(request, "bulk_new.html", context, status=422 if wrong else 200)


def _selection(form: Any) -> Selection:
    """What a form asks for: ticked letters, or a filter."""
    if form.get("ticked"):
        # Each as `topic id`; ids are unique but for those that somebody chose. A letter
        # by hand may have none, and stands for no task that could run again.
        named = [each.partition(" ") for each in form.getlist("letter")]
        ticked = [each for each in named if not records.is_sid(each[2])]
        if not ticked:
            raise errors.InvalidOption("tick the letters to replay first")
        return replays.select(
            topics=sorted({topic for topic, _, _ in ticked}),
            ids=[task_id for _, _, task_id in ticked],
        )
    return replays.select(
        topics=[form["topic"]] if form.get("topic") else (),
        group=form.get("group") or None,
        # Every error says "", so a form that names nothing means all letters.
        error=form.get("error", "").strip() or _every(form),
        since_ms=fields.utc_ms(form.get("since")),
        until_ms=fields.utc_ms(form.get("until")),
    )


def _every(form: Any) -> str | None:
    named = any(form.get(name) for name in ("topic", "group", "since", "until"))
    return None if named else ""


@action(roles.REPLAY)
def start(request: Any, job_id: str) -> HttpResponse:
    """Start one that is frozen, or let one that was paused or stopped go on."""
    found = replays.get(job_id)
    try:
        pace = _pace(request.POST) if "rate" in request.POST else None
    except errors.InvalidOption as exc:
        context = _context(found, formats.said(exc), _draft(request.POST))
        return shown(request, "bulk.html", context, status=422)
    verb = "bulk replay" if found.state == "frozen" else "resume bulk replay"
    told = {"selection": found.selection, **(pace or found.pace).as_dict()}
    try:
        with audit.of_steps(partial(_note, request, verb, found, **told)):
            found = replays.resume(found.id, pace)
    except errors.Conflict as exc:
        return _refused(request, found.id, "running", exc)
    _note(request, verb, found, **told)
    return to(url_of(found.id))


def _draft(form: Any) -> dict[str, Any]:
    given = {name: form.get(name, "") for name in _NUMBERS}
    return {**given, "canary": "canary" in form}


def _pace(form: Any) -> Pace:
    rate, percent = (fields.number(name, form.get(name, "")) for name in _NUMBERS)
    most = None if percent is None else percent / 100
    return replays.paced(rate, "canary" in form, most)


@action(roles.REPLAY)
def pause(request: Any, job_id: str) -> HttpResponse:
    """Replay no more until somebody resumes it."""
    found, verb = replays.get(job_id), "pause bulk replay"
    try:
        with audit.of_steps(partial(_note, request, verb, found)):
            found = replays.pause(found.id, request.principal.name)
    except errors.Conflict as exc:
        return _refused(request, job_id, "paused", exc)
    _note(request, verb, found)
    return to(url_of(found.id))


@action(roles.REPLAY)
def cancel(request: Any, job_id: str) -> HttpResponse:
    """Replay no more for good; one that never started is forgotten."""
    found = replays.get(job_id)
    if "away" in request.POST or found.state == "frozen":
        return _put_away(request, found)
    verb = "cancel bulk replay"
    try:
        with audit.of_steps(partial(_note, request, verb, found)):
            found = replays.cancel(found.id, request.principal.name)
    except errors.Conflict as exc:
        return _refused(request, job_id, "cancelled", exc)
    _note(request, verb, found)
    says = "Cancelled: {} left dead. What was replayed goes on."
    toasts.success(request, format_html(says, _letters(found.counts.todo)))
    return to(url_of(found.id))


def _put_away(request: Any, found: Job) -> HttpResponse:
    """Not where somebody has started it meanwhile: that is no wish to cancel it."""
    try:
        replays.put_away(found)
    except errors.Conflict as exc:
        return _refused(request, found.id, "cancelled", exc)
    toasts.success(request, "Put away: nothing was replayed.")
    return to(reverse("dashboard:dead"))


def _letters(count: int) -> str:
    return "1 letter is" if count == 1 else f"{count:,} letters are"


def _refused(
    request: HttpRequest, job_id: str, wanted: str, exc: errors.Conflict
) -> HttpResponse:
    """Back to its page, with a word about it unless a first click was just this."""
    if exc.facts.get("state") != wanted:
        toasts.warning(request, formats.said(exc))
    return to(url_of(job_id))


def _note(request: Any, verb: str, found: Job, **detail: Any) -> None:
    detail |= {"letters": found.total, "topics": [*found.topics]}
    who = request.principal
    audit.record(who, verb, topic=found.topic, target=found.id, **detail)
