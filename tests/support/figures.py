"""Durations and errors of many operations, safe to record from any thread."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Figures:
    """Durations in seconds, with errors kept beside them."""

    def __init__(self) -> None:
        self.durations: list[float] = []
        self.errors: list[BaseException] = []
        self._lock = threading.Lock()
        self._began = time.monotonic()

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Record one operation; its exception is kept, not raised."""
        began = time.monotonic()
        try:
            yield
        except Exception as exc:
            with self._lock:
                self.errors.append(exc)
        else:
            with self._lock:
                self.durations.append(time.monotonic() - began)

    @property
    def count(self) -> int:
        """Operations that succeeded."""
        return len(self.durations)

    @property
    def rate(self) -> float:
        """Successful operations per second since the figures were made."""
        return self.count / max(time.monotonic() - self._began, 1e-9)

    @property
    def mean_s(self) -> float:
        """Mean duration."""
        return statistics.fmean(self.durations)

    @property
    def error_rate(self) -> float:
        """Share of operations that failed."""
        total = len(self.durations) + len(self.errors)
        return len(self.errors) / total if total else 0.0

    def percentile_s(self, share: float) -> float:
        """The duration below which this share (0 to 1) of operations stayed."""
        ordered = sorted(self.durations)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]
