"""The beats of an agent that is not there, for a janitor of its own."""

from __future__ import annotations

from collections.abc import Callable


class Steady:
    """They have gone on for long, beside so many agents."""

    steady_s = 100.0

    def __init__(self, alive: Callable[[], int] = lambda: 1) -> None:
        self._alive = alive

    @property
    def alive(self) -> int:
        return self._alive()

    def hurry(self) -> None:
        """Nobody hears of it."""

    def confirmed(self) -> bool:
        return True
