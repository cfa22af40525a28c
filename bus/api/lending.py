"""The lease protocol, for both doors: what agents over HTTP ask and what they are told.

Functions of who asks and a JSON body; they talk to the mesh and wait for nothing but
its answer, so an event loop calls them in a thread. A body is right as a whole or
refused as a whole, before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bus import agents, endings, errors, fences, leases, messages, roles
from bus.conf import conf
from bus.endings import Fence
from bus.fences import Failed

from .members import (
    Kind,
    anything,
    flag,
    invalid,
    listed,
    members,
    number,
    table,
    text,
    whole,
)
from .parsing import TTL_DEFAULT_S
from .permissions import check_reach, check_topic

DELIVERIES_MOST: Final = endings.BATCH
WAIT_MOST_S: Final = 30
_CLAIM_ID_MOST: Final = 128
_DELAY_MOST_S: Final = 366 * 86_400


def wait_of(value: Any) -> float:
    """For how many seconds a claim wants to wait for its first task."""
    return float(_claim(value).get("wait_s", 0))


def is_empty(told: dict[str, Any]) -> bool:
    """Whether more time could bring a claim that was told this something."""
    return not told["deliveries"] and not told["drain"]


def claim(who: roles.Principal, topic: str, value: Any) -> dict[str, Any]:
    """`POST topics/{topic}/claim`, as of now; `waiting.patiently` looks again."""
    given = _claim(value)
    agent_id = given["agent_id"]
    check_topic(who, topic)
    if who.topics:  # or its record named a topic that its own token does not reach
        check_reach(who, agents.get_agent(agent_id), ending=True)
    found = leases.claim(topic, agent_id, given.get("count", 1), given.get("claim_id"))
    return {"deliveries": [_row(each) for each in found.lent], "drain": found.drain}


def _claim(value: Any) -> dict[str, Any]:
    given = members(value, _CLAIM, ("agent_id",))
    wrong = []
    count, wait_s = given.get("count", 1), given.get("wait_s", 0)
    if not 1 <= count <= DELIVERIES_MOST:
        wrong.append(("/count", f"is not 1 to {DELIVERIES_MOST}"))
    if not 0 <= wait_s <= WAIT_MOST_S:
        wrong.append(("/wait_s", f"is not 0 to {WAIT_MOST_S} seconds"))
    name = given.get("claim_id", "x")
    if not 0 < len(name) <= _CLAIM_ID_MOST or not name.isprintable():
        wrong.append(("/claim_id", f"is not 1 to {_CLAIM_ID_MOST} printable letters"))
    if wrong:
        raise invalid(wrong)
    return given


def _row(lent: leases.Lent) -> dict[str, Any]:
    return {
        "fence": lent.fence,
        "id": lent.id,
        "topic": lent.topic,
        "task": lent.payload,
        "attempt": lent.attempt,
        "epoch": lent.epoch,
        "timeout_s": lent.timeout_s,
        "lease_s": lent.lease_s,
    }


def complete(who: roles.Principal, value: Any) -> dict[str, Any]:
    """`POST deliveries/complete`."""
    ends = [
        (fence, messages.encode_result(given["result"], conf.RESULT_MAX_BYTES))
        for fence, given in _deliveries(who, value, {"result": anything}, ("result",))
    ]
    return _told([fence for fence, _ in ends], fences.complete(ends))


def fail(who: roles.Principal, value: Any) -> dict[str, Any]:
    """`POST deliveries/fail`."""
    ends = [
        (fence, _failed(given, f"/deliveries/{at}"))
        for at, (fence, given) in enumerate(
            _deliveries(who, value, _FAILURE, ("error",))
        )
    ]
    return _told([fence for fence, _ in ends], fences.fail(ends))


def extend(who: roles.Principal, value: Any) -> dict[str, Any]:
    """`POST deliveries/extend`."""
    named = [fence for fence, _ in _deliveries(who, value, {})]
    return _told(named, fences.extend(named))


def release(who: roles.Principal, value: Any) -> dict[str, Any]:
    """`POST deliveries/release`."""
    named = [fence for fence, _ in _deliveries(who, value, {})]
    return _told(named, fences.release(named))


def beat(who: roles.Principal, agent_id: str, value: Any) -> dict[str, Any]:
    """`POST agents/{id}/heartbeat`: its registration, and the deliveries it names."""
    given = members(value, {"ttl_seconds": number, "deliveries": listed})
    named = _named(who, given.get("deliveries", []), {}, ())
    ttl_s = float(given.get("ttl_seconds", TTL_DEFAULT_S))
    try:
        if who.topics:  # a short time to live would be another's end
            check_reach(who, agents.get_agent(agent_id), ending=True)
        kept = agents.beat(agent_id, agent_id, ttl_s, None).kept
    except errors.InvalidName as exc:
        raise errors.AgentNotFound(str(exc)) from None
    if not kept:
        raise errors.AgentNotFound(f"agent {agent_id!r} is not registered (any more)")
    held = [fence for fence, _ in named]
    head = {"agent_id": agent_id, "expires_in_s": ttl_s, "drain": kept == agents.DRAIN}
    return head | _told(held, fences.extend(held))


def _told(named: list[Fence], outcomes: list[str]) -> dict[str, Any]:
    """What became of each delivery, in their order."""
    rows = []
    for fence, outcome in zip(named, outcomes, strict=True):
        row = {"topic": fence.topic, "id": fence.id, "fence": fence.text}
        if outcome in (messages.DELAYED, messages.DEAD):  # of a failure that counted
            rows.append({**row, "outcome": endings.OK, "state": outcome})
        else:
            rows.append({**row, "outcome": outcome})
    return {"deliveries": rows}


_Given = list[tuple[Fence, dict[str, Any]]]


def _deliveries(
    who: roles.Principal,
    value: Any,
    shape: Mapping[str, Kind],
    required: tuple[str, ...] = (),
) -> _Given:
    """Deliveries from a body, with what is said of each."""
    rows = members(value, {"deliveries": listed}, ("deliveries",))["deliveries"]
    if not rows:
        raise invalid([("/deliveries", f"holds none, not 1 to {DELIVERIES_MOST}")])
    return _named(who, rows, shape, required)


def _named(
    who: roles.Principal,
    rows: list[Any],
    shape: Mapping[str, Kind],
    required: tuple[str, ...],
) -> _Given:
    if len(rows) > DELIVERIES_MOST:
        said = f"holds {len(rows):,}, more than {DELIVERIES_MOST}"
        raise invalid([("/deliveries", said)])
    found: _Given = []
    places: dict[tuple[str, str], int] = {}
    for at, row in enumerate(rows):
        pointer = f"/deliveries/{at}"
        given = members(row, {**_DELIVERY, **shape}, (*_DELIVERY, *required), pointer)
        topic = check_topic(who, given["topic"])
        fence = endings.fence_of(topic, given["id"], given["fence"])
        first = places.setdefault((topic, fence.id), at)
        if first != at:
            raise invalid([(pointer, f"is the same task as /deliveries/{first}")])
        found.append((fence, given))
    return found


def _failed(given: dict[str, Any], at: str) -> Failed:
    error = members(given["error"], _ERROR, ("type", "message"), f"{at}/error")
    if not error["type"]:
        raise invalid([(f"{at}/error/type", "is empty")])
    delay_s = given.get("delay_s")
    if delay_s is not None and not 0 <= delay_s <= _DELAY_MOST_S:
        raise invalid([(f"{at}/delay_s", f"is not 0 to {_DELAY_MOST_S:,} seconds")])
    return Failed(
        error["type"],
        error["message"],
        error.get("traceback", ""),
        delay_s,
        given.get("final", False),
    )


_CLAIM: Final = {"agent_id": text, "count": whole, "wait_s": number, "claim_id": text}
_DELIVERY: Final = {"topic": text, "id": text, "fence": text}
_FAILURE: Final = {"error": table, "delay_s": number, "final": flag}
_ERROR: Final = {"type": text, "message": text, "traceback": text}
