"""Tokens and the audit trail, as described."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema_serializer
from rest_framework import serializers as s

from bus import exports, roles, whence

from .basics import NULL, OPTIONAL, AnyJSON

_ROLES: Final = list(roles.ROLES)
_PREFIXES: Final = "Prefixes of the topics it sees and touches; empty: all."


class NewToken(s.Serializer):
    """A token to be made."""

    name = s.CharField(max_length=100, help_text="Who will use it.")
    role = s.ChoiceField(_ROLES)
    topics = s.ListField(
        child=s.CharField(max_length=63), **OPTIONAL, max_length=50, help_text=_PREFIXES
    )
    description = s.CharField(**OPTIONAL, max_length=200, allow_blank=True)
    expires_at = s.DateTimeField(**OPTIONAL, help_text="When it ends; else never.")


class Token(s.Serializer):
    """A token, without its text."""

    key = s.CharField(help_text="The beginning of its text, by which it is named.")
    name = s.CharField()
    description = s.CharField()
    role = s.ChoiceField(_ROLES)
    topics = s.ListField(child=s.CharField(), help_text=_PREFIXES)
    owner = s.CharField(help_text="A user, or a service account of its own.")
    made_by = s.CharField(help_text="Empty for those that a command made before.")
    created_at = s.DateTimeField()
    expires_at = s.DateTimeField(**NULL)
    last_used_at = s.DateTimeField(**NULL, help_text="To the minute.")
    ended = s.BooleanField(help_text="Whether its time is over.")


class MadeToken(Token):
    """A token, and this once its text."""

    token = s.CharField(help_text="`Authorization: Bearer` with this. Not kept here.")


@extend_schema_serializer(many=False)
class TokenList(s.Serializer):
    """A page of tokens."""

    tokens = Token(many=True)
    next = s.CharField(**NULL)


class AuditEntry(s.Serializer):
    """Something somebody did."""

    id = s.IntegerField()
    at = s.DateTimeField()
    who = s.CharField(help_text="The user, the name of the token, or the command's.")
    role = s.CharField()
    verb = s.CharField()
    topic = s.CharField(help_text="Empty where it is of none.")
    target = s.CharField(help_text="What it was done to: a task, topic, agent, token.")
    door = s.ChoiceField([*whence.DOORS, ""])
    request_id = s.CharField(help_text="`X-Request-ID` of the request.")
    address = s.CharField(help_text="From where the request came.")
    before = AnyJSON(help_text="What was changed, as it was; cut if long.")
    after = AnyJSON()
    detail = s.DictField()


@extend_schema_serializer(many=False)
class AuditList(s.Serializer):
    """A page of the audit trail."""

    entries = AuditEntry(many=True)
    next = s.CharField(**NULL)


TOKEN_KEY: Final = OpenApiParameter(
    "key", str, "path", description="`key` of a token, whole."
)


def _asked(name: str, text: str, kind: Any = str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, "query", description=text, **more)


AUDIT_WHO: Final = _asked("who", "Only of those whose name holds this, in any case.")
AUDIT_VERB: Final = _asked("verb", "Only this, such as `replay`.")
AUDIT_TOPIC: Final = _asked("topic", "Only what was done to this topic.")
AUDIT_TARGET: Final = _asked("target", "Only what was done to this, or a part of it.")
AUDIT_REQUEST: Final = _asked("request_id", "Only of this request.")
AUDIT_SINCE: Final = _asked("since", "At this time or later.", OpenApiTypes.DATETIME)
AUDIT_UNTIL: Final = _asked("until", "Before this time.", OpenApiTypes.DATETIME)
FORMAT: Final = _asked(
    "format",
    "A page of JSON, or all of the list as a file.",
    enum=["json", *exports.FORMATS],
    default="json",
)
# The other answers of a list that can be had as a file.
FILES: Final[dict[Any, Any]] = {
    (200, "application/jsonl"): OpenApiTypes.STR,
    (200, "text/csv"): OpenApiTypes.STR,
}
