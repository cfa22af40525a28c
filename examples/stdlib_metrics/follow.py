"""Follows how tasks end, from a moment before they were sent."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import bus
from bus import dead, results


class Ends:
    """Which tasks are done and which are dead, read from the streams' cursors on."""

    def __init__(self, topic: str) -> None:
        self.done: dict[str, dict[str, Any]] = {}
        self.dead: dict[str, bus.DeadLetter] = {}
        self._topic = topic
        self._result_cursor = results.last_result_id(topic)
        self._dead_cursor = dead.last_dead_id(topic)

    def read(self, ours: Set[str]) -> int:
        """Take in what ended since the last call, waiting a little; how many."""
        before = len(self.done) + len(self.dead)
        for entry_id, row in results.results_after(
            self._topic, self._result_cursor, 1000, block_ms=200
        ):
            self._result_cursor = entry_id
            if row.get("id") in ours:
                self.done[row["id"]] = row
        for letter in dead.dead_after(self._topic, self._dead_cursor, 1000):
            self._dead_cursor = letter.entry_id
            if letter.id in ours:
                self.dead[letter.id] = letter
        return len(self.done) + len(self.dead) - before
