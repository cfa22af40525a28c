"""Dead letters as they lie in their stream, whoever wrote them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from . import history, messages, records


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A task whose last attempt failed for good, with every attempt it had."""

    entry_id: str
    id: str
    topic: str
    payload: Any
    error: dict[str, Any]
    fingerprint: str
    fence: str
    attempts: tuple[dict[str, Any], ...]
    epoch: int
    options: str
    enqueued_at: str | None
    died_at: str
    replays: tuple[dict[str, Any], ...] = ()
    raw: dict[str, str] = field(repr=False, default_factory=dict)

    def row(self) -> dict[str, Any]:
        """The letter as the API, the live feed and the commands show it."""
        return {
            "entry_id": self.entry_id,
            "id": self.id,
            "topic": self.topic,
            "task": self.payload,
            "error": self.error,
            "fingerprint": self.fingerprint,
            "attempts": list(self.attempts),
            "replays": list(self.replays),
            "epoch": self.epoch,
            "fence": self.fence,
            "enqueued_at": self.enqueued_at,
            "died_at": self.died_at,
        }


def parse_letter(topic: str, entry_id: str, fields: dict[str, str]) -> DeadLetter:
    """A dead entry as a letter, also when somebody else wrote it."""
    meta = records.parse_options(fields.get("meta", ""))
    try:
        error = orjson.loads(fields.get("error", ""))
    except ValueError:
        error = None
    if not isinstance(error, dict):
        error = {"type": "Unknown", "message": fields.get("error", "")}
    enqueued = records.number(meta.pop("e", ""))
    epoch = records.number(meta.pop("epoch", ""))
    came_ms = messages.entry_ms(entry_id)
    # One that was brought back has a new place, and says itself when it died.
    died_ms = records.number(fields.get("died", ""))
    past = history.parse(fields.get("attempts", ""), epoch or 0)
    return DeadLetter(
        entry_id=entry_id,
        id=fields.get("id", ""),
        topic=topic,
        payload=_payload_of(fields),
        error=error,
        fingerprint=fields.get("fp", ""),
        fence=fields.get("fence", ""),
        attempts=past.attempts,
        epoch=past.epoch,
        options=",".join(f"{k}={v}" for k, v in meta.items()),
        enqueued_at=None if enqueued is None else messages.iso(enqueued),
        died_at=messages.iso(came_ms if died_ms is None else min(died_ms, came_ms)),
        replays=past.replays,
        raw=fields,
    )


_OURS: Final = frozenset(
    ("id", "json", "error", "fp", "fence", "attempts", "meta", "alias", "died")
)


def _payload_of(fields: dict[str, str]) -> Any:
    """What a replay runs: `json`, or else what somebody wrote in its place, since the
    letter may be the only one that has it."""
    raw_json = fields.get("json", "")
    if raw_json:
        body = messages.decode_or_text(raw_json)
        return body["payload"] if isinstance(body, dict) and "payload" in body else body
    if "payload" in fields:
        return messages.decode_or_text(fields["payload"])
    others = {name: text for name, text in fields.items() if name not in _OURS}
    return others or raw_json


def said(error: dict[str, Any]) -> str:
    """The error of a letter or a failure group, `Type: message`."""
    return f"{error.get('type')}: {error.get('message')}"


def executions(attempts: tuple[dict[str, Any], ...], epoch: int) -> int:
    """The highest attempt of an epoch among the attempts on record."""
    numbers = [row.get("attempt", 0) for row in attempts if row.get("epoch") == epoch]
    return max((n for n in numbers if isinstance(n, int)), default=0)


def discarded_row(letter: DeadLetter) -> bytes:
    """The result row of a letter that is discarded."""
    return messages.encode_kept(
        {
            "id": letter.id,
            "topic": letter.topic,
            "state": messages.DISCARDED,
            "task": letter.payload,
            "result": None,
            "error": letter.error,
            "agent": None,
            "attempt": executions(letter.attempts, letter.epoch),
            "fence": letter.fence,
            "enqueued_at": letter.enqueued_at,
            "started_at": None,
            "finished_at": letter.died_at,
            **records.own(letter.options),
        }
    )
