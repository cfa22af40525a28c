"""The agent of the demo: takes the name of a file, gives back its metrics."""

from __future__ import annotations

from typing import Any

from bus import GiveUp, handler
from examples.stdlib_metrics import corpus, metrics


class DoesNotParse(GiveUp):
    """The file is no Python; `kind` says which error, dead letters are told by it."""

    # One required argument, so that the exception survives pickling between processes.
    def __init__(self, reason: str, kind: str = "SyntaxError") -> None:
        super().__init__(reason)
        self.kind = kind


class NotInCorpus(GiveUp):
    """The payload names no file this agent may read."""


# Parsing is CPU work, and CPython 3.11 miscounts its recursion when threads do it at
# once ("AST constructor recursion depth mismatch"); hence processes.
@handler("stdlib", cpu=True, timeout_s=60)
def measure_file(payload: Any, task: Any) -> dict[str, Any]:
    """Measure the file a payload names; what cannot be measured now never can be."""
    try:
        file = corpus.resolve(payload)
    except ValueError as exc:
        raise NotInCorpus(str(exc)) from exc
    try:
        return metrics.measure(file.read_bytes(), name=payload["path"])
    except metrics.Unparsable as exc:
        raise DoesNotParse(str(exc), exc.kind) from exc
