"""Slots of an agent: whatever becomes of one run, the next is not harmed by it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest

from bus.deliveries import Delivery
from bus.handlers import Handler
from bus.records import Record
from bus.runtime import runs
from bus.runtime.processes import Child, ProcessDied
from bus.runtime.runs import Run
from bus.runtime.slots import ThreadSlots
from tests.support import far_work
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow


def run_of(handler: Handler, folder: Path) -> Run:
    """A run that begins by making a file in the folder, and waits for another."""
    folder.mkdir()
    record = Record("1-1", 0, 0, 0, 0, "", "")
    held = Delivery("far", "1-1", folder.name, json.dumps(str(folder)), "", record, 0)
    return Run(held, handler, 60.0, 0.0)


def test_a_run_that_is_stopped_as_it_ends_takes_no_process_from_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = Handler("far", far_work.hold, cpu=True)
    first, second = (run_of(handler, tmp_path / name) for name in ("first", "second"))
    kill, begun = Child.kill, tmp_path / "second" / "begun"

    def late(child: Child) -> None:
        """A kill before which the run ends by itself, and the next would begin."""
        monkeypatch.setattr(Child, "kill", kill)
        (tmp_path / "first" / "go").touch()
        with contextlib.suppress(AssertionError):  # it waits for this kill
            wait_until(begun.exists, 0.5)
        kill(child)

    async def story() -> list[Run]:
        ended: asyncio.Queue[Run] = asyncio.Queue()
        slots = ThreadSlots(handler, 1, ended.put_nowait)
        for run in (first, second):
            slots.put(run)
        await asyncio.to_thread(wait_until, (tmp_path / "first" / "begun").exists, 30)
        monkeypatch.setattr(Child, "kill", late)
        slots.stop(first, runs.TIMED_OUT)
        (tmp_path / "second" / "go").touch()
        found: list[Any] = [
            await asyncio.wait_for(ended.get(), 30 * PATIENCE) for _ in range(2)
        ]
        await slots.close()
        return found

    assert asyncio.run(story()) == [first, second]
    assert (first.stopped, second.error) == (runs.TIMED_OUT, None)


def test_a_run_that_is_stopped_before_its_process_has_it_never_begins(
    tmp_path: Path,
) -> None:
    handler = Handler("far", far_work.hold, cpu=True)
    run, child = run_of(handler, tmp_path / "first"), Child(handler)

    with pytest.raises(ProcessDied, match="before it began"):
        child.call(run.context(str(tmp_path / "first")), lambda: False)

    child.kill()
    assert not (tmp_path / "first" / "begun").exists()
