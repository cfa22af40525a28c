"""Greets whoever a task names."""

from __future__ import annotations

from typing import Any

from bus import GiveUp, handler


@handler("hello")
async def greet(payload: Any, task: Any) -> dict[str, str]:
    """A greeting for `{"name": "…"}`; without a name no retry helps: a dead letter."""
    name = payload.get("name") if isinstance(payload, dict) else None
    if not isinstance(name, str) or not name.strip():
        raise GiveUp('nobody to greet: send {"name": "…"}')
    return {"greeting": f"Hello, {name.strip()}!"}
