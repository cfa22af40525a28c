"""How fast a count has grown of late."""

from __future__ import annotations

from collections import deque
from typing import Final

SPAN_S: Final = 60.0


class Rate:
    """The mean growth of a count over the last minute, or since it was first asked."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def per_minute(self, now: float, count: int) -> float:
        """How much it has grown per minute; `now` is a monotonic time in seconds."""
        seen = self._seen
        # The newest of those that are a minute old stays: the rate is over all of it.
        while len(seen) > 1 and now - seen[1][0] >= SPAN_S:
            seen.popleft()
        seen.append((now, count))
        then, before = seen[0]
        return round(60 * (count - before) / (now - then), 1) if now > then else 0.0
