"""Keys that nobody bounds, or nobody knows."""

from __future__ import annotations

import re

import redis

from bus import keys
from bus.gateway import keys as gateway_keys

_ID = "0198c0de-0000-7000-8000-000000000000"


def _every(*names: str) -> re.Pattern[str]:
    """Such keys of any topic: what was built of `any` stands for all there may be."""
    return re.compile("|".join(re.escape(x).replace("any", ".+") for x in names))


# What may live without a bound in time. It is bounded by what it holds: by the backlog,
# by as many letters or results as are kept, by topics that are known.
_LASTING = _every(
    *(keys.named(name, "any") for name in keys.NAMES),
    keys.group_key("any", "any"),
)
# All others live for a while: each has a time to live from its first moment.
_PASSING = _every(
    keys.agent_key("any"),
    keys.claim_key("any", "a", "a").rpartition(":")[0] + ":any",
    keys.rate_key("any"),
    keys.job_key(_ID).removesuffix(_ID) + "any",
    keys.job_part("any", "any", "any"),
    *(gateway_keys.FIGURES, gateway_keys.RUNNING),
    *gateway_keys.flight_keys("any", "any"),
)
_OURS = ("mesh:", "stream:")


def leaks(client: redis.Redis) -> list[str]:
    """What stands on the server and should not, a sentence each."""
    found = []
    for name in map(str, client.scan_iter(count=1_000)):
        if _LASTING.fullmatch(name):
            continue
        if name.startswith(_OURS) and not _PASSING.fullmatch(name):
            found.append(f"{name} stands in no table")
        elif client.ttl(name) == -1:
            found.append(f"{name} has no time to live")
    return found
