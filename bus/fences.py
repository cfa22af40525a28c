"""Deliveries over HTTP, each known by its fence: ended, renewed, given back.

Whoever knows the fence may do so, and is told what became of a delivery that is not
held any more. What others hold, such as the agent runtime, is out of reach here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from . import endings, failures, keys, messages, records, refusals, scripts
from .conf import conf
from .endings import DUPLICATE, FENCED, GONE, OK, Completion, Delivery, Failure, Fence

CANCELLED: Final = "cancelled"
TIMEOUT: Final = "timeout"
_WITH_PAYLOADS: Final = 25  # at a time: 256 KiB each
_GRACE_MS: Final = 5_000  # an attempt this long past its time is not renewed any more
# No row was lent before; counts of others are less.
_SINCE_MS: Final = 1_000_000_000_000


@dataclass(frozen=True, slots=True)
class Failed:
    """How an attempt failed, as its agent tells it; `delay_s` None: the backoff."""

    kind: str
    message: str
    traceback: str = ""
    delay_s: float | None = None
    final: bool = False


def complete(ends: Sequence[tuple[Fence, bytes]]) -> list[str]:
    """End deliveries with their results (JSON); per item ok, duplicate (this fence has
    ended its task before), fenced, cancelled or gone."""
    results = dict(ends)

    def end(look: _Look, consumer: str, held: list[_Held]) -> list[str]:
        items = [
            _completion(look, consumer, each, results[each.fence]) for each in held
        ]
        args = endings.complete_args(look.group, consumer, items)
        raw = scripts.run("complete", look.topic, args)
        return endings.complete_outcomes(raw, items)

    return _each(list(results), end, _ended_by, payloads=True)


def fail(ends: Sequence[tuple[Fence, Failed]]) -> list[str]:
    """End attempts as failed; per item delayed or dead, duplicate, fenced, cancelled or
    gone."""
    how = dict(ends)

    def end(look: _Look, consumer: str, held: list[_Held]) -> list[str]:
        items = [_failure(look, consumer, each, how[each.fence]) for each in held]
        args, more = endings.fail_args(look.topic, look.group, consumer, items)
        return [str(each) for each in scripts.run("fail", look.topic, args, more)]

    return _each(list(how), end, _failed_by)


def extend(fences: Sequence[Fence]) -> list[str]:
    """Renew leases; per item ok, cancelled (renewed, but to be stopped), timeout (not
    renewed: its task or topic sets a time, which is over), fenced or gone."""

    def end(look: _Look, consumer: str, held: list[_Held]) -> list[str]:
        outcomes = [OK if each.in_time(look) else TIMEOUT for each in held]
        places = [at for at, outcome in enumerate(outcomes) if outcome == OK]
        args: list[Any] = [look.group, consumer]
        for at in places:
            args += (held[at].fence.sid, held[at].fence.n, held[at].fence.id)
        _, _, _, cancelled, fenced, _ = scripts.run("heartbeat", look.topic, args)
        for kind, found in ((CANCELLED, cancelled), (FENCED, fenced)):
            for index in found:
                outcomes[places[int(index)]] = kind
        return outcomes

    return _each(list(fences), end, _not_ended)


def release(fences: Sequence[Fence]) -> list[str]:
    """Give deliveries back unfinished, at no attempt; per item ok, cancelled (that was
    asked for, and the task has ended), fenced or gone."""

    def end(look: _Look, consumer: str, held: list[_Held]) -> list[str]:
        args: list[Any] = [look.group, consumer, look.topic, conf.RESULTS_KEEP]
        for each in held:
            args += (each.fence.sid, each.fence.n, each.fence.id)
        return [str(each) for each in scripts.run("release", look.topic, args)]

    return _each(list(fences), end, _not_ended)


@dataclass(frozen=True, slots=True)
class _Held:
    """A delivery that an agent over HTTP holds."""

    fence: Fence
    consumer: str
    record: records.Record
    meta: str
    lent_ms: int
    json: str

    def in_time(self, look: _Look) -> bool:
        """Whether its attempt may go on."""
        most_s = timeout_s(self.record, look.timeout)
        if most_s is None:
            return True
        return look.now_ms <= self.lent_ms + most_s * 1000 + _GRACE_MS

    def delivery(self) -> Delivery:
        """As the scripts that end it are told."""
        at = self.fence
        return Delivery(
            at.topic, at.sid, at.id, self.json, self.meta, self.record, self.lent_ms
        )


@dataclass(frozen=True, slots=True)
class _Rest:
    """What became of a delivery that is not held; `info` as `held.lua` has it."""

    kind: str
    info: str
    attempts: str


@dataclass(frozen=True, slots=True)
class _Look:
    """How deliveries of one topic stood in one moment."""

    topic: str
    now_ms: int
    group: str
    timeout: str
    held: dict[str, list[_Held]]  # by consumer
    rest: dict[Fence, _Rest]


_End = Callable[[_Look, str, list[_Held]], list[str]]
_Became = Callable[[_Rest, Fence], str]


def _each(
    fences: list[Fence], end: _End, became: _Became, payloads: bool = False
) -> list[str]:
    """Have `end` end what is held; `became` tells the outcome of all others.

    A damaged key is raised once every topic had its turn. What fails after something
    was ended is an OutcomeUnknown: a repeat is told `duplicate` of that.
    """
    outcomes: dict[Fence, str] = {}
    damaged: refusals.DamagedKey | None = None
    with contextlib.ExitStack() as behind:
        most = _WITH_PAYLOADS if payloads else endings.BATCH
        for topic, some in _batches(fences, most):
            try:
                look = _look(topic, some, payloads)
                for consumer, held in look.held.items():
                    ended = end(look, consumer, held)
                    behind.enter_context(refusals.written())
                    outcomes |= zip((each.fence for each in held), ended, strict=True)
                # Somebody was faster since we looked: perhaps we ourselves, unheard.
                missed = [each for each in some if outcomes.get(each) in (FENCED, GONE)]
                rest = look.rest | (_look(topic, missed, False).rest if missed else {})
                outcomes |= {fence: became(told, fence) for fence, told in rest.items()}
            except refusals.DamagedKey as exc:
                damaged = damaged or exc
        if damaged is not None:
            raise damaged
    return [outcomes[fence] for fence in fences]


def _batches(fences: list[Fence], most: int) -> Iterator[tuple[str, list[Fence]]]:
    by_topic: dict[str, list[Fence]] = {}
    for fence in fences:
        by_topic.setdefault(fence.topic, []).append(fence)
    for topic, mine in by_topic.items():
        for at in range(0, len(mine), most):
            yield topic, mine[at : at + most]


def _look(topic: str, fences: list[Fence], payloads: bool) -> _Look:
    args: list[Any] = ["1" if payloads else "0"]
    for fence in fences:
        args += (fence.sid, fence.n, fence.id)
    now, group, timeout, *flat = scripts.run("held", topic, args)
    look = _Look(topic, int(now), group, timeout, {}, {})
    for at, fence in enumerate(fences):
        kind, who, info, more, lent, json = flat[6 * at : 6 * at + 6]
        if kind == "held" and keys.lease_of(who) is not None:
            record = records.parse_record(info)
            lent_ms = int(lent) if int(lent) > _SINCE_MS else look.now_ms
            item = _Held(fence, who, record, more, lent_ms, json)
            look.held.setdefault(who, []).append(item)
        else:
            look.rest[fence] = _Rest(kind, info, more)
    return look


def _was_cancelled(found: _Rest, fence: Fence) -> bool:
    if found.kind != "done":
        return False
    row = messages.parse_row(found.info)
    return row.get("state") == CANCELLED and row.get("fence") == fence.text


def _not_ended(found: _Rest, fence: Fence) -> str:
    if _was_cancelled(found, fence):
        return CANCELLED
    return GONE if found.kind == "gone" else FENCED


def _ended_by(found: _Rest, fence: Fence) -> str:
    if found.kind == "done":
        row = messages.parse_row(found.info)
        is_done = row.get("state") == messages.DONE
        if is_done and row.get("fence") == fence.text:
            return DUPLICATE
    return _not_ended(found, fence)


def _failed_by(found: _Rest, fence: Fence) -> str:
    if not _was_cancelled(found, fence) and found.kind in ("live", "done", "dead"):
        for line in found.attempts.split("\n"):  # errors may hold other line breaks
            attempt = messages.parse_row(line)
            error = attempt.get("error")
            lost = isinstance(error, dict) and error.get("type") == failures.LEASE_LOST
            if attempt.get("fence") == fence.text and not lost:
                return DUPLICATE
    return _not_ended(found, fence)


def _completion(look: _Look, consumer: str, held: _Held, result: bytes) -> Completion:
    item = held.delivery()
    enqueued_ms = item.enqueued_ms
    row = endings.result_row(
        *(item.id, item.topic, item.json, result),
        agent=keys.agent_of(consumer),
        attempt=item.record.attempt + 1,
        fence=item.fence,
        enqueued_ms=enqueued_ms,
        started_ms=held.lent_ms,
        finished_ms=look.now_ms,
        own=records.own(item.record.options),
    )
    return Completion(
        item,
        row,
        failures.log2_bucket(held.lent_ms - enqueued_ms),
        failures.log2_bucket(look.now_ms - held.lent_ms),
    )


def _failure(look: _Look, consumer: str, held: _Held, how: Failed) -> Failure:
    item = held.delivery()
    attempt = item.record.attempt + 1
    facts = failures.told(how.kind, how.message, how.traceback, how.final)
    line = failures.attempt_line(
        epoch=item.record.epoch,
        attempt=attempt,
        agent=keys.agent_of(consumer),
        fence=item.fence,
        started_ms=held.lent_ms,
        finished_ms=look.now_ms,
        error=facts,
    )
    delay_s = how.delay_s
    if delay_s is None:
        delay_s = failures.backoff_s(attempt, conf.BACKOFF_S, conf.BACKOFF_MAX_S)
    return Failure(
        item,
        line,
        messages.dump(facts),
        failures.fingerprint(facts),
        delay_s,
        how.final,
        conf.MAX_ATTEMPTS,
        failures.log2_bucket(look.now_ms - held.lent_ms),
    )


def timeout_s(record: records.Record, of_topic: str) -> float | None:
    """How long an attempt may take, s: as its task says, else its topic, else None.

    The default is for handlers of the runtime; an agent over HTTP knows its own.
    """
    own_s = records.timeout_s(record.options)
    return records.seconds(of_topic) if own_s is None else own_s
