"""For how long this process stood still: no promise is broken by what nobody ran."""

from __future__ import annotations

import threading
import time

_STEP_S = 0.02
_NOISE_S = 0.05  # by which a step may be late anywhere


class Stalls:
    """Counts from `with` to its end; a machine with others on it takes its time."""

    def __init__(self) -> None:
        self.total_s = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Stalls:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        over = False
        while not over:
            began = time.monotonic()
            over = self._over.wait(_STEP_S)
            late_s = time.monotonic() - began - _STEP_S
            if late_s > _NOISE_S:
                self.total_s += late_s
