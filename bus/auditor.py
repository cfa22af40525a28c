"""The proof that nothing is lost: records against containers, and the ledger.

Every janitor walks, a stretch a second; where the walk is, is kept on the server, so
all of them together walk one walk, without a leader. In a healthy mesh it finds
nothing: each verb is one script, and leaves no task between two states.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from . import errors, failures, keys, messages, scripts
from .conf import conf

log = logging.getLogger("bus.auditor")

LOOKS: Final = 200  # places a call looks at
PACE_MS: Final = 900  # janitors tick about once a second; one of them finds it due
_TOPICS_A_TICK: Final = 20  # of one janitor, so that a thousand topics cost no more
_AGAIN_MOST: Final = 20  # looks in a row where there was something to put right
# Fingerprint and JSON of what the audit gives up, as the scripts take them.
_LOST: Final = (failures.fingerprint(failures.LOST), messages.dump(failures.LOST))
_POISON: Final = (failures.fingerprint(failures.POISON), messages.dump(failures.POISON))
_ROUNDS: Final = 4  # a record without a payload is given up in the third


@dataclass(slots=True)
class Findings:
    """What one or more looks came to."""

    mended: list[str] = field(default_factory=list)  # "what id" of wounds closed
    seen: list[str] = field(default_factory=list)  # of wounds a person must decide on
    drift: int = 0  # of the ledger at the last look
    rounds: int = 0  # of the live tasks, ended by these looks


def audit(topic: str) -> Findings:
    """Look through the whole topic now, and put right what can be.

    Takes some 4 s per 100,000 tasks and round. `drift` is what the ledger is off by
    afterwards.
    """
    keys.check_topic(topic)
    found = Findings()
    while found.rounds < _ROUNDS:
        before = len(found.mended)
        found.seen.clear()  # the last round is the one that counts
        while not _look(topic, found, "audit_live", 0):
            pass
        while not _look(topic, found, "audit_dead", 0):
            pass
        found.rounds += 1
        if len(found.mended) == before and found.rounds > 2:
            break
    return found


def tick(topics: Sequence[str], say: Callable[[str, Exception], None]) -> None:
    """A look at some of these topics, where one is due; warns of what it found.

    `say` is told of a topic where it failed; the others are looked at all the same.
    """
    start = random.randrange(len(topics)) if topics else 0
    for topic in [*topics[start:], *topics[:start]][:_TOPICS_A_TICK]:
        for verb in ("audit_live", "audit_dead"):
            try:
                _pace(topic, verb)
            except Exception as exc:  # the other half may mend what stopped it
                say(topic, exc)


def audit_registry() -> None:
    """See that the lists all processes share are lists of their kind."""
    flat = scripts.run("audit_registry", "", retry_s=0)
    for key, kind in zip(flat[::2], flat[1::2], strict=True):
        log.error("%s held a %s, which nobody here wrote: deleted", key, kind)


def _pace(topic: str, verb: str) -> None:
    """One look; more where it finds wounds: somebody waits for these tasks."""
    pace_ms = PACE_MS
    for _ in range(_AGAIN_MOST):
        found = Findings()
        _look(topic, found, verb, pace_ms)
        if not found.mended:
            return
        pace_ms = 0


def _look(topic: str, found: Findings, verb: str, pace_ms: int) -> bool:
    """One call of a walk; whether there is nothing left of its round."""
    args: list[Any] = [pace_ms, LOOKS]
    more = [keys.group_key(topic, _LOST[0])]
    if verb == "audit_live":
        args += [conf.MAX_DELIVERIES, *_LOST, *_POISON, conf.RESULTS_KEEP]
        more.append(keys.group_key(topic, _POISON[0]))
    else:
        args += [topic, *_LOST, conf.BIN_MAX]
    reply: list[Any] = scripts.run(verb, topic, args, more, retry_s=0)
    if not reply:
        return True  # another janitor was here, or the topic is gone
    round_, ended, drift, news, mended, seen, *dead = reply
    if dead:
        groups, timeless = dead
        mended = [*mended, *_groups(topic, groups, int(round_))]
    found.mended += mended
    found.seen += seen
    found.drift = int(drift)
    tell(topic, mended)
    if news and found.drift:
        log.error("%s: the ledger is off by %+d", topic, found.drift)
    elif news:
        log.warning("%s: the ledger balances again", topic)
    if dead:
        _renumber(topic, dict.fromkeys(timeless), found)
    return bool(int(ended))


def tell(topic: str, mended: Sequence[str]) -> None:
    """Warn of wounds that were closed, each as `what id`."""
    if mended:
        log.warning("%s: repaired %s", topic, _summed(mended))


def _summed(mended: Sequence[str]) -> str:
    """`3 lost, 1 row (the first: lost <id>)`: thousands of wounds are one line."""
    kinds = Counter(what.partition(" ")[0] for what in mended)
    said = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    return f"{said} (the first: {mended[0]})"


def _renumber(topic: str, streams: Iterable[str], found: Findings) -> None:
    """Let streams with an id that is no time take more. BusError where one cannot be
    written anew: that is for a person to put right."""
    aside = keys.group_key(topic, "aside")  # of no failure; gone when the script ends
    for stream in streams:
        told: list[str] | str = scripts.run(
            "renumber", topic, [messages.TIME_MOST_MS], [stream, aside], retry_s=0
        )
        if isinstance(told, str):
            raise errors.BusError(
                f"{stream} takes no entry before it is given other ids, and was not "
                f"given any: {told}. Delete that by hand, and the audit does the rest"
            )
        found.mended += told
        tell(topic, told)


def _groups(topic: str, flat: Sequence[str], round_: int) -> Iterable[str]:
    """Failure groups against the letters and facts that were seen."""
    letters: dict[str, list[str]] = defaultdict(list)
    for fp, dead_id in zip(flat[::2], flat[1::2], strict=True):
        letters[fp] += [dead_id] if dead_id else []
    for fp, ids in letters.items():
        more = [keys.group_key(topic, fp)]
        args = [fp, round_, *ids]
        yield from scripts.run("audit_group", topic, args, more, retry_s=0)[1]
