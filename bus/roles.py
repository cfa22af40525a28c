"""Who may do what: the roles, their verbs, and the principal that a request acts for.

viewer    reads
operator  reads, the audit trail as well; sends, replays, discards, undoes, pauses,
          cancels, runs now, drains, generates
admin     everything: users, tokens, limits, purge, settle, delete, what agents do
agent     registry and lease protocol only
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
ADMIN: Final = "admin"
AGENT: Final = "agent"
# From most to least: a user in several groups has the first of them.
ROLES: Final = (ADMIN, OPERATOR, VIEWER, AGENT)

READ: Final = "read"
ENQUEUE: Final = "enqueue"
REPLAY: Final = "replay"
DISCARD: Final = "discard"
UNDO: Final = "undo"
PAUSE: Final = "pause"
CANCEL: Final = "cancel"
RUN: Final = "run"  # now, or once more
DRAIN: Final = "drain"
GENERATE: Final = "generate"
AUDIT: Final = "audit"  # read who did what
SERVE: Final = "serve"  # register, heartbeat, claim, complete
USERS: Final = "users"
TOKENS: Final = "tokens"
LIMIT: Final = "limit"
PURGE: Final = "purge"
SETTLE: Final = "settle"
DELETE: Final = "delete"

_OPERATES: Final = frozenset(
    {
        *(READ, ENQUEUE, REPLAY, DISCARD, UNDO, PAUSE, CANCEL, RUN, DRAIN, GENERATE),
        AUDIT,
    }
)
VERBS: Final[dict[str, frozenset[str]]] = {
    VIEWER: frozenset({READ}),
    OPERATOR: _OPERATES,
    ADMIN: _OPERATES | {SERVE, USERS, TOKENS, LIMIT, PURGE, SETTLE, DELETE},
    AGENT: frozenset({SERVE}),
}


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever asks: a signed-in user or a token, with one role or none.

    `key` is stable and unique (rate limits and idempotency keys are counted by it),
    `name` is for eyes. `topics` are the prefixes a token is bound to; empty: all.
    """

    key: str
    name: str
    role: str = ""
    topics: tuple[str, ...] = ()

    def may(self, verb: str) -> bool:
        """Whether the role includes the verb."""
        return verb in VERBS.get(self.role, frozenset())

    def may_topic(self, topic: str) -> bool:
        """Whether the topic is within the prefixes of this principal."""
        return not self.topics or topic.startswith(self.topics)

    def within(self, topics: Iterable[object]) -> list[object]:
        """Those of the topics that are in reach; a record by hand may name anything."""
        if not self.topics:
            return list(topics)
        return [
            name for name in topics if isinstance(name, str) and self.may_topic(name)
        ]

    def shown(self, agent: Mapping[str, Any]) -> dict[str, Any]:
        """An agent, with those of its topics that are in reach."""
        shares = agent["per_topic"].items()
        own = {name: share for name, share in shares if self.may_topic(name)}
        return {**agent, "topics": self.within(agent["topics"]), "per_topic": own}

    def covers(self, prefixes: Collection[str]) -> bool:
        """Whether all topics of these prefixes (empty: all there are) are within ours.

        Who is bound to topics makes, sees and revokes only tokens that are, too.
        """
        return not self.topics or (
            bool(prefixes) and all(map(self.may_topic, prefixes))
        )
