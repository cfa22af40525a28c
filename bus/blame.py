"""Who discarded letters, as far as the audit trail knows."""

from __future__ import annotations

from collections.abc import Iterable

from . import models


def discarded_by(places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Topic and task id of letters that somebody discarded one by one -> by whom."""
    wanted = set(places)
    rows = models.AuditEntry.objects.filter(
        verb="discard", target__in={task_id for _, task_id in wanted}
    ).order_by("pk")
    found = {(row.topic, row.target): row.who for row in rows}
    return {place: who for place, who in found.items() if place in wanted}
