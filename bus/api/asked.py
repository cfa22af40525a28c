"""What query strings ask for, checked: parameters to arguments of the bus."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Final

from django.http import QueryDict

from bus import agents, failures, records
from bus.conf import conf

from .members import NO_TIME, invalid, parsed_time, unknown
from .problems import Problem

COUNT_DEFAULT: Final = 50
COUNT_MOST: Final = 1_000


def query_of(query: QueryDict, known: Collection[str]) -> None:
    """Refuse parameters the call does not have, or has twice: a typing mistake in a
    filter must not look like a list without it."""
    wrong = [(f"?{name[:80]}", unknown(known)) for name in query if name not in known]
    twice = [name for name in known if len(query.getlist(name)) > 1]
    wrong += [(f"?{name}", "is given more than once") for name in twice]
    if wrong:
        raise invalid(wrong)


def topic_of(query: Mapping[str, str]) -> str:
    """The topic a list is asked of; Problem if there is none."""
    topic = query.get("topic")
    if topic is None:
        raise invalid([("?topic", "is missing: which topic?")])
    return topic


def group_of(query: Mapping[str, str]) -> str | None:
    """A failure's fingerprint, 16 hex digits: it becomes part of a key's name."""
    text = query.get("group")
    if text is not None and not re.fullmatch(failures.FINGERPRINT, text):
        raise invalid([("?group", f"{text[:40]!r} is not a fingerprint")])
    return text


def agent_state_of(query: Mapping[str, str]) -> str | None:
    """A state of agents; None where none is named."""
    text = query.get("state")
    if text is not None and text not in agents.STATES:
        known = ", ".join(agents.STATES)
        raise invalid([("?state", f"{text[:40]!r} is none of {known}")])
    return text


def count_of(query: Mapping[str, str]) -> int:
    """How long a page is to be: 1 to 1,000, 50 where nothing is said."""
    text = query.get("count")
    if text is None:
        return COUNT_DEFAULT
    count = records.number(text)
    if count is None or not 1 <= count <= COUNT_MOST:
        raise invalid([("?count", f"{text[:40]!r} is not 1 to {COUNT_MOST:,}")])
    return count


def flag_of(query: Mapping[str, str], name: str) -> bool:
    """`true` or `false`, which it is where nothing is said."""
    text = query.get(name, "false")
    if text not in ("true", "false"):
        raise invalid([(f"?{name}", f"{text[:40]!r} is not true or false")])
    return text == "true"


def wait_of(query: Mapping[str, str]) -> float:
    """For how many seconds to wait, up to `WAIT_MAX_S`; 0 where nothing is said."""
    text = query.get("wait", "0")
    # float() alone lets through what is no number in JSON, such as 1_0 or ².
    wait_s = float(text) if _NUMBER.fullmatch(text) else -1.0
    if not 0 <= wait_s <= conf.WAIT_MAX_S:
        said = f"{text[:40]!r} is not 0 to {conf.WAIT_MAX_S:g} seconds"
        raise invalid([("?wait", said)])
    return wait_s


_NUMBER: Final = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?")


def time_of(query: Mapping[str, str], name: str) -> int | None:
    """A time in ms since 1970 from ISO 8601 text with an offset."""
    when = moment_of(query, name)
    return None if when is None else round(when.timestamp() * 1000)


def moment_of(query: Mapping[str, str], name: str) -> datetime | None:
    """A time from ISO 8601 text with an offset."""
    text = query.get(name)
    if text is None:
        return None
    # A plus sign that was not escaped arrives as a space.
    when = parsed_time(text.replace(" ", "+"))
    if when is None:
        raise invalid([(f"?{name}", f"{text[:40]!r} {NO_TIME}")])
    return when


def id_cursor_of(query: Mapping[str, str]) -> int | None:
    """The cursor of a list in the order of whole ids; None at its beginning."""
    text = query.get("cursor")
    if text is None:
        return None
    place = records.number(text, 18)
    if place is None:
        said = f"cursor {text[:40]!r} is none of this list"
        raise Problem("invalid_option", said)
    return place
