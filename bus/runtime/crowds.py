"""A crowd: so many serve one topic that an idle one of them may look more rarely."""

from __future__ import annotations

from typing import Final

_CROWD: Final = 20  # who take the same tasks; from so many on they share the looks


def stretch(serving: int, most: float) -> float:
    """How many times as long as usual one of so many may wait, `most` at the most."""
    return min(max(serving / _CROWD, 1.0), most)
