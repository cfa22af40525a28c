"""The handler behind the pages that browser tests look at."""

from __future__ import annotations

from typing import Any

import bus


async def run(payload: Any, task: Any) -> Any:
    """Gives the payload back, or gives up where it says so."""
    if isinstance(payload, dict) and payload.get("fail"):
        raise bus.GiveUp(f"cannot read page {payload['fail']}")
    return payload
