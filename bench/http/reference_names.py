"""The keys of the reference, for itself and for who cleans up behind it."""

from __future__ import annotations

TOKENS = "reference:tokens"  # hash of a token -> role


def of(topic: str) -> list[str]:
    """Entries, records, counters of a topic."""
    return [f"reference:{{{topic}}}:{what}" for what in ("tasks", "records", "counts")]
