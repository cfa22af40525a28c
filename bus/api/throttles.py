"""How often a principal may call, by kind of call; buckets that all processes share."""

from __future__ import annotations

from typing import Any

from rest_framework.throttling import BaseThrottle

from bus import errors, ratelimit, roles
from bus.conf import conf

from .waiting import AGAIN


class CallThrottle(BaseThrottle):
    """A minute's worth of calls at once, then as they flow back.

    Hot calls (`hot` of the view) and all others have a bucket each, per token or user.
    """

    def __init__(self) -> None:
        self._wait_s = 0.0

    def allow_request(self, request: Any, view: Any) -> bool:
        """Whether the bucket has a call left; BusUnavailable if nobody can tell."""
        scope = getattr(request._request, "scope", {})
        if view.principal is None or scope.get(AGAIN):
            return True  # open calls; the second look of a call that waits
        bucket = bucket_of(view.principal, view.action in view.hot)
        try:
            self._wait_s = ratelimit.take(*bucket)
        except errors.OutcomeUnknown as exc:
            # Perhaps a token is gone; of the call itself nothing was written yet.
            raise errors.BusUnavailable(str(exc)) from exc
        return not self._wait_s

    def wait(self) -> float:
        """Seconds until the next call is allowed."""
        return self._wait_s


def bucket_of(who: roles.Principal, hot: bool) -> tuple[str, float, float]:
    """Key, capacity and refill per second of the bucket that a call takes from."""
    kind, most = "calls", conf.API_CALLS_PER_MINUTE
    if hot:
        kind, most = "hot-calls", conf.API_HOT_CALLS_PER_MINUTE
    return f"{kind}:{who.key}", most, most / 60
