"""From where the live feed goes on after a page was rendered."""

from __future__ import annotations

from typing import Any

import bus
from dashboard import paging

Row = dict[str, Any]


def state(
    facts: list[Row],
    *,
    topic: str = "",
    results: paging.Page | None = None,
    dead: paging.Page | None = None,
) -> dict[str, Any]:
    """The `live-state` of a page: cursors of what it shows, and the topics it wants.

    A topic that had nothing when its counts were read starts at the beginning: what
    came since is not on the page. `topics` is None for all, also those that come later.
    """
    after = {}
    for row in facts:
        name = row["topic"]
        if results is not None and (name in results.heads or not row["results"]):
            after[bus.result_stream(name)] = results.heads.get(name, "0-0")
        if dead is not None and (name in dead.heads or not row["dead"]):
            after[bus.dead_stream(name)] = dead.heads.get(name, "0-0")
    return {"after": after, "topics": [topic] if topic else None}
