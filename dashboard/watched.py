"""Which results somebody watches: of a state, of an agent, with a text in them.

A page that was opened with a filter and the socket that keeps it current ask here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from bus import errors, messages
from dashboard import formats, search

Row = dict[str, Any]
STATES: Final = (messages.DONE, messages.CANCELLED, messages.DISCARDED)
NAMES: Final = ("state", "agent", "q")


@dataclass(frozen=True, slots=True)
class Watched:
    """Result rows of this state, of this agent, that carry this text (`search`); an
    empty text for what does not matter."""

    state: str = ""
    agent: str = ""
    q: str = ""

    @property
    def given(self) -> dict[str, str]:
        """What matters, by its name in the address and in the socket's first frame."""
        return {name: text for name, text in asdict(self).items() if text}

    def fits(self, row: Row) -> bool:
        """Whether a result row is one of them; rows by hand may hold anything."""
        if self.state and row.get("state", messages.DONE) != self.state:
            return False
        if self.agent and row.get("agent") != self.agent:
            return False
        if not self.q:
            return True
        error = row.get("error")
        said = [formats.error_line(error)] if isinstance(error, dict) else []
        values = (row.get("task"), row.get("result"))
        return search.carries(self.q)(values, [*said, str(row.get("id", ""))])


def of(form: Mapping[str, Any]) -> Watched:
    """What an address or a frame asks for; InvalidOption for what is no such thing."""
    told = {name: form.get(name, "") for name in NAMES}
    for name, text in told.items():
        if not isinstance(text, str) or len(text) > search.MOST:
            raise errors.InvalidOption(
                f"{name} is not a text of at most {search.MOST} characters"
            )
    state = told["state"]
    if state and state not in STATES:
        known = ", ".join(STATES)
        raise errors.InvalidOption(f"no result has the state {state!r:.40}: {known}")
    return Watched(state, told["agent"].strip(), told["q"].strip())
