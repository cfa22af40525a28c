"""For how long one call is repeated, told by the errors it meets."""

from __future__ import annotations

import contextlib
import time

import pytest
import redis

from bus import errors
from bus.patience import Pause

LOST = redis.ConnectionError("Connection closed by server.")
HUNG = redis.TimeoutError("Timeout reading from socket")
BUSY = redis.exceptions.BusyLoadingError("LOADING")
FINAL = redis.ResponseError("ERR unknown command")
LONG_S = 3_600.0


@pytest.mark.parametrize("exc", [LOST, HUNG, BUSY, TimeoutError(), OSError()])
def test_what_passes_is_waited_for_in_growing_steps(exc: Exception) -> None:
    pause = Pause(wrote=False, retry_s=LONG_S)

    for step in (0.02, 0.04, 0.08, 0.16, 0.32, 0.5, 0.5, 0.5):
        assert step * 0.5 <= pause.after(exc) <= step * 1.5


def test_calls_that_failed_together_do_not_come_back_together() -> None:
    waits = {Pause(wrote=False, retry_s=LONG_S).after(LOST) for _ in range(20)}

    assert len(waits) > 1


def test_the_end_is_measured_from_where_the_call_began() -> None:
    now = time.monotonic()

    with pytest.raises(errors.BusUnavailable):
        Pause(wrote=False, retry_s=10, began=now - 10).after(LOST)
    assert Pause(wrote=False, retry_s=LONG_S, began=now - 10).after(LOST) > 0


def test_a_call_waits_no_longer_than_it_has_left() -> None:
    pause = Pause(wrote=False, retry_s=0.2)

    # Without the bound the last steps would be 250 ms and more.
    with contextlib.suppress(errors.BusUnavailable):
        assert all(pause.after(LOST) <= 0.2 for _ in range(10))
    with pytest.raises(errors.BusUnavailable):
        Pause(wrote=False, retry_s=0).after(LOST)


def test_without_a_budget_of_its_own_a_call_has_that_of_the_settings() -> None:
    assert Pause(wrote=False).after(LOST) > 0
    with pytest.raises(errors.BusUnavailable):
        Pause(wrote=False, began=time.monotonic() - 11).after(LOST)
    assert Pause(wrote=False, began=time.monotonic() - 1).after(LOST) > 0


def test_what_is_final_is_raised_at_once() -> None:
    with pytest.raises(errors.BusError) as caught:
        Pause(wrote=True, retry_s=LONG_S).after(FINAL)

    assert caught.value.__cause__ is FINAL
    assert not isinstance(caught.value, errors.OutcomeUnknown)


@pytest.mark.parametrize("exc", [HUNG, TimeoutError()])
def test_one_timeout_ends_a_brief_call(exc: Exception) -> None:
    with pytest.raises(errors.BusUnavailable):
        Pause(wrote=False, retry_s=LONG_S, brief=True).after(exc)


def test_a_brief_call_repeats_what_comes_back_at_once() -> None:
    assert Pause(wrote=False, retry_s=LONG_S, brief=True).after(LOST) > 0


def test_a_write_without_an_answer_is_unknown_whatever_came_after_it() -> None:
    pause = Pause(wrote=True, retry_s=LONG_S)
    assert pause.unknown is None

    pause.after(LOST)
    pause.after(BUSY)

    assert isinstance(pause.unknown, errors.OutcomeUnknown)
    with pytest.raises(errors.OutcomeUnknown) as caught:
        pause.after(FINAL)
    assert caught.value is pause.unknown
    assert caught.value.__cause__ is FINAL


def test_a_read_without_an_answer_is_known_to_have_done_nothing() -> None:
    pause = Pause(wrote=False, retry_s=LONG_S)

    pause.after(LOST)

    assert pause.unknown is None
