"""Named points at which a test has a process die, as by kill -9.

`MESH_CRASH_AT=<point>[:n]` ends a process of ours with exit code 137 the n-th time it
passes there; a name that is none is refused with the list. Production pays nothing:
where the variable is not set, nobody imports this room. Where it is, `arm` replaces the
functions that are passed at the point by ones that count first.

    after_claim          tasks are ours on the server, none of them is taken up
    before_handler       a handler is about to be called
    after_handler        its side effects are done, nobody was told
    before_first_beat    the agent is not yet registered
    during_drain         what did not finish in time is not yet given back
    before_<verb>_sent   the script is about to be sent
    after_<verb>_sent    the server did it, the process never learns that it did

The verbs are those of VERBS. Passes of claims, promotions and reclaims count only where
they brought something.
"""

from __future__ import annotations

import functools
import inspect
import itertools
import os
from collections.abc import Callable
from typing import Any, Final

from . import agents, deliveries, errors, incoming, records, scripts
from .runtime import outbox, reports, runs

EXIT_CODE: Final = 137  # what a shell says of a process that was killed with -9
VERBS: Final = (
    "complete",
    "enqueue",
    "fail",
    "promote",
    "reclaim",
    "release",
    "replay",
)

# Whether a pass counts, by the arguments of the call and, behind it, its reply.
Counts = Callable[[tuple[Any, ...], Any], bool]
# Where a point lies: owner and name of a function, whether behind it, and what counts.
Place = tuple[Any, str, bool, Counts]


def _always(args: tuple[Any, ...], reply: Any) -> bool:
    return True


def _brought(args: tuple[Any, ...], reply: Any) -> bool:
    return bool(getattr(reply, "deliveries", reply))


def _is_verb(verb: str, args: tuple[Any, ...], reply: Any) -> bool:
    if args[0] != verb:
        return False
    # {moved, next due}, {handed over, buried, seen}
    counted = {"promote": 1, "reclaim": 2}.get(verb)
    return not counted or reply is None or any(reply[:counted])


def _is_send(args: tuple[Any, ...], reply: Any) -> bool:
    return bool(args[0] == "send")


def _was_taken(args: tuple[Any, ...], reply: Any) -> bool:
    # Where it was not, `enqueue` is sent instead.
    return _is_send(args, reply) and bool(reply)


def _is_first(args: tuple[Any, ...], reply: Any) -> bool:
    return records.is_first(args[1].delivery.record)


def _was_ended(args: tuple[Any, ...], reply: Any) -> bool:
    # Where it was not, `complete` is sent instead.
    answer = args[-1]
    return not (answer.cancelled() or answer.exception()) and bool(answer.result())


def _places() -> dict[str, list[Place]]:
    points: dict[str, list[Place]] = {
        # A blocking read is a claim as well.
        "after_claim": [
            (deliveries, "claim", True, _brought),
            (incoming, "wait_for_new", True, _brought),
        ],
        "before_handler": [(runs.Run, "context", True, _always)],
        "after_handler": [(reports.Reports, "report", False, _always)],
        "before_first_beat": [(agents, "beat", False, _always)],
        "during_drain": [(reports.Reports, "close", False, _always)],
    }
    for verb in VERBS:
        for when in ("before", "after"):
            behind, counts = when == "after", functools.partial(_is_verb, verb)
            places: list[Place] = [
                (scripts, name, behind, counts) for name in ("run", "arun")
            ]
            if verb == "enqueue":
                told = _was_taken if behind else _is_send
                places.append((scripts, "once", behind, told))
            if verb == "complete" and behind:
                places.append((outbox.Outbox, "_answered", False, _was_ended))
            elif verb == "complete":
                places.append((deliveries, "finish", False, _is_first))
            points[f"{when}_{verb}_sent"] = places
    return points


POINTS: Final = tuple(sorted(_places()))


def arm(wish: str) -> None:
    """Have this process die at `<point>[:n]`; InvalidOption names the points."""
    point, _, number = wish.partition(":")
    places = _places().get(point)
    if places is None:
        raise errors.InvalidOption(
            f"MESH_CRASH_AT names no point: {point!r}; there are {', '.join(POINTS)}"
        )
    if number and not (number.isascii() and number.isdigit() and int(number)):
        raise errors.InvalidOption(
            f"MESH_CRASH_AT {wish!r}: the n of <point>:n is a number from 1"
        )
    passes = itertools.count(1)  # its step is atomic: several threads pass here
    nth = int(number or 1)

    def passed() -> None:
        if next(passes) == nth:
            os._exit(EXIT_CODE)

    for owner, name, behind, counts in places:
        real = getattr(owner, name)
        setattr(owner, name, _watched(real, behind, counts, passed))


def _watched(
    real: Callable[..., Any], behind: bool, counts: Counts, passed: Callable[[], None]
) -> Callable[..., Any]:
    """The function, with somebody who stands before or behind it."""

    def before(args: tuple[Any, ...]) -> None:
        if not behind and counts(args, None):
            passed()

    def after(args: tuple[Any, ...], reply: Any) -> None:
        if behind and counts(args, reply):
            passed()

    @functools.wraps(real)
    async def awaited(*args: Any, **options: Any) -> Any:
        before(args)
        reply = await real(*args, **options)
        after(args, reply)
        return reply

    @functools.wraps(real)
    def called(*args: Any, **options: Any) -> Any:
        before(args)
        reply = real(*args, **options)
        after(args, reply)
        return reply

    return awaited if inspect.iscoroutinefunction(real) else called
