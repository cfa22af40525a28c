"""From where the live feed goes on after a page was rendered."""

from __future__ import annotations

from typing import Any, Final

import bus
from dashboard import paging

Row = dict[str, Any]
# The first frame of a socket holds 64 KiB. What is left out is told from then on.
_CURSORS_MOST: Final = 400


def state(
    facts: list[Row],
    *,
    topic: str = "",
    results: paging.Page | None = None,
    dead: paging.Page | None = None,
    only: dict[str, str] | None = None,
) -> dict[str, Any]:
    """The `live-state` of a page: cursors of what it shows, and the topics it wants;
    `only` is its filter of results.

    A topic that had nothing when its counts were read starts at the beginning: what
    came since is not on the page. `topics` is None for all, also those that come later.
    """
    after: dict[str, str] = {}
    for page, stream, count in (
        (results, bus.result_stream, "results"),
        (dead, bus.dead_stream, "dead"),
    ):
        if page is not None:
            after |= {stream(name): head for name, head in page.heads.items()}
            empty = [row["topic"] for row in facts if not row[count]]
            after |= {
                stream(name): "0-0" for name in empty[: _CURSORS_MOST - len(after)]
            }
    found = {"after": after, "topics": [topic] if topic else None}
    return found | {"only": only} if only else found
