"""The audit trail: who did what, written with every action of a person or token."""

from __future__ import annotations

from typing import Any

from . import models, roles


def record(
    principal: roles.Principal,
    verb: str,
    *,
    topic: str = "",
    target: str = "",
    **detail: Any,
) -> models.AuditEntry:
    """Write one entry; `target` is what was acted on, `detail` any JSON facts."""
    return models.AuditEntry.objects.create(
        who=principal.name[:200],
        role=principal.role,
        verb=verb,
        topic=topic,
        target=target[:200],
        detail=detail,
    )
