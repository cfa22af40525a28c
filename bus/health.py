"""Whether the mesh can keep its promises here: what is wrong, with what to do."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

import redis

from . import (
    address,
    agents,
    announcement,
    conf,
    connection,
    errors,
    fitness,
    handlers,
    keys,
    layout,
    levels,
    messages,
    refusals,
    topics,
    volley,
    words,
)
from .fitness import BAD, OK, WARN, Check

__all__ = ["BAD", "OK", "WARN", "Check", "checks", "refuses"]

ANSWER_S: Final = 2.0
_AWAY: Final = "unreachable"


def checks(facts: Sequence[dict[str, Any]] | None = None) -> list[Check]:
    """All findings; without a server only those that need none.

    `facts` are `topics.all_stats` of just now, where the caller has them. A server that
    hangs is given up after one timeout: `ANSWER_S` at the first look.
    """
    try:
        with _probe() as probe:
            info = levels.facts(probe.info(), probe)
            probe.ping()
        client = connection.reader()
    except (errors.BusError, redis.RedisError, OSError) as exc:
        return unreachable(exc)
    found = [_python()]
    try:
        found += [*_server(info), _layout(), _connections(client)]
        facts = topics.all_stats() if facts is None else facts
        return [*found, *_keys([row["topic"] for row in facts]), *_mesh(facts)]
    except errors.BusUnavailable as exc:
        return unreachable(exc)  # it went while we looked: what it said is history
    except refusals.DamagedKey as exc:
        hint = "a running agent or web server mends it within seconds"
        return [*found, Check("keys", BAD, str(exc), hint, "damaged", exc.topic)]
    except errors.BusError as exc:
        return [*found, Check("commands", BAD, str(exc), _may_hint(exc), "refused")]


def unreachable(exc: Exception) -> list[Check]:
    """The findings where Redis did not answer; `exc` says why."""
    mapped = exc if isinstance(exc, errors.BusError) else refusals.mapped(exc)
    return [_python(), Check("redis", BAD, str(mapped), _start_hint(), _AWAY)]


def refuses() -> list[str]:
    """Why this process cannot work now, a word each, told within `ANSWER_S`.

    Empty if Redis answers, takes commands, and is set up as it has to be.
    """
    try:
        with _probe() as probe:
            info = levels.facts(probe.info(), probe)
            probe.ping()  # INFO is answered while it still loads
    except (errors.BusError, redis.RedisError, OSError):
        return [_AWAY]
    return [check.word for check in _server(info) if check.status == BAD]


def _probe() -> redis.Redis:
    """Asked once and soon given up: a prober wants to hear of a server that hangs."""
    return announcement.client(address.checked_url(), timeout_s=ANSWER_S)


def _python() -> Check:
    return Check("python", OK, "Python " + ".".join(map(str, sys.version_info[:3])))


def _start_hint() -> str:
    if conf.redis_url_given():
        return "start the server REDIS_URL names, or unset it and type `make run`"
    return "type `make run` in this folder, or set REDIS_URL"


def _may_hint(exc: errors.BusError) -> str:
    """What to type where a user of the server may not what the mesh needs."""
    if not _forbidden(exc):
        return ""
    return "allow all to the user in REDIS_URL: ACL SETUSER … ~* &* +@all"


def _forbidden(exc: errors.BusError) -> bool:
    cause = exc.__cause__
    return cause is not None and refusals.code_word(cause) == "NOPERM"


def _server(info: dict[str, Any]) -> Iterator[Check]:
    """What the server is set to do with our data."""
    try:
        yield from fitness.findings(info)
    except errors.InvalidOption as exc:
        yield Check("durability", BAD, str(exc), "mend the setting", "unknown")


def _layout() -> Check:
    """Only looked at: marking a server is for those that start on it."""
    try:
        told = layout.look()
    except errors.BusUnavailable:
        raise
    except errors.BusError as exc:
        return Check("layout", BAD, str(exc), word="unknown")
    marked = "" if told else ", not marked yet: the first start does it"
    return Check("layout", OK, f"version {layout.VERSION} of the keys{marked}")


def _connections(client: Any) -> Check:
    try:
        with refusals.guard():
            # Whether, not who: every agent has connections.
            client.execute_command("CLIENT", "LIST", "TYPE", "replica")
    except errors.BusUnavailable:
        raise
    except errors.BusError as exc:
        return Check(
            "liveness",
            WARN,
            f"CLIENT LIST is not allowed ({exc.__cause__}): "
            "tasks of killed agents wait a lease",
            "allow it to the user in REDIS_URL: ACL SETUSER … +client|list",
            "slow",
        )
    return Check("liveness", OK, "tasks of killed agents are handed over within 5 s")


def _keys(names: Sequence[str]) -> Iterator[Check]:
    """Whether idempotency keys are remembered for as long as they should."""
    seen = [keys.named(each, name) for name in names for each in ("seen0", "seen1")]
    early = volley.ask([("HGET", key, "@early") for key in seen])
    for name, *spans in zip(names, early[::2], early[1::2], strict=True):
        hours = [int(ms) / 3_600_000 for ms in spans if ms]
        if hours:
            yield Check(
                "keys",
                WARN,
                f"topic {name} had {conf.conf.SEEN_MAX // 2:,} idempotency keys within "
                f"{min(hours):.1f} h: they are remembered for about that long, not for "
                "a day",
                "send fewer tasks with a key, or spread them over topics",
                "crowded",
                name,
            )


def _mesh(standing: Sequence[dict[str, Any]]) -> Iterator[Check]:
    """Agents, topics and their ledgers."""
    live = agents.list_agents()
    served = set(_told(live))
    says = f"{len(live)} live"
    if live:
        yield Check("agents", OK, says)
    else:
        yield Check("agents", WARN, says, _NO_AGENT, "none")
    for agent in live:
        if agent.get("namesake"):
            text = f"two live under this id, one is {agent['namesake']}"
            hint = "manage.py agent --agent-id, another one for each, or without it"
            yield Check(f"agent {agent.get('agent_id')}", WARN, text, hint, "namesake")
    for facts in standing:
        name = facts["topic"]
        drift = facts["ledger"]["drift"]
        ledger = (
            f"{facts['ledger']['came']:,} came = {facts['ledger']['live']:,} live + "
            f"{facts['ledger']['ended']:,} ended"
        )
        if facts["settled"]:
            ledger += f" {facts['settled']:+,} settled"
        if drift:
            text = f"the ledger is off by {drift:+,}: {ledger}"
            hint = f"manage.py topics {name} --settle, once it is known why"
            yield Check(f"topic {name}", BAD, text, hint, "drift", name)
        elif facts["unmended"]:
            tasks = words.noun(facts["unmended"], "task is", "tasks are")
            text = (
                f"{facts['unmended']:,} {tasks} in two states at once: keys were "
                "changed by hand"
            )
            hint = f"manage.py topics {name} --audit, which names them"
            yield Check(f"topic {name}", BAD, text, hint, "unmended", name)
        elif facts["repaired"] and _lately(facts["repaired_at"]):
            text = (
                f"the audit repaired {facts['repaired']:,} "
                f"{words.noun(facts['repaired'], 'wound', 'wounds')}, the last at "
                f"{facts['repaired_at']}: keys were changed by hand"
            )
            hint = "its log says which; this goes a day after the last"
            yield Check(f"topic {name}", WARN, text, hint, "repaired", name)
        elif facts["waiting"] and name not in served and not facts["paused"]:
            waits = words.noun(facts["waiting"], "task waits", "tasks wait")
            text = f"{facts['waiting']:,} {waits} and no live agent serves it"
            hint = handlers.way_to_serve(name).replace("`", "")
            yield Check(f"topic {name}", WARN, text, hint, "unserved", name)
        else:
            yield Check(f"topic {name}", OK, ledger, topic=name)


def unlisted() -> Iterator[Check]:
    """Topics that fell off the list: a look at all keys, for whoever asks by hand.

    Nothing where Redis does not answer, or refuses more than the look: `checks` tells.
    """
    cursor, told = 0, set[str]()
    try:
        for _ in range(_STRETCHES_MOST):
            cursor, lost = topics.unlisted(cursor)
            for name in lost:
                if name not in told:
                    text = "it is not on the list of topics: nobody looks after it"
                    hint = f"manage.py topics {name}, which puts it there again"
                    yield Check(f"topic {name}", BAD, text, hint, "unlisted", name)
                told.add(name)
            if not cursor:
                return
    except errors.BusError as exc:
        if not _forbidden(exc):
            return
        hint = "allow it to the user in REDIS_URL: ACL SETUSER … +scan"
        text = f"SCAN is not allowed ({exc.__cause__}): topics off the list stay unseen"
        yield Check("topics", WARN, text, hint, "unseen")
        return
    text = "more than a million keys: not all were looked at for topics off the list"
    yield Check("topics", WARN, text, "give the mesh a server of its own", "unseen")


def _lately(at: str) -> bool:
    """Whether a time of the server lies within a day."""
    then = messages.iso_ms(at)
    return then is not None and agents.server_ms() - then < _DAY_MS


def _told(live: list[dict[str, Any]]) -> Iterator[str]:
    """The topics agents say they serve; a record by hand may say anything."""
    for agent in live:
        names = agent.get("topics")
        if isinstance(names, list):
            yield from (name for name in names if isinstance(name, str))


_STRETCHES_MOST: Final = 1_000  # of some thousand keys each
_DAY_MS: Final = 86_400_000
_NO_AGENT: Final = "manage.py agent, for topics with a @handler"
