"""Whether a request may do what it asks: the verbs of its role, its token's topics."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from rest_framework import exceptions, permissions

from bus import roles

from .problems import Problem


class MayVerb(permissions.BasePermission):
    """The view's `verbs` say what each action takes; one of them is enough.

    An empty tuple is open to everybody; an action that is not named is not allowed.
    """

    def has_permission(self, request: Any, view: Any) -> bool:
        # Without an action the method is refused next, with 405 for everybody.
        if view.action is None or view.action == "metadata":
            return True
        verbs = view.verbs[view.action]
        if not verbs:
            return True
        who: roles.Principal | None = view.principal
        if who is None:
            raise exceptions.NotAuthenticated()
        check_verbs(who, verbs)
        return True


def check_verbs(who: roles.Principal, verbs: Iterable[str]) -> None:
    """PermissionDenied unless the role has one of these verbs."""
    if not any(map(who.may, verbs)):
        raise exceptions.PermissionDenied(may_not(who.role, verbs))


def may_not(role: str, verbs: Iterable[str]) -> str:
    """Why a call is refused, with the roles that may make it."""
    verbs = [*verbs]
    able = [each for each in roles.ROLES if roles.VERBS[each] & {*verbs}]
    needed = " or ".join(map(repr, verbs))
    lack = f"the role {role!r} does not include" if role else "you have no role with"
    return f"{lack} {needed}; roles that do: {', '.join(able)}"


def check_grant(who: roles.Principal, prefixes: Collection[str]) -> None:
    """topic_not_allowed where a token would reach further than who makes it."""
    if not who.covers(prefixes):
        said = f"this token is bound to topics {_bound(who)}, so are those it makes"
        raise Problem("topic_not_allowed", said)


def check_topic(who: roles.Principal, topic: str) -> str:
    """The topic itself, or topic_not_allowed for a token bound to others."""
    if not who.may_topic(topic):
        said = f"this token is bound to topics {_bound(who)}"
        raise Problem("topic_not_allowed", said)
    return topic


def check_reach(
    who: roles.Principal, agent: Mapping[str, Any], ending: bool = False
) -> None:
    """topic_not_allowed where what is done to an agent is done to others' topics.

    What one by hand holds stands nowhere: only its end could have it handed over.
    """
    serves = agent["topics"]
    blind = ending and not serves and agent["lease_s"] is None
    if who.topics and (blind or len(who.within(serves)) < len(serves)):
        said = f"agent {agent['agent_id']!r} serves more than topics {_bound(who)}"
        raise Problem("topic_not_allowed", f"{said}, which this token is bound to")


def _bound(who: roles.Principal) -> str:
    return ", ".join(f"{prefix}…" for prefix in who.topics)
