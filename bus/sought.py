"""Which dead letters somebody means: of a topic, alike, saying something, of a time."""

from __future__ import annotations

from dataclasses import dataclass

from .letters import DeadLetter, said
from .messages import entry_ms, iso_ms


@dataclass(frozen=True, slots=True)
class Sought:
    """Which dead letters: of which topics, alike, whose error says, died when (ms)."""

    topics: tuple[str, ...]
    group: str | None = None
    error: str | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def fits(self, letter: DeadLetter) -> bool:
        """Whether the letter is one of them, its topic and group apart."""
        died = iso_ms(letter.died_at) or 0
        if self.until_ms is not None and died >= self.until_ms:
            return False
        if self.since_ms is not None and died < self.since_ms:
            return False
        if self.error is None:
            return True
        return self.error.lower() in said(letter.error).lower()

    def passed(self, letter: DeadLetter) -> bool:
        """Whether this letter, and so all behind it, came too early.

        None died after it came; one that was brought back died before.
        """
        return self.since_ms is not None and entry_ms(letter.entry_id) < self.since_ms
