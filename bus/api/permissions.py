"""Whether a request may do what it asks: the verbs of its role, its token's topics."""

from __future__ import annotations

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
        if not any(map(who.may, verbs)):
            role = f"role {who.role!r}" if who.role else "without a role, you"
            raise exceptions.PermissionDenied(
                f"{role} may not {' or '.join(verbs)} here"
            )
        return True


def check_topic(who: roles.Principal, topic: str) -> str:
    """The topic itself, or topic_not_allowed for a token bound to others."""
    if not who.may_topic(topic):
        bound = ", ".join(f"{prefix}…" for prefix in who.topics)
        raise Problem("topic_not_allowed", f"this token is bound to topics {bound}")
    return topic
