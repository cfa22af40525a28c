"""What several descriptions share: any JSON, what may be missing or null, problems."""

from __future__ import annotations

from typing import Any, Final

from rest_framework import serializers as s

from bus import agents, failures, messages, topics
from bus.bulk import record

STATES: Final = list(messages.STATES)
ANY_STATES: Final = [*STATES, *(x for x in record.STATES if x not in STATES)]


TOPIC: Final = f"^{topics.NAME}$"
AGENT: Final = f"^{agents.ID}$"
FINGERPRINT: Final = f"^{failures.FINGERPRINT}$"


class AnyJSON(s.JSONField):
    """Any JSON value, null among them."""


OPTIONAL: Final[dict[str, Any]] = {"required": False}
REPLAYS: Final = (
    "Epoch, time, by whom, of which letter; the payload that an edited one replaced."
)
NULL: Final[dict[str, Any]] = {"allow_null": True}


class ProblemField(s.Serializer):
    """One wrong field of a request."""

    pointer = s.CharField(help_text="JSON pointer into the body, or ?parameter.")
    detail = s.CharField()


class Problem(s.Serializer):
    """An error (RFC 9457); `code` is stable, the sentences are not."""

    type = s.CharField()
    title = s.CharField()
    status = s.IntegerField()
    code = s.CharField()
    detail = s.CharField()
    errors = ProblemField(many=True, **OPTIONAL)
    retry_after_ms = s.IntegerField(**OPTIONAL)
    outcome = s.ChoiceField(["not_written", "unknown"], **OPTIONAL)
    state = s.ChoiceField(
        ANY_STATES,
        **OPTIONAL,
        help_text="409 of a replay or discard: how the task, or bulk replay, stands.",
    )
    topics = s.ListField(
        child=s.CharField(), **OPTIONAL, help_text="409 several_topics: which to name."
    )
    id = s.CharField(
        **OPTIONAL, help_text="503: the task to send again; 500: what to look for."
    )
