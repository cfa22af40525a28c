"""Handlers for agents that tests run as processes."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import bus


async def echo(payload: Any, task: Any) -> Any:
    """Gives the payload back."""
    return payload


async def nap(payload: Any, task: Any) -> Any:
    """10 ms of waiting."""
    await asyncio.sleep(0.01)
    return payload


async def rest(payload: Any, task: Any) -> Any:
    """As many seconds of waiting as the payload says."""
    await asyncio.sleep(payload)
    return payload


async def told(payload: Any, task: Any) -> Any:
    """Makes the file that the payload names, then takes another second."""
    Path(payload).touch()
    await asyncio.sleep(1.0)
    return payload


def block(payload: Any, task: Any) -> Any:
    """10 ms on a thread."""
    time.sleep(0.01)
    return payload


async def deadly(payload: Any, task: Any) -> Any:
    """Kills its agent where the payload says so."""
    if isinstance(payload, dict) and payload.get("kill"):
        os._exit(137)
    await asyncio.sleep(0.005)
    return "survived"


async def failing(payload: Any, task: Any) -> Any:
    """Always fails."""
    raise ValueError(f"cannot do {payload}")


async def _leave() -> None:
    raise SystemExit(1)


async def exits_beside(payload: Any, task: Any) -> Any:
    """Has a task of its own that wants to end the process where the payload says so."""
    if payload == "exit":
        await asyncio.gather(asyncio.create_task(_leave()))
    return payload


async def stubborn(payload: Any, task: Any) -> Any:
    """Never ends, whatever one asks of it."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


def busy(payload: Any, task: Any) -> Any:
    """Asks for another try and says why."""
    raise bus.Retry(0.05, "the printer is busy")


def broken(payload: Any, task: Any) -> Any:
    """Fails one call deep."""
    raise ValueError(f"cannot do {payload}")
