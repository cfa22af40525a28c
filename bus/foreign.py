"""Entries that somebody else wrote: their payload, and what a letter keeps of them."""

from __future__ import annotations

import re
from typing import Any, Final

from . import errors, exact, messages

# What the mesh itself writes beside a payload; `as_entry` in Lua knows the same.
_META: Final = re.compile(r"e=[0-9]+(?:,.*)?", re.DOTALL)
_SHOWN_MOST: Final = 200  # characters of somebody else's text in a sentence


def payload_of(task_id: str, text: str, meta: str) -> Any:
    """The payload of a delivered entry; Malformed says what its writer did wrong."""
    if meta and not _META.fullmatch(meta):
        shown = repr(meta[:_SHOWN_MOST])
        raise errors.Malformed(
            f"the entry's field `meta` holds {shown}, which the mesh did not write; "
            "send `json` alone, with the payload",
            raw=meta,
        )
    if not text:
        raise errors.Malformed(
            "the entry has no field `json`, or an empty one; it must hold the payload "
            "as JSON",
            raw=text,
        )
    try:
        value = messages.decode(text)
    except errors.DecodeError as exc:
        said = str(exc).removeprefix("not JSON: ")
        raise errors.Malformed(
            f"the entry's field `json` is not JSON: {said}", raw=text
        ) from None
    # What was sent with an id of ours, and has not moved since, was looked at then.
    is_sent = not meta and task_id[14:15] == "7"
    if not is_sent and exact.is_rounded(text, value):
        raise errors.Malformed(
            "the entry's field `json` has an integer beyond 64 bits, which would be "
            "rounded; send it as text",
            raw=text,
        )
    return value


def kept_of(fields: dict[str, str]) -> bytes:
    """What the letter of an unreadable entry keeps as payload, so that nothing is lost.

    The payload where its `json` has one (a replay runs it), the text where that is all
    there is, else every field.
    """
    text = fields.get("json", "")
    if fields.keys() == {"json"}:
        return messages.dump(text)
    told = len(fields.get("meta", "")) <= _SHOWN_MOST  # in the letter's error, whole
    try:
        value = messages.decode(text)
        known = told and not exact.is_rounded(text, value)
        return messages.encode_kept(value if known else fields)
    except (errors.DecodeError, errors.InvalidPayload):
        return messages.dump(fields)
