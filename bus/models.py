"""What belongs in SQL: tokens, the trail of what people did, what they saved."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import models
from knox.models import AbstractAuthToken

from . import roles

_ROLES = [(role, role) for role in roles.ROLES]


class Token(AbstractAuthToken):  # type: ignore[misc]
    """A bearer token, stored as its hash; it acts with its own role and topics."""

    name = models.CharField(max_length=100)
    description = models.CharField(max_length=200, blank=True)
    role = models.CharField(max_length=16, choices=_ROLES)
    topics: Any = models.JSONField(default=list, blank=True)  # prefixes; empty: all
    made_by = models.CharField(max_length=200, blank=True)
    last_used = models.DateTimeField(null=True, blank=True)  # to the minute
    # A form or request that is sent twice makes one token: the other has no text.
    made_once: Any = models.CharField(  # noqa: DJ001 - unique, and most have none
        max_length=64, null=True, unique=True, editable=False
    )

    def __str__(self) -> str:
        return f"{self.name} ({self.role}, {self.token_key}…)"

    def has_ended(self, now: datetime) -> bool:
        """Whether its time is over; it opens nothing then, and stays in the list."""
        return self.expiry is not None and now >= self.expiry


class AuditEntry(models.Model):
    """One action of somebody, as it was asked for; never changed afterwards."""

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    who = models.CharField(max_length=200)
    role = models.CharField(max_length=16, blank=True)
    verb = models.CharField(max_length=32)
    topic = models.CharField(max_length=64, blank=True, db_index=True)
    target = models.CharField(max_length=200, blank=True)
    door = models.CharField(max_length=16, blank=True)  # api, page, admin, command
    request_id = models.CharField(max_length=64, blank=True)
    address = models.CharField(max_length=64, blank=True)
    before: Any = models.JSONField(null=True, blank=True)
    after: Any = models.JSONField(null=True, blank=True)
    detail: Any = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        verbose_name_plural = "audit trail"

    def __str__(self) -> str:
        return f"{self.who} {self.verb} {self.target}"


class SavedView(models.Model):
    """The filters of a list of the dashboard under a name, for one user."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+"
    )
    page = models.CharField(max_length=32)
    name = models.CharField(max_length=40)
    query = models.CharField(max_length=4_000)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["user", "page", "name"], name="one_view_of_a_name"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.page}"
