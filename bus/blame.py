"""Who discarded letters, as far as the audit trail knows."""

from __future__ import annotations

from collections.abc import Iterable

from . import models
from .bulk.parts import Told


def reasons(told: Iterable[Told]) -> list[tuple[Told, str]]:
    """Letters of a bulk replay, each with why it was left out, and through whom."""
    told = list(told)
    gone = [(each.topic, each.id) for each in told if each.why == "discarded"]
    by = discarded_by(gone) if gone else {}
    out = []
    for each in told:
        who = by.get((each.topic, each.id)) if each.why == "discarded" else None
        out.append((each, f"{each.why} by {who}" if who else each.why))
    return out


def discarded_by(places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Topic and task id of letters that somebody discarded one by one -> by whom."""
    wanted = set(places)
    rows = models.AuditEntry.objects.filter(
        verb="discard", target__in={task_id for _, task_id in wanted}
    ).order_by("pk")
    found = {(row.topic, row.target): row.who for row in rows}
    return {place: who for place, who in found.items() if place in wanted}
