"""What Django's admin shows of ours: users, groups, tokens to revoke, the trail."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from django.contrib import admin
from django.contrib.auth import get_user_model
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group
from django.http import HttpRequest

from . import accounts, audit, models

_NAMES_MOST: Final = 20  # of objects deleted at once; the rest is counted


class _Trailed(admin.ModelAdmin):  # type: ignore[type-arg]
    """Whatever is done here is on the audit trail as well as in the admin's own log."""

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        self._record(request, "create", [obj])
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        # The message names the fields that were changed, never a password.
        self._record(request, "change", [obj], fields=message)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        self._record(request, "revoke" if self._tokens else "delete", queryset)
        return super().log_deletions(request, queryset)

    @property
    def _tokens(self) -> bool:
        return self.model is models.Token

    def _record(
        self, request: Any, verb: str, objects: Iterable[Any], **facts: Any
    ) -> None:
        who, kind = accounts.of_user(request.user), self.opts.verbose_name
        names = [getattr(each, "name", None) or str(each) for each in objects]
        if len(names) > _NAMES_MOST:
            facts["count"] = len(names)
        for name in names[:_NAMES_MOST]:
            audit.record(who, f"{verb} {kind}", target=name, **facts)


class _ReadOnly(_Trailed):
    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


admin.site.unregister(get_user_model())
admin.site.unregister(Group)


@admin.register(get_user_model())
class MeshUserAdmin(_Trailed, UserAdmin):  # type: ignore[type-arg]
    """Users; a role is given by one of the groups viewer, operator, admin, agent."""

    list_display = ("username", "roles", "is_active", "is_staff", "last_login")
    list_filter = ("groups", "is_active", "is_staff")

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).prefetch_related("groups")

    @admin.display(description="groups")
    def roles(self, user: Any) -> str:
        return ", ".join(group.name for group in user.groups.all()) or "–"


@admin.register(Group)
class MeshGroupAdmin(_Trailed, GroupAdmin):
    """Groups; those named like a role give it."""


@admin.register(models.Token)
class TokenAdmin(_ReadOnly):
    """Tokens are made where their text can be shown once: the dashboard's settings,
    `POST tokens`, `manage.py token`."""

    list_display = (
        *("name", "role", "token_key", "made_by", "created", "last_used", "expiry"),
    )
    list_filter = ("role",)
    search_fields = ("name", "token_key", "description")
    exclude = ("digest", "made_once")

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        accounts.revoke(obj)  # the service account goes with its last token

    def delete_queryset(self, request: HttpRequest, queryset: Any) -> None:
        for token in queryset:
            accounts.revoke(token)


@admin.register(models.AuditEntry)
class AuditEntryAdmin(_ReadOnly):
    """Entries are evidence: nobody changes or deletes them here."""

    list_display = ("at", "who", "role", "verb", "topic", "target", "door")
    list_filter = ("verb", "role", "door")
    search_fields = ("who", "target", "topic", "request_id")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False
