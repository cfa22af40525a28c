"""Tasks sent from pages: quickly, with options, or as a copy that replaces another."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, Final

from django.contrib import messages as toasts
from django.http import HttpRequest, HttpResponse
from django.utils.html import format_html

import bus
from bus import (
    audit,
    decisions,
    errors,
    exact,
    messages,
    roles,
    tasks,
    topics,
    wanted,
)
from dashboard import failures, formats, links, shape, topic_page
from dashboard.access import action, confirmed, to
from dashboard.fields import number
from dashboard.frame import shown

# Fields beside the payload: what each is called, and what an empty one means.
_OPTIONS: Final = {
    "delay_s": ("Starts in, s", "now"),
    "max_attempts": ("Attempts", "as the topic says"),
    "timeout_s": ("Time limit of an attempt, s", "as the topic says"),
}
_LEARNT_FROM: Final = 20  # tasks, each with up to 256 KiB
_LABELS: Final = {name: label for name, (label, _) in _OPTIONS.items()}
_WRONG: Final = (
    errors.DecodeError,
    errors.InvalidPayload,
    errors.InvalidOption,
    errors.TopicFull,
    errors.NotCancellable,
)


@action(roles.ENQUEUE)
def send(request: Any, topic: str) -> HttpResponse:
    """Send a task from the topic's page; a mistake is shown beside the field."""
    topics.check_known(topic)
    try:
        return _sent(request, topic, {})
    except _WRONG as exc:
        context = topic_page.context(topic, _draft(request.POST, formats.said(exc)))
        return shown(request, "topic.html", context, status=422)


@confirmed(roles.ENQUEUE)
def new(request: Any, topic: str) -> HttpResponse:
    """A page for one task: its payload, when and how often it runs.

    With `?copy=<task id>` it begins as a copy of that task, which it may replace.
    """
    topics.check_known(topic)
    of = request.POST.get("copy") or request.GET.get("copy")
    original = bus.get_task(of, topic) if of else None
    if request.method != "POST":
        return _form(request, topic, original, _copied(original))
    try:
        options = {name: number(name, request.POST.get(name, "")) for name in _OPTIONS}
        if original is not None and request.POST.get("instead"):
            _make_room(request, topic, original, options)
        return _sent(request, topic, options, original)
    except _WRONG as exc:
        now = bus.get_task(original.id, topic) if original else None
        draft = _draft(request.POST, formats.said(exc, _LABELS))
        return _form(request, topic, now, draft, 422)
    except errors.BusUnavailable as exc:
        if not hasattr(request, "partly"):
            raise
        # What was typed must not be lost as well; its id makes it one task at most.
        says = "The task it replaces is cancelled, the copy is not there yet: send it"
        draft = _draft(request.POST, f"{failures.why(exc)}. {says} again.")
        gone = original and replace(original, state=messages.CANCELLED)
        return _form(request, topic, gone, draft, 503, [])


def _make_room(
    request: Any, topic: str, original: bus.Task, options: dict[str, Any]
) -> None:
    """Cancel the original before its copy is sent: rather none of the two than both.

    What is wrong with the copy is told before, while the original still stands.
    """
    payload = messages.encode(_payload(request))
    wanted.item(topic, payload, task_id=request.POST.get("task_id") or None, **options)
    bus.cancel(original.id, topic)
    request.partly = True
    audit.record(request.principal, roles.CANCEL, topic=topic, target=original.id)


def _payload(request: HttpRequest) -> Any:
    return exact.read(request.POST.get("task", ""), "the payload")


def _shape(latest: list[bus.Task], original: bus.Task | None) -> shape.Shape:
    """Of a copy the original is one of the others."""
    tasks = [original, *latest] if original else latest
    return shape.learn([task.payload for task in tasks])


def _sent(
    request: Any,
    topic: str,
    options: dict[str, Any],
    original: bus.Task | None = None,
) -> HttpResponse:
    """To the task's page. Its id came with the form: a second click sends no other.

    A payload unlike the others of its topic is sent as well, and told of: topics have
    no schema, and who sent it by mistake can still cancel it.
    """
    payload = _payload(request)
    others = _shape(_latest(topic), original)
    task_id = request.POST.get("task_id") or None
    try:
        sent = _accepted(topic, payload, task_id=task_id, **options)
    except errors.TaskConflict:
        # Sent before, then changed and sent again from the same form: another task, of
        # which a second click is no second one either.
        key = f"form {task_id} {decisions.digest(payload)}"
        who = request.principal.key
        sent = _accepted(topic, payload, idempotency_key=key, principal=who, **options)
    if sent.new:
        copied = {"copy_of": original.id} if original else {}
        audit.record(
            request.principal, roles.ENQUEUE, topic=topic, target=sent.id, **copied
        )
    url = links.task(sent.id, topic)
    says = 'Sent: <a href="{}">the task</a> is on its way.'
    toasts.success(request, format_html(says, url))
    if told := others.differences(payload):
        says = "Its payload is not like the others of this topic. " + " ".join(told)
        toasts.warning(request, says)
    return to(url)


def _accepted(topic: str, payload: Any, **options: Any) -> tasks.Accepted:
    """The task as it is now, and whether it is new; raises what it was refused for."""
    [outcome] = tasks.accept(topic, [tasks.Wanted(payload, **options)])
    if outcome.error is not None:
        raise outcome.error
    return outcome


def _form(
    request: HttpRequest,
    topic: str,
    original: bus.Task | None,
    draft: dict[str, Any],
    status: int = 200,
    latest: list[bus.Task] | None = None,
) -> HttpResponse:
    """The form; with `latest` it asks Redis for nothing."""
    latest = _latest(topic) if latest is None else latest
    fields = [
        {"name": name, "label": label, "empty": empty, "value": draft[name]}
        for name, (label, empty) in _OPTIONS.items()
    ]
    context = {
        "section": "topics",
        "topic": topic,
        "draft": draft,
        "fields": fields,
        "original": original,
        "replaceable": original is not None and not original.ended,
        "shape": _shape(latest, original),
        "latest": latest[:1],
    }
    return shown(request, "send.html", context, status)


def _latest(topic: str) -> list[bus.Task]:
    """Tasks of the topic that show what a payload looks like there.

    Dead ones only where there are no others: their payload may be why.
    """
    found: list[bus.Task] = []
    for state in ("waiting", "running", "done"):
        found += bus.list_tasks(topic, state, _LEARNT_FROM)[0]
        if len(found) >= _LEARNT_FROM:
            return found
    return found or bus.list_tasks(topic, "dead", _LEARNT_FROM)[0]


def _copied(original: bus.Task | None) -> dict[str, Any]:
    """What the form holds at first: the task that is copied, as it was sent."""
    if original is None:
        return _draft({}, "")
    text = json.dumps(original.payload, ensure_ascii=False, indent=2)
    told = {"task": text, "instead": "" if original.ended else "1"}
    for name in ("max_attempts", "timeout_s"):
        value = getattr(original, name)
        told[name] = "" if value is None else f"{value:g}"
    return _draft(told, "")


def _draft(form: Any, error: str) -> dict[str, Any]:
    names = ("task", "instead", *_OPTIONS)
    task_id = form.get("task_id") or tasks.new_id()
    told = {name: form.get(name, "") for name in names}
    return {**told, "task_id": task_id, "error": error}
