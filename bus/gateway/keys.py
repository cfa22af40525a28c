"""The keys of the gateway, of which none belongs to a topic.

flight   hash  who leads a generation; 3 s
lines    list  what followers of that leader are told; 10 s
figures  hash  a ring of 60 minutes -> packed counts and histograms; 2 h
running  hash  generation -> `until ms|to end|row`; 3 s after the last sign of life
"""

from __future__ import annotations

from typing import Final

FIGURES: Final = "mesh:ollama:{ollama}:figures"
RUNNING: Final = "mesh:ollama:{ollama}:running"


def flight_keys(digest: str, leader: str) -> list[str]:
    """Keys of a flight and of the lines that one leader told."""
    return [f"mesh:flight:{{{digest}}}", f"mesh:flight:{{{digest}}}:{leader}"]
