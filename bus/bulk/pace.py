"""How fast a bulk replay goes, and when it stops itself."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from .. import errors

STEPS: Final = (1, 10)  # letters of the first steps of a canary; then come the rest
RATE_LEAST, RATE_MOST = 0.1, 10_000.0  # letters per second
FAILURES_USUAL: Final = 0.1  # of a canary that names no rate of its own
# Outcomes behind the canary are judged some at a time, so that failures that begin late
# are not hidden by everything that went well before.
_JUDGED_LEAST: Final = 20
_JUDGED_MOST: Final = 200
OPEN_MOST: Final = 1_000  # outcomes that may be open where failures are to stop it


@dataclass(frozen=True, slots=True)
class Pace:
    """What was asked for.

    `rate`: letters per second, None for as fast as it goes. `canary`: one letter, ten,
    then the rest, each step once the outcomes of the one before are known. It stops
    itself where more than `max_failure_rate` (0 to 1) of a step are dead again; None:
    never.
    """

    rate: float | None = None
    canary: bool = False
    max_failure_rate: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is stored, and told."""
        return asdict(self)

    def changed(self, **given: Any) -> Pace:
        """The same but for what is given; InvalidOption as of `checked`."""
        return checked(**{**self.as_dict(), **given})


def checked(
    rate: float | None = None,
    canary: bool = False,
    max_failure_rate: float | None = None,
) -> Pace:
    """The pace, or InvalidOption for a number outside its range."""
    if rate is not None and not RATE_LEAST <= _number(rate, "rate") <= RATE_MOST:
        raise errors.InvalidOption(
            f"rate {rate!r} is not {RATE_LEAST:g} to {RATE_MOST:,.0f} letters a second"
        )
    most = max_failure_rate
    if most is not None and not 0 <= _number(most, "max_failure_rate") <= 1:
        raise errors.InvalidOption(f"max_failure_rate {most!r} is not 0 to 1")
    if canary and most is None:
        most = FAILURES_USUAL
    return Pace(rate, bool(canary), most)


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise errors.InvalidOption(f"{name} {value!r:.40} is not a number")
    return float(value)


@dataclass(frozen=True, slots=True)
class Counts:
    """How far a bulk replay is, over all its topics.

    Of its letters `todo` are to come, `replayed` are back at work: `open` of these have
    not ended, the others are `done`, `dead` again, `cancelled`, or `unknown` (the
    result was trimmed before we looked). `skipped` were replayed or discarded by others
    before their turn, `failed` cannot be replayed, `left` were left out by a cancel.
    """

    todo: int = 0
    replayed: int = 0
    open: int = 0
    done: int = 0
    dead: int = 0
    cancelled: int = 0
    unknown: int = 0
    skipped: int = 0
    failed: int = 0
    left: int = 0

    def as_dict(self) -> dict[str, int]:
        """As it is stored, and told."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Gauge:
    """From where the step at hand is counted; its number from 0."""

    step: int = 0
    replayed: int = 0
    done: int = 0
    dead: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many letters may go now, or why to stop; from where is counted on."""

    gauge: Gauge
    allow: int = 0
    stop: str = ""
    finished: bool = False


def decide(pace: Pace, now: Counts, gauge: Gauge) -> Verdict:
    """What comes next.

    1. Nothing left to do and no outcome open: finished.
    2. In a step of the canary: its letters, then the wait for all their outcomes.
    3. A step that is known: stop, or on to the next one.
    4. Behind the canary: as many as may be open at once.
    """
    if not now.todo:
        return Verdict(gauge, finished=not now.open)
    most = pace.max_failure_rate
    if pace.canary and gauge.step < len(STEPS):
        size = STEPS[gauge.step]
        missing = size - (now.replayed - gauge.replayed)
        if now.open or missing > 0:
            # What failed so far may be too much, whatever comes of the others.
            why = _too_many(most, now, gauge, size)
            return Verdict(gauge, 0 if why else max(0, missing), why)
        why = _too_many(most, now, gauge, 0)
        if why:
            return Verdict(gauge, stop=why)
        return decide(pace, now, _from(now, gauge.step + 1))
    if most is None:
        return Verdict(gauge, now.todo)
    known = now.done - gauge.done + now.dead - gauge.dead
    why = _too_many(most, now, gauge, 0) if known >= _JUDGED_LEAST else ""
    if why:
        return Verdict(gauge, stop=why)
    if known >= _JUDGED_MOST:
        gauge = _from(now, gauge.step)
    return Verdict(gauge, max(0, min(now.todo, OPEN_MOST - now.open)))


def start(now: Counts) -> Gauge:
    """Where a bulk replay begins, or begins again after somebody looked at it."""
    return _from(now, 0)


def _from(now: Counts, step: int) -> Gauge:
    return Gauge(step, now.replayed, now.done, now.dead)


def _too_many(most: float | None, now: Counts, gauge: Gauge, size: int) -> str:
    """Why to stop, empty for no reason; of `size` letters, or of all known ones."""
    dead = now.dead - gauge.dead
    known = size or (now.done - gauge.done + dead)
    if most is None or not dead or dead / known <= most:
        return ""
    return (
        f"{dead:,} of {known:,} {'letter' if known == 1 else 'letters'} "
        f"{'is' if dead == 1 else 'are'} dead again: {dead / known:.0%}, "
        f"more than {most:.0%}"
    )


def named(pace: Pace, step: int) -> str:
    """The step for eyes: `canary 1 of 2`, `rest`, or empty without a canary."""
    if not pace.canary:
        return ""
    return f"canary {step + 1} of {len(STEPS)}" if step < len(STEPS) else "rest"
