"""The status vocabulary: one icon, word and tone per state of a task or an agent.

A state is never told by colour alone. Tones are `quiet`, `busy`, `good`, `warn`, `bad`
and `off`; the stylesheet gives each its colours, icons are symbols of the sprite.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Status:
    """How one state looks."""

    word: str
    icon: str
    tone: str
    says: str


TASKS: Final = {
    "waiting": Status("waiting", "clock", "quiet", "waits for an agent"),
    "running": Status("running", "loader", "busy", "an agent works on it"),
    "delayed": Status("delayed", "timer", "warn", "scheduled, or waits for its retry"),
    "done": Status("done", "circle-check", "good", "ended with a result"),
    "dead": Status("dead", "skull", "bad", "failed for good; replay or discard it"),
    "cancelled": Status("cancelled", "ban", "off", "somebody cancelled it"),
    "discarded": Status("discarded", "trash-2", "off", "a dead letter put away"),
}
AGENTS: Final = {
    "live": Status("live", "zap", "busy", "works"),
    "idle": Status("idle", "coffee", "good", "has nothing in flight"),
    "late": Status("late", "hourglass", "warn", "missed two heartbeats"),
    "deaf": Status("deaf", "ear-off", "bad", "beats, but cannot read tasks"),
    "draining": Status("draining", "log-out", "warn", "finishes what it has in hand"),
    "gone": Status("gone", "unplug", "off", "stopped, or was silent for too long"),
}
REPLAYS: Final = {
    "frozen": Status("frozen", "hourglass", "quiet", "chosen, not started"),
    "running": Status("running", "loader", "busy", "replays, or waits for outcomes"),
    "paused": Status("paused", "pause", "warn", "somebody paused it"),
    "stopped": Status("stopped", "triangle-alert", "bad", "it stopped itself"),
    "done": Status("done", "circle-check", "good", "every letter had its turn"),
    "cancelled": Status("cancelled", "ban", "off", "somebody cancelled it"),
}
# What came of a letter that was replayed in bulk, or not.
OUTCOMES: Final = {"dead": "bad", "failed": "bad", "unknown": "warn"}
# Events of a task's life that are no state of it.
EVENTS: Final = {
    "enqueued": "quiet",
    "started": "busy",
    "failed": "bad",
    "lost": "warn",
    "replayed": "busy",
    "restored": "warn",
    "due": "warn",
    "cancel asked for": "warn",
}


def of_task(state: object) -> Status:
    """The status of a task's state; a word nobody knows is shown as it is."""
    return _of(TASKS, state)


def of_replay(state: object) -> Status:
    """The status of a bulk replay's state."""
    return _of(REPLAYS, state)


def of_agent(state: object) -> Status:
    """The status of an agent's state."""
    return _of(AGENTS, state)


def _of(known: dict[str, Status], state: object) -> Status:
    word = str(state)
    return known.get(word) or Status(word[:32], "circle-dashed", "off", "unknown state")
