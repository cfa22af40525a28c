"""Failures: what an attempt keeps of its exception, and which failures are the same."""

from __future__ import annotations

import re
import statistics
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import errors, failures, history, messages
from tests.support import ids


class SilentError(Exception):
    pass


class BrokenTextError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text for you")


class NumericTextError(Exception):
    def __str__(self) -> str:
        return 5  # type: ignore[return-value]


class SourceError(Exception):
    kind = "UnknownCodec"


class BrokenKindError(Exception):
    @property
    def kind(self) -> str:
        raise RuntimeError("no kind for you")


class Unspeakable:
    def __str__(self) -> str:
        raise ZeroDivisionError


class UnspeakableKindError(Exception):
    kind = Unspeakable()


def raised(exc: BaseException) -> BaseException:
    """The exception with the traceback of having been raised here."""
    try:
        raise exc
    except BaseException as caught:
        return caught


def boom(depth: int, message: str = "boom") -> None:
    if depth:
        boom(depth - 1, message)
    raise ValueError(message)


def deep(depth: int, message: str = "boom") -> BaseException:
    try:
        boom(depth, message)
    except ValueError as caught:
        return caught
    raise AssertionError


def fingerprint(
    message: str, kind: str = "ValueError", frame: str = "agents.py:resize"
) -> str:
    return failures.fingerprint({"type": kind, "message": message, "frame": frame})


# --- describe


def test_it_says_type_message_and_where_it_happened() -> None:
    exc = raised(ValueError("no such width"))

    facts = failures.describe(exc)

    assert facts["type"] == "ValueError"
    assert facts["message"] == "no such width"
    assert facts["frame"] == "test_failures.py:raised"
    assert facts["reason"] == "failed"
    assert facts["traceback"] == "".join(traceback.format_exception(exc))


def test_the_frame_is_the_innermost_one() -> None:
    assert failures.describe(deep(3))["frame"] == "test_failures.py:boom"


def test_an_exception_that_was_never_raised_has_no_frame() -> None:
    facts = failures.describe(ValueError("made, not raised"))

    assert facts["frame"] == ""
    assert facts["message"] == "made, not raised"


def test_an_exception_without_text_is_called_by_its_type() -> None:
    assert failures.describe(raised(SilentError()))["message"] == "SilentError"


def test_an_exception_can_tell_its_kinds_apart() -> None:
    assert failures.describe(raised(SourceError("x")))["type"] == "UnknownCodec"


def test_an_exception_can_tell_its_kind_for_itself_alone() -> None:
    exc = ValueError("x")
    exc.kind = "UnknownCodec"  # type: ignore[attr-defined]

    assert failures.describe(raised(exc))["type"] == "UnknownCodec"


def test_what_was_described_elsewhere_is_told_as_it_was() -> None:
    exc, facts = raised(ValueError("x")), {"type": "Other", "message": "there"}
    exc.mesh_facts = facts  # type: ignore[attr-defined]

    assert failures.describe(exc) == facts


def test_an_exception_that_cannot_say_it_is_called_by_its_type() -> None:
    facts = failures.describe(raised(BrokenTextError()))

    assert (facts["type"], facts["message"]) == ("BrokenTextError",) * 2


def test_an_exception_whose_traceback_cannot_be_made_has_what_can() -> None:
    facts = failures.describe(raised(SyntaxError("bad", ("f.py", 1, 1, b"x = = 1"))))

    assert (facts["type"], facts["traceback"]) == ("SyntaxError", "")
    assert facts["message"] == "bad (f.py, line 1)"


def test_the_name_of_a_type_has_128_characters_at_most() -> None:
    long = type("E" * 200, (Exception,), {})

    assert failures.describe(long("x"))["type"] == "E" * 128


def _within_bus(code: str, **names: Any) -> BaseException:
    """What this code raises, as if it stood in a file of the engine."""
    where = f"{Path(failures.__file__).parent}/runtime/lane.py"
    try:
        exec(compile(code, where, "exec"), names)
    except ValueError as caught:
        # What stands above, here, is no part of it.
        assert caught.__traceback__ is not None
        return caught.with_traceback(caught.__traceback__.tb_next)
    raise AssertionError


def test_frames_of_the_engine_around_a_handler_are_left_out() -> None:
    facts = failures.describe(_within_bus("boom(0)", boom=boom))

    assert facts["frame"] == "test_failures.py:boom"
    head, file, *_ = facts["traceback"].splitlines()
    assert head == "Traceback (most recent call last):"
    assert file.endswith("in boom")


def test_a_handler_that_misuses_the_engine_is_where_it_happened() -> None:
    def sends() -> None:
        raise _within_bus("raise ValueError('no JSON')")

    try:
        sends()
    except ValueError as caught:
        facts = failures.describe(caught)

    assert facts["frame"] == "test_failures.py:sends"
    assert "runtime/lane.py" in facts["traceback"]


def test_a_bug_of_the_engine_itself_has_its_own_frames() -> None:
    facts = failures.describe(_within_bus("raise ValueError('ours')"))

    assert facts["frame"] == "lane.py:<module>"
    assert "runtime/lane.py" in facts["traceback"]


def test_code_without_a_file_has_a_frame_as_well() -> None:
    try:
        exec("raise ValueError('x')")
    except ValueError as caught:
        facts = failures.describe(caught)

    assert facts["frame"] == "<string>:<module>"


def test_giving_up_is_no_accident_and_needs_no_traceback() -> None:
    facts = failures.describe(raised(errors.GiveUp("the file does not parse")))

    assert facts["reason"] == "gave_up"
    assert facts["message"] == "the file does not parse"
    assert facts["traceback"] == ""


@pytest.mark.parametrize(
    "exc",
    [
        BrokenTextError(),
        NumericTextError(),
        BrokenKindError("x"),
        UnspeakableKindError("x"),
        ValueError("\ud800 lone"),
        ValueError("\x00\x1b[2J\u202e"),
        ValueError("x" * 1_000_000),
        ValueError("é" * 100_000),
        KeyError(("a", 1)),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        ExceptionGroup("many", [ValueError("\udfff"), BrokenTextError()]),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_no_exception_is_too_strange_for_a_letter(exc: Exception) -> None:
    facts = failures.describe(raised(exc))

    kept = messages.decode(messages.dump(facts))
    assert kept == facts
    assert facts["type"]
    assert len(facts["message"]) <= 1_024
    assert len(facts["traceback"].encode()) <= 4_096
    assert re.fullmatch(r"[0-9a-f]{16}", failures.fingerprint(facts))


def test_code_in_a_file_whose_name_is_no_utf_8_fails_like_any_other() -> None:
    code = compile("raise ValueError('x')", "/srv/\udcff.py", "exec")

    try:
        exec(code)
    except ValueError as caught:
        facts = failures.describe(caught)

    assert messages.decode(messages.dump(facts))["type"] == "ValueError"


@pytest.mark.parametrize("depth", [0, 10, 200, 900])
def test_a_traceback_keeps_4_kb_at_most_and_its_end(depth: int) -> None:
    text = failures.describe(deep(depth, "the very end"))["traceback"]

    assert len(text.encode()) <= 4_096
    assert text.endswith("ValueError: the very end\n")


@pytest.mark.parametrize("letter", ["é", "\U0001f600", "\ud800", "x"], ids=ids.plain)
@pytest.mark.parametrize("shift", range(4))
def test_a_traceback_is_not_cut_inside_a_letter(letter: str, shift: int) -> None:
    exc = raised(ValueError("x" * shift + letter * 5_000))

    text = failures.describe(exc)["traceback"]

    assert 4_000 < len(text.encode()) <= 4_096
    assert "\ufffd" not in text


def test_a_plain_error_is_bounded_and_printable_too() -> None:
    facts = failures.plain("Timeout", "\ud800" * 5_000, "timeout")

    assert messages.decode(messages.dump(facts)) == facts
    assert len(facts["message"]) == 1_024


def test_a_plain_error_has_what_nobody_raised() -> None:
    assert failures.plain("Timeout", "too long", "timeout") == {
        **{"type": "Timeout", "message": "too long", "reason": "timeout"},
    }


# --- fingerprints


def test_an_error_somebody_wrote_is_like_one_with_empty_members() -> None:
    assert failures.fingerprint({}) == fingerprint("", "", "")


def test_a_message_counts_up_to_its_256th_character() -> None:
    assert fingerprint("x" * 256) == fingerprint("x" * 256 + "y")
    assert fingerprint("x" * 255) != fingerprint("x" * 255 + "y")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("timed out after 12 ms", "timed out after 9 ms"),
        ("took 1.5 s", "took 22.75 s"),
        ("line 10, column 3", "line 2211, column 80"),
        ("object at 0x7f32aa10", "object at 0xDEADBEEF"),
        ("no user 'ann'", "no user 'bob'"),
        ('no user "ann"', 'no user "bob smith"'),
        ("no user ''", "no user 'ann'"),
        ("no\n  user", "no user"),
        (
            "task 0198c0de-0000-7000-8000-00000000abcd lost",
            "task ffffffff-aaaa-7bbb-8ccc-dddddddddddd lost",
        ),
        (
            "task 0198C0DE-0000-7000-8000-00000000ABCD lost",
            "task FFFFFFFF-AAAA-7BBB-8CCC-DDDDDDDDDDDD lost",
        ),
        ("can't open 'a.png'", "can't open 'b.png'"),
        ("bad value '" + "a" * 400 + "'", "bad value '" + "b" * 400 + "'"),
        ("'" + "a" * 100 + "' is no colour", "'b' is no colour"),
        ("bad number " + "1" * 400, "bad number 7"),
    ],
    ids=ids.plain,
)
def test_the_same_failure_of_another_input_is_the_same(one: str, other: str) -> None:
    assert fingerprint(one) == fingerprint(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no such user", "no such file"),
        ("timed out after 12 ms", "timed out after 12 s"),
        ("", "x"),
        ("\ud800", "x"),
    ],
    ids=ids.plain,
)
def test_another_failure_is_another(one: str, other: str) -> None:
    assert fingerprint(one) != fingerprint(other)


def test_another_type_is_another_failure() -> None:
    assert fingerprint("no", kind="KeyError") != fingerprint("no", kind="ValueError")


def test_another_place_is_another_failure() -> None:
    assert fingerprint("no", frame="a.py:f") != fingerprint("no", frame="a.py:g")


def test_attempt_and_traceback_do_not_change_what_failed() -> None:
    facts = failures.describe(deep(2))

    assert failures.fingerprint(facts) == failures.fingerprint(
        facts | {"traceback": "elsewhere", "reason": "gave_up"}
    )


@hypothesis.settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["type", "message", "frame", "reason"]),
        st.none() | st.integers() | st.text(st.characters(codec=None)),
    )
)
def test_every_error_has_a_fingerprint_of_16_hex_digits(error: dict[str, Any]) -> None:
    found = failures.fingerprint(error)

    assert re.fullmatch(r"[0-9a-f]{16}", found)
    assert found == failures.fingerprint(dict(error))


def test_a_hostile_message_is_normalised_in_no_time(
    performance_metrics: Any,
) -> None:
    """Messages come from inputs: no pattern may take more than linear time."""
    hostile = ["'" * 1_000_000, "1." * 500_000, "0x" * 500_000, "a-" * 500_000]

    for message in hostile:
        with performance_metrics.measure():
            fingerprint(message)

    assert performance_metrics.count == len(hostile)
    assert performance_metrics.percentile_s(1.0) < 10.0  # quadratic takes hours


# --- attempts, retries, histograms


def attempt(**change: Any) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "epoch": 0,
        "attempt": 2,
        "agent": "resizer-1",
        "fence": "5-0.1",
        "started_ms": 1_732_287_600_000,
        "finished_ms": 1_732_287_600_250,
        "error": {"type": "ValueError", "message": "line\nbreak"},
    }
    row: dict[str, Any] = messages.decode(failures.attempt_line(**(facts | change)))
    return row


def test_an_attempt_is_kept_on_one_line() -> None:
    line = failures.attempt_line(
        epoch=0,
        attempt=1,
        agent="a",
        fence="5-0.1",
        started_ms=0,
        finished_ms=1,
        error={"message": "two\nlines"},
    )

    assert b"\n" not in line
    [attempt] = history.parse(line.decode()).attempts
    assert attempt["error"] == {"message": "two\nlines"}


def test_an_attempt_says_who_when_how_long_and_why() -> None:
    row = attempt()

    assert (row["agent"], row["attempt"], row["fence"]) == ("resizer-1", 2, "5-0.1")
    assert row["epoch"] == 0
    assert row["started_at"] == "2024-11-22T15:00:00.000Z"
    assert row["finished_at"] == "2024-11-22T15:00:00.250Z"
    assert row["duration_ms"] == 250


def test_a_clock_that_went_back_gives_no_negative_duration() -> None:
    assert attempt(finished_ms=1_732_287_599_000)["duration_ms"] == 0


@pytest.mark.parametrize(
    ("number", "ceiling_s"), [(1, 1), (2, 2), (3, 4), (5, 16), (20, 600), (1_000, 600)]
)
def test_backoff_doubles_up_to_its_bound_with_full_jitter(
    number: int, ceiling_s: float
) -> None:
    delays = [failures.backoff_s(number, 1.0, 600.0) for _ in range(500)]

    assert all(0 <= delay <= ceiling_s for delay in delays)
    # Full jitter is uniform: its mean lies in the middle (σ of it is 1.3 %).
    assert abs(statistics.fmean(delays) / ceiling_s - 0.5) < 0.1


def test_a_pause_stops_doubling_after_thirty_failures() -> None:
    delays = [failures.backoff_s(100, 1.0, 1e300) for _ in range(100)]

    assert 2**29 < max(delays) <= 2**30


@pytest.mark.parametrize(
    ("ms", "bucket"),
    [(-5, 0), (0, 0), (0.9, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1_024, 11)]
    + [(2**30, 31), (2**40, 31), (1e300, 31)],
)
def test_a_histogram_bucket_is_a_doubling(ms: float, bucket: int) -> None:
    assert failures.log2_bucket(ms) == bucket


@pytest.mark.parametrize(
    ("signal", "reason"),
    [
        (lambda: errors.Retry(), "the handler asked for a retry"),
        (lambda: errors.Retry(5, "busy"), "busy"),
        (lambda: errors.GiveUp(), "the handler gave up"),
        (lambda: errors.GiveUp("no parser"), "no parser"),
    ],
    ids=["retry", "retry why", "give up", "give up why"],
)
def test_a_signal_of_a_handler_reads_as_its_reason(
    signal: Callable[[], Exception], reason: str
) -> None:
    assert failures.describe(raised(signal()))["message"] == reason


def test_an_error_told_over_http_is_cut_to_what_attempts_keep() -> None:
    told = failures.told("k" * 200, "m" * 100_000, "t" * 10_000, final=False)

    assert told["type"] == "k" * 128
    assert told["message"] == "m" * failures.MESSAGE_MOST
    assert len(told["traceback"]) <= 4_096
    assert (told["reason"], told["frame"]) == ("failed", "")
    assert failures.told("E", "m", "tb", final=True) == {
        **{"type": "E", "message": "m", "reason": "gave_up"},
        **{"frame": "", "traceback": "tb"},
    }
