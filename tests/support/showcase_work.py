"""The work of the mesh that pages are looked at with."""

from __future__ import annotations

import asyncio
from typing import Any

import bus


async def run(payload: Any, task: Any) -> Any:
    """Does what the payload says: fails in some way, takes long, or is done."""
    how = payload.get("how") if isinstance(payload, dict) else None
    if how == "refused":
        raise ConnectionRefusedError("smtp.example.net:587 refused the connection")
    if how == "address":
        raise bus.GiveUp(f"no mailbox {payload['to']}")
    if how == "format":
        return _opened(payload)
    if how == "later":
        raise bus.Retry(3_600)
    if how == "long":
        await asyncio.sleep(600)
    return {"ok": True, "ms": 12 + payload.get("n", 0) % 40}


def _opened(payload: dict[str, Any]) -> Any:
    raise ValueError(f"{payload['file']}: not a JPEG, its first bytes are 3c 21 64 6f")
