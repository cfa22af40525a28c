"""The audit trail: who did what, written with every action of a person or token.

It is about decisions: what people and tokens change, through any door. Traffic (tasks
sent over REST, leases, heartbeats) is not on it: the engine's own history says that.
An action is never refused or undone because the database is away: the engine has done
it by then, and its history in Redis stays the record of what happened. The entry goes
to the log instead, whole, as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from django.db import DatabaseError, InterfaceError
from django.db.models import Q, QuerySet
from django.utils import timezone

from . import errors, models, roles, whence
from .conf import conf

log = logging.getLogger(__name__)

# Of an export, in this order.
COLUMNS: Final = (
    *("id", "at", "who", "role", "verb", "topic", "target"),
    *("door", "request_id", "address", "before", "after", "detail"),
)
_VALUE_MOST: Final = 4096  # bytes of a value before or after, as JSON; rest is cut
_CUT: Final = 2000
_PRUNE_EVERY_S: Final = 3600.0
_STEP: Final = 1_000
_STEPS_MOST: Final = 20  # of pruning at once: who acts must not wait for it
_pruned_at: float | None = None


def record(
    principal: roles.Principal,
    verb: str,
    *,
    topic: str = "",
    target: str = "",
    before: Any = None,
    after: Any = None,
    **detail: Any,
) -> models.AuditEntry | None:
    """Write one entry, after the action; None where only the log could take it.

    `target` is what was acted on, `before` and `after` what of it was changed (any
    JSON, cut where it is long), `detail` further JSON facts. From where it came is
    added from `whence`.
    """
    here = whence.now()
    entry = models.AuditEntry(
        who=principal.name[:200],
        role=principal.role,
        verb=verb[:32],
        topic=topic,
        target=target[:200],
        door=here.door,
        request_id=here.request_id,
        address=here.address[:64],
        before=_fitted(before),
        after=_fitted(after),
        detail=_fitted(detail),
    )
    try:
        entry.save(force_insert=True)
        _prune_sometimes()
    except (DatabaseError, InterfaceError) as exc:
        entry.at = entry.at or timezone.now()
        told = json.dumps({**row(entry), "id": None}, default=str)
        log.error("not on the audit trail, because %s: %s", exc, told)
        return None
    return entry


@contextlib.contextmanager
def of_steps(write: Callable[..., object]) -> Iterator[None]:
    """Around what is done in steps: where it breaks, `write` is told what was done.

    It gets the counts that the error has as `done`, and its code as `broke`.
    """
    try:
        yield
    except errors.BusError as exc:
        done = exc.facts.get("done", {})
        if any(done.values()):
            write(**done, broke=exc.code)
        raise


@contextlib.contextmanager
def of_changes(write: Callable[..., object]) -> Iterator[None]:
    """Around `topics.changed`: where nobody knows whether it was done, `write` is told
    of each change as well, with the code of the error as `broke`.
    """
    try:
        yield
    except errors.OutcomeUnknown as exc:
        for verb, before, after in exc.facts.get("changes", ()):
            write(verb, before=before, after=after, broke=exc.code)
        raise


@dataclass(frozen=True, slots=True)
class Sought:
    """Which entries: `who` and `target` hold these words, `verb`, `topic` and
    `request_id` are these, done at or after `since` and before `until`."""

    who: str = ""
    verb: str = ""
    topic: str = ""
    target: str = ""
    request_id: str = ""
    since: datetime | None = None
    until: datetime | None = None


def find(
    reader: roles.Principal, sought: Sought, count: int, before: int | None = None
) -> list[models.AuditEntry]:
    """Up to `count` entries below the id `before`, the newest first.

    A reader that is bound to topics sees what was done to these alone. What is older
    than `AUDIT_KEEP_DAYS` is not shown, pruned or not.
    """
    found = _fitting(reader, sought)
    if before is not None:
        found = found.filter(pk__lt=before)
    return list(found[:count])


def each(reader: roles.Principal, sought: Sought) -> Iterator[models.AuditEntry]:
    """All of them, as of now, read step by step: for exports of any length."""
    before: int | None = None
    while found := find(reader, sought, _STEP, before):
        yield from found
        before = found[-1].pk


def verbs() -> list[str]:
    """What has been done so far, for a choice."""
    names = models.AuditEntry.objects.order_by("verb").values_list("verb", flat=True)
    return list(names.distinct()[:200])


def row(entry: models.AuditEntry) -> dict[str, Any]:
    """An entry as clients and files get it."""
    return {
        "id": entry.pk,
        "at": entry.at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "who": entry.who,
        "role": entry.role,
        "verb": entry.verb,
        "topic": entry.topic,
        "target": entry.target,
        "door": entry.door,
        "request_id": entry.request_id,
        "address": entry.address,
        "before": entry.before,
        "after": entry.after,
        "detail": entry.detail,
    }


def prune() -> int:
    """Delete what is older than `AUDIT_KEEP_DAYS` (0: nothing); how many went."""
    oldest = _oldest()
    gone = 0
    for _ in range(_STEPS_MOST if oldest else 0):
        old = models.AuditEntry.objects.filter(at__lt=oldest).order_by("pk")
        ids = list(old.values_list("pk", flat=True)[:_STEP])
        gone += models.AuditEntry.objects.filter(pk__in=ids).delete()[0]
        if len(ids) < _STEP:
            break
    return gone


def _prune_sometimes() -> None:
    """Whoever writes looks once an hour: there is no duty of SQL but the trail's."""
    global _pruned_at
    now = time.monotonic()
    if _pruned_at is None or now - _pruned_at > _PRUNE_EVERY_S:
        _pruned_at = now
        prune()


def _oldest() -> datetime | None:
    days = conf.AUDIT_KEEP_DAYS
    return timezone.now() - timedelta(days=days) if days > 0 else None


def _fitting(
    reader: roles.Principal, sought: Sought
) -> QuerySet[models.AuditEntry, models.AuditEntry]:
    found = models.AuditEntry.objects.order_by("-pk")
    oldest = _oldest()
    wanted: dict[str, Any] = {
        "at__gte": max(filter(None, (oldest, sought.since)), default=None),
        "at__lt": sought.until,
        "who__icontains": sought.who,
        "target__icontains": sought.target,
        "verb": sought.verb,
        "topic": sought.topic,
        "request_id": sought.request_id,
    }
    if any(isinstance(value, str) and "\0" in value for value in wanted.values()):
        return found.none()  # no entry has it, and databases end a text there
    found = found.filter(**{name: value for name, value in wanted.items() if value})
    if reader.topics:
        reached = Q()
        for prefix in reader.topics:
            reached |= Q(topic__startswith=prefix)
        found = found.filter(reached)
    return found


def _fitted(value: Any) -> Any:
    """A value as it is, or its beginning and its size; NUL, which SQL has not, apart.

    Payloads are up to 256 KiB: the trail says what was changed, it keeps no copies.
    """
    if value is None:
        return None
    text = json.dumps(value, ensure_ascii=False, default=str).replace(
        "\\u0000", "\\ufffd"
    )
    size = len(text.encode("utf-8", "replace"))
    if size > _VALUE_MOST:
        return {"cut": text[:_CUT], "bytes": size}
    return json.loads(text)
