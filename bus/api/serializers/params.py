"""Parameters of the calls, as described."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from bus.conf import conf

from .basics import AGENT as AGENT_PATTERN
from .basics import FINGERPRINT, STATES
from .basics import TOPIC as TOPIC_PATTERN
from .fleet import AGENT_STATES


def _in_query(name: str, text: str, kind: Any = str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, "query", description=text, **more)


def _shaped(pattern: str, **more: Any) -> dict[str, Any]:
    return {"type": "string", "pattern": pattern, **more}


_TOPIC: Final = _shaped(TOPIC_PATTERN)
_ENTRY: Final = _shaped("^[0-9]{1,19}-[0-9]{1,19}$")
_CURSOR: Final = _shaped("^[0-9]{1,20}-[0-9]{1,20}(/[0-9]{1,19})?$")

TOPIC: Final = _in_query("topic", "Which topic.", _TOPIC, required=True)
TOPIC_OPTIONAL: Final = _in_query(
    "topic",
    "Which topic; without it all are asked. Links carry it: it is quicker.",
    _TOPIC,
)
STATE: Final = _in_query("state", "Only tasks in this state.", enum=STATES)
AGENT_STATE: Final = _in_query("state", "Only agents in this state.", enum=AGENT_STATES)
COUNT: Final = _in_query(
    "count",
    "How many, 1 to 1,000.",
    {"type": "integer", "minimum": 1, "maximum": 1000},
    default=50,
)
CURSOR: Final = _in_query(
    "cursor", "`next` of the page before.", _shaped("^[A-Za-z0-9_-]+$")
)
AFTER: Final = _in_query(
    "after", "An entry id: only newer rows, the oldest first.", _ENTRY
)
AFTER_CURSOR: Final = _in_query(
    "after",
    "An event's id, or an entry id: only what is newer. `0-0` is all there is.",
    _CURSOR,
)
LAST_EVENT_ID: Final = OpenApiParameter(
    "Last-Event-ID",
    _CURSOR,
    "header",
    description="The same, as browsers send it when they come back; it comes first.",
)
BEFORE: Final = _in_query("before", "An entry id: only older rows.", _ENTRY)
WAIT: Final = _in_query(
    "wait",
    "Seconds to wait for its end.",
    {"type": "number", "minimum": 0, "maximum": conf.WAIT_MAX_S},
)
GROUP: Final = _in_query(
    "group", "Only letters with this `fingerprint`.", _shaped(FINGERPRINT)
)
ERROR: Final = _in_query("error", "Only letters whose error says this, in any case.")
SINCE: Final = _in_query("since", "Died at this time or later.", OpenApiTypes.DATETIME)
UNTIL: Final = _in_query("until", "Died before this time.", OpenApiTypes.DATETIME)
TASK_ID: Final = OpenApiParameter("task_id", OpenApiTypes.UUID, "path")
AGENT_ID: Final = OpenApiParameter("agent_id", _shaped(AGENT_PATTERN), "path")
FORCE: Final = _in_query(
    "force", "Delete it while agents run its tasks: they end cancelled.", bool
)
TOPIC_IN_PATH: Final = OpenApiParameter("topic", _TOPIC, "path")
REQUEST_KEY: Final = OpenApiParameter(
    "Idempotency-Key",
    {"type": "string", "minLength": 1},
    description="Any text that names this request: sent again it changes nothing.",
    location="header",
)


def _key(most: int, text: str) -> OpenApiParameter:
    shape = _shaped("^[ -~]+$", minLength=1, maxLength=most)
    return OpenApiParameter("Idempotency-Key", shape, "header", description=text)


IDEMPOTENCY_KEY: Final = _key(
    255,
    "1 to 255 printable characters that name this task for a day or more: the same key "
    "again is the same task.",
)
BATCH_KEY: Final = _key(
    240,
    "1 to 240 printable characters that name this batch: each task is known by it and "
    "its place.",
)
