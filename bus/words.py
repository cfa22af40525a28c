"""Numbers, durations and paces as people say them in a sentence."""

from __future__ import annotations


def sentence(text: str) -> str:
    """With its first letter large, and a full stop."""
    return text[0].upper() + text[1:] + "."


def count(number: int, noun: str) -> str:
    """`1 task`, `1,000 tasks`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def noun(number: int, one: str, many: str) -> str:
    """Whichever of two fits a count."""
    return one if number == 1 else many


def are(number: int) -> str:
    """The verb to a count."""
    return "is" if number == 1 else "are"


def were(number: int) -> str:
    """The verb to a count of what is past."""
    return "was" if number == 1 else "were"


def span(seconds: float) -> str:
    """A duration: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return _parts(minutes, "min", rest, "s")
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return _parts(hours, "h", rest, "min")
    return _parts(hours // 24, "d", hours % 24, "h")


def _parts(number: int, unit: str, rest: int, unit_of_rest: str) -> str:
    return f"{number:,} {unit}" + (f" {rest} {unit_of_rest}" if rest else "")


def estimate(seconds: float, least: bool = False) -> str:
    """A duration nobody knows better: `about 12 s`; with `least`, `more than 12 s`.

    Below a second there is nothing to wait for.
    """
    if least or seconds >= 1:
        said = span(seconds).replace(".0 ", " ")
        return f"{'more than' if least else 'about'} {said}"
    return "less than 1 s"


def pace(per_s: float) -> str:
    """How often something happens, in the unit that fits."""
    for number, unit in ((per_s, "second"), (per_s * 60, "minute")):
        if number >= 1:
            return f"{_digits(number)} per {unit}"
    return f"{_digits(per_s * 3600)} per hour"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if number >= 9.95 else f"{number:.1f}"
