"""Examples in the description of the API."""

from __future__ import annotations

from typing import Any, Final

from drf_spectacular.utils import OpenApiExample

_ID: Final = "0198c0de-0000-7000-8000-000000000001"
_PAYLOAD: Final = {"image": "cat.png", "width": 640}
_ACCEPTED: Final = {
    "id": _ID,
    "topic": "resize",
    "state": "waiting",
    "durability": "aof",
}


def _asked(name: str, value: Any) -> OpenApiExample:
    return OpenApiExample(name, value=value, request_only=True)


def _told(name: str, value: Any, status: int = 200) -> OpenApiExample:
    return OpenApiExample(
        name, value=value, response_only=True, status_codes=[str(status)]
    )


ENQUEUE: Final = [
    _asked("a task", {"topic": "resize", "task": _PAYLOAD}),
    _asked(
        "later, tried twice",
        {"topic": "resize", "task": _PAYLOAD, "delay_s": 60, "max_attempts": 2},
    ),
    _told("accepted", _ACCEPTED, 201),
    _told("accepted before", _ACCEPTED),
]
_TOKEN: Final = {
    "name": "resizer",
    "role": "agent",
    "topics": ["images:"],
    "description": "The agents on host 7",
}
TOKEN: Final = [
    _asked("for agents of some topics", _TOKEN),
    _asked(
        "until the end of the year",
        {"name": "ci", "role": "operator", "expires_at": "2099-12-31T23:59:59Z"},
    ),
    _told(
        "its text, this once",
        {
            "key": "9f2c41d0a7be563",
            **_TOKEN,
            "owner": "service:resizer",
            "made_by": "admin",
            "created_at": "2026-01-31T12:00:00.000Z",
            "expires_at": None,
            "last_used_at": None,
            "ended": False,
            "token": "9f2c41d0a7be563…",
        },
        201,
    ),
]
BATCH: Final = [
    _asked(
        "two tasks",
        {
            "tasks": [
                {"topic": "resize", "task": _PAYLOAD},
                {"topic": "resize", "task": _PAYLOAD, "delay_s": 60},
            ]
        },
    ),
    _told(
        "one of each",
        {
            "results": [
                {"index": 0, "status": 201, **_ACCEPTED},
                {
                    "index": 1,
                    "status": 429,
                    "error": {
                        "type": "urn:mesh:problem:topic_full",
                        "title": "The topic is full",
                        "status": 429,
                        "code": "topic_full",
                        "detail": "topic 'resize' is full",
                        "retry_after_ms": 1000,
                    },
                },
            ]
        },
    ),
]
TASK: Final = [
    _told(
        "done",
        {
            "id": _ID,
            "topic": "resize",
            "state": "done",
            "task": _PAYLOAD,
            "attempt": 1,
            "epoch": 0,
            "agent": "agent-1",
            "enqueued_at": "2026-01-31T12:00:00.000Z",
            "due_at": None,
            "started_at": "2026-01-31T12:00:00.001Z",
            "ended_at": "2026-01-31T12:00:00.250Z",
            "max_attempts": None,
            "timeout_s": None,
            "cancel_requested": False,
            "attempts": [],
            "replays": [],
            "again_of": None,
            "result": {"bytes": 12345},
            "timeline": [
                {
                    "at": "2026-01-31T12:00:00.000Z",
                    "what": "enqueued",
                    "agent": None,
                    "detail": None,
                }
            ],
            "explain": "It was done by agent agent-1 at 2026-01-31T12:00:00.250Z.",
        },
    )
]
RESULTS: Final = [
    _told(
        "one result",
        {
            "results": [
                {
                    "entry_id": "1769860800250-0",
                    "id": _ID,
                    "topic": "resize",
                    "state": "done",
                    "task": _PAYLOAD,
                    "result": {"bytes": 12345},
                    "agent": "agent-1",
                    "attempt": 1,
                    "fence": "1769860800000-0.0",
                    "enqueued_at": "2026-01-31T12:00:00.000Z",
                    "started_at": "2026-01-31T12:00:00.001Z",
                    "finished_at": "2026-01-31T12:00:00.250Z",
                    "epoch": 0,
                    "attempts": [],
                    "replays": [],
                    "max_attempts": None,
                    "timeout_s": None,
                    "again_of": None,
                }
            ],
            "next": None,
        },
    )
]
STREAM: Final = [
    _told(
        "a result, then a gap",
        "retry: 1234\n\n"
        "event: result\nid: 1769860800250-0/17\n"
        'data: {"entry_id":"1769860800250-0","id":"'
        + _ID
        + '","topic":"resize","state":"done",…}\n\n'
        "event: gap\nid: 1769860800990-2/40\n"
        'data: {"topic":"resize","missed":23}\n\n',
    )
]
REPLAY: Final = [
    _asked("as it was", {}),
    _asked("with another payload", {"task": {"image": "dog.png", "width": 640}}),
    _told("replayed", {"id": _ID, "topic": "resize", "state": "waiting"}),
]
BULK_REPLAY: Final = [
    _asked("what it would be of", {"topics": ["resize"], "dry_run": True}),
    _asked(
        "carefully",
        {
            "topics": ["resize"],
            "error": "timed out",
            "since": "2026-01-31T12:00:00Z",
            "canary": True,
            "max_failure_rate": 0.05,
            "rate": 20,
        },
    ),
    _asked("these two", {"ids": [_ID, "0198c0de-0000-7000-8000-000000000002"]}),
]
BULK_PACE: Final = [
    _asked("slower", {"rate": 5}),
    _asked("as fast as it goes", {"rate": None}),
]
_HELD: Final = {"topic": "resize", "id": _ID, "fence": "1769860800000-0.0"}
CLAIM: Final = [
    _asked(
        "up to ten tasks",
        {"agent_id": "agent-1", "count": 10, "wait_s": 20, "claim_id": "7f3a"},
    ),
    _told(
        "one came",
        {
            "deliveries": [
                {
                    **_HELD,
                    "task": _PAYLOAD,
                    "attempt": 1,
                    "epoch": 0,
                    "timeout_s": None,
                    "lease_s": 15,
                }
            ],
            "drain": False,
        },
    ),
]
COMPLETIONS: Final = [
    _asked("one", {"deliveries": [{**_HELD, "result": {"bytes": 12345}}]}),
    _told("it counted", {"deliveries": [{**_HELD, "outcome": "ok"}]}),
]
FAILURES: Final = [
    _asked(
        "try again in a minute",
        {
            "deliveries": [
                {
                    **_HELD,
                    "error": {"type": "IOError", "message": "disk full"},
                    "delay_s": 60,
                }
            ]
        },
    ),
    _told(
        "it will be", {"deliveries": [{**_HELD, "outcome": "ok", "state": "delayed"}]}
    ),
]
DELIVERIES: Final = [
    _asked("one", {"deliveries": [_HELD]}),
    _told("done", {"deliveries": [{**_HELD, "outcome": "ok"}]}),
]
HEARTBEAT: Final = [
    _asked("with what it has in hand", {"ttl_seconds": 60, "deliveries": [_HELD]})
]
_MOVED: Final = {"id": _ID, "topic": "resize", "state": "waiting"}
RUN: Final = [
    _told("started, or replayed", {**_MOVED, "again_of": None}),
    _told(
        "once more",
        {**_MOVED, "id": _ID[:-1] + "2", "again_of": _ID},
        201,
    ),
]
REGISTRATION: Final = [
    _asked(
        "an agent",
        {
            "agent_id": "agent-1",
            "agent_type": "resizer",
            "ttl_seconds": 60,
            "meta": {"version": "1.2"},
            "lease_s": 30,
        },
    )
]
TOPIC_CHANGE: Final = [
    _asked("pause it", {"paused": True}),
    _asked("limits", {"backlog_max": 5000, "max_attempts": None}),
]
PURGE: Final = [_asked("of what waits", {"what": "waiting"})]
