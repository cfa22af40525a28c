"""The payloads of all figures: different objects of exactly 190 bytes of JSON."""

from __future__ import annotations

import json
from typing import Any, Final

SIZE_BYTES: Final = 190
BATCH: Final = 100  # what both sides send or read per round trip


def payload(number: int) -> dict[str, Any]:
    """A small job such as an application would send; `number` makes it unlike others.

    Nothing in it needs escaping and the number is padded, so the size never varies.
    """
    return {
        "action": "resize",
        "image": f"uploads/2024/11/{number:010d}.png",
        "width": 640,
        "height": 480,
        "quality": 0.85,
        "tags": ["thumbnail", "square"],
        "requested_by": "user-000042",
        "note": "x" * 21,
    }


def text(number: int) -> str:
    """The payload as the compact JSON that travels."""
    return json.dumps(payload(number), separators=(",", ":"))


def bare_id(number: int) -> str:
    """36 characters for a bare entry, as long as the id of a task."""
    return f"00000000-0000-7000-8000-{number:012d}"
