"""The registry of agents: who is there, and since when not.

Liveness belongs to a consumer: the agent id plus a nonce of this process start for our
own runtime, the agent id itself for agents written by hand.
"""

from __future__ import annotations

from typing import Any

import redis

from . import connection, errors, keys, messages, refusals, scripts

_TTL_MOST_S = 24 * 3600


def register_agent(
    agent_id: str,
    agent_type: str,
    ttl_seconds: float = 60,
    meta: dict[str, Any] | None = None,
) -> None:
    """Register an agent for `ttl_seconds`, or renew its registration whole.

    `meta` is any JSON object, shown to operators. While the registration lives, tasks
    read under the agent's id stay its own.
    """
    record = {
        "agent_id": keys.check_agent(agent_id),
        "agent_type": _type(agent_type),
        "meta": {} if meta is None else meta,
    }
    if not isinstance(record["meta"], dict):
        raise errors.InvalidPayload("meta is not a JSON object")
    register(agent_id, agent_id, ttl_seconds, record)


def register(
    agent_id: str,
    consumer: str,
    ttl_s: float,
    record: dict[str, Any],
    client: redis.Redis | None = None,
) -> int:
    """Register a consumer of an agent; its expiry in server ms."""
    body = messages.encode(record)
    args = [agent_id, consumer, _ttl_ms(ttl_s), body]
    more = [keys.agent_key(agent_id)]
    retry_s = None if client is None else 0
    return int(scripts.run("register", "", args, more, client=client, retry_s=retry_s))


def heartbeat_agent(agent_id: str, ttl_seconds: float = 60) -> bool:
    """Keep a registration for `ttl_seconds` more; False if there is none to keep."""
    return beat(agent_id, agent_id, ttl_seconds, None)


def beat(
    agent_id: str,
    consumer: str,
    ttl_s: float,
    record: dict[str, Any] | None,
    client: redis.Redis | None = None,
) -> bool:
    """Renew a consumer's registration, with a new record if given; never creates."""
    body = b"" if record is None else messages.dump(record)
    args = [agent_id, consumer, _ttl_ms(ttl_s), body]
    more = [keys.agent_key(agent_id)]
    # On a client of its own the caller decides about another try.
    retry_s = None if client is None else 0
    return bool(scripts.run("beat", "", args, more, client=client, retry_s=retry_s))


def deregister_agent(agent_id: str) -> bool:
    """End a registration; whether there was one. Tasks left in hand are free."""
    return deregister(agent_id, agent_id)


def deregister(agent_id: str, consumer: str, retry_s: float | None = None) -> bool:
    """End the registration of a consumer of an agent."""
    more = [keys.agent_key(agent_id)]
    return bool(scripts.run("deregister", "", [consumer], more, retry_s=retry_s))


def list_agents() -> list[dict[str, Any]]:
    """Every live agent: `agent_id, agent_type, meta, …`, sorted by id."""
    with refusals.guard():
        client = connection.reader()
        known = client.zrange(keys.AGENTS, 0, -1)
        ids = sorted({keys.agent_of(consumer) for consumer in known})
        texts = (
            client.mget([keys.agent_key(agent_id) for agent_id in ids]) if ids else []
        )
    rows = (messages.parse_row(text) for text in texts if text)
    return [row for row in rows if row]


def server_ms() -> int:
    """The server's time in ms, by which registrations expire."""
    with refusals.guard():
        seconds, micros = connection.reader().time()
    return int(seconds) * 1000 + int(micros) // 1000


def registered_until(consumers: list[str]) -> list[float | None]:
    """Per consumer its expiry in server ms, None if it never registered."""
    if not consumers:
        return []
    with refusals.guard():
        scores = connection.reader().execute_command("ZMSCORE", keys.AGENTS, *consumers)
    return [None if score is None else float(score) for score in scores]


def _type(agent_type: str) -> str:
    ok = isinstance(agent_type, str) and 0 < len(agent_type) <= 64
    if not ok or not agent_type.isprintable():
        raise errors.InvalidName(
            f"agent type {agent_type!r:.80} is not 1 to 64 letters"
        )
    return agent_type


def _ttl_ms(ttl_s: float) -> int:
    ok = isinstance(ttl_s, (int, float)) and not isinstance(ttl_s, bool)
    if not ok or not 0 < ttl_s <= _TTL_MOST_S:
        raise errors.InvalidOption(
            f"ttl_seconds {ttl_s!r} is not above 0 s, up to 24 h"
        )
    return max(1, int(ttl_s * 1000))
