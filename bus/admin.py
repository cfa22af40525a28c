"""What Django's admin shows of ours: tokens to revoke, the trail to read."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from . import models


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


@admin.register(models.Token)
class TokenAdmin(_ReadOnly):
    """Tokens are made with `manage.py token`, which shows them once."""

    list_display = ("name", "role", "token_key", "created", "last_used")
    list_filter = ("role",)
    search_fields = ("name", "token_key")


@admin.register(models.AuditEntry)
class AuditEntryAdmin(_ReadOnly):
    """Entries are evidence: nobody changes or deletes them here."""

    list_display = ("at", "who", "role", "verb", "topic", "target")
    list_filter = ("verb", "role")
    search_fields = ("who", "target", "topic")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
