"""Parameters of the calls, as described."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter

from bus.conf import conf

from .basics import STATES
from .fleet import AGENT_STATES


def _in_query(name: str, text: str, kind: Any = str, **more: Any) -> OpenApiParameter:
    return OpenApiParameter(name, kind, "query", description=text, **more)


TOPIC: Final = _in_query("topic", "Which topic.", required=True)
TOPIC_OPTIONAL: Final = _in_query(
    "topic", "Which topic; without it all are asked. Links carry it: it is quicker."
)
STATE: Final = _in_query("state", "Only tasks in this state.", enum=STATES)
AGENT_STATE: Final = _in_query("state", "Only agents in this state.", enum=AGENT_STATES)
COUNT: Final = _in_query(
    "count",
    "How many, 1 to 1,000.",
    {"type": "integer", "minimum": 1, "maximum": 1000},
    default=50,
)
CURSOR: Final = _in_query("cursor", "`next` of the page before.")
AFTER: Final = _in_query("after", "An entry id: only newer rows, the oldest first.")
BEFORE: Final = _in_query("before", "An entry id: only older rows.")
WAIT: Final = _in_query(
    "wait",
    "Seconds to wait for its end.",
    {"type": "number", "minimum": 0, "maximum": conf.WAIT_MAX_S},
)
GROUP: Final = _in_query("group", "Only letters with this `fingerprint`.")
ERROR: Final = _in_query("error", "Only letters whose error says this, in any case.")
SINCE: Final = _in_query("since", "Died at this time or later.", OpenApiTypes.DATETIME)
UNTIL: Final = _in_query("until", "Died before this time.", OpenApiTypes.DATETIME)
TASK_ID: Final = OpenApiParameter("task_id", OpenApiTypes.UUID, "path")
AGENT_ID: Final = OpenApiParameter("agent_id", str, "path")
TOPIC_IN_PATH: Final = OpenApiParameter("topic", str, "path")
IDEMPOTENCY_KEY: Final = OpenApiParameter(
    "Idempotency-Key",
    str,
    "header",
    description="1 to 255 printable characters that name this task for a day or more: "
    "the same key again is the same task.",
)
