"""How soon tasks start, from what agents told of themselves and from what ended."""

from __future__ import annotations

from typing import Any

import pytest

from bus import pace
from bus.pace import Ends


def row(name: str = "a", **facts: Any) -> dict[str, Any]:
    """An agent of topic `t` as the overview has it."""
    return {
        "agent_id": name,
        "consumer": f"{name}#1",
        "topics": ["t"],
        "slots": None,
        "per_topic": {},
        **facts,
    }


def share(slots: Any, run_s: Any = None, name: str = "a") -> dict[str, Any]:
    return row(name, per_topic={"t": {"slots": slots, "run_s": run_s}})


def crew(*rows: dict[str, Any], mean_s: float | None = None, **held: int) -> pace.Crew:
    """The crew where consumers `name#1` hold so many tasks."""
    named = {f"{name}#1": count for name, count in held.items()}
    return pace.crew("t", rows, named, 0, mean_s)


def ends(count: int, span_s: float, *, first_s: float = 0.0, **minutes: int) -> Ends:
    """So many ends since `span_s` ago, the first of them `first_s` after its begin."""
    since = 1_000_000
    done, tried = minutes.get("done", count), minutes.get("tried", count)
    now, first = since + int(span_s * 1000), since + int(first_s * 1000)
    return Ends(now, since, first, count, done, tried)


# --- slots


def test_slots_of_a_topic_are_those_that_serve_it() -> None:
    two = {"t": {"slots": 3}, "other": {"slots": 90}}

    found = row(slots=93, topics=["t", "other"], per_topic=two)

    assert pace.slots_of(found, "t") == 3


@pytest.mark.parametrize(
    ("slots", "topics", "share_of_t"),
    [
        (8, ["t"], 8),
        (9, ["t", "other"], 4),
        (1, ["t", "other"], 1),
        (3, [], 3),
        (0, ["t"], 0),
        (None, ["t"], 0),
        ("many", ["t"], 0),
    ],
)
def test_a_record_of_an_earlier_version_gives_a_fair_share(
    slots: Any, topics: list[str], share_of_t: int
) -> None:
    assert pace.slots_of(row(slots=slots, topics=topics), "t") == share_of_t


@pytest.mark.parametrize("broken", [None, 7, "x", ["t"], {"slots": "many"}])
def test_what_somebody_else_wrote_as_a_share_counts_nothing(broken: Any) -> None:
    assert pace.slots_of(row(per_topic={"t": broken}), "t") == 0


def test_free_slots_are_those_that_hold_nothing() -> None:
    rows = (share(4, name="a"), share(4, name="b"), row("told-nothing"))

    # What `a` holds beyond its slots takes none of the others'.
    assert crew(*rows, a=6, b=1).free == 3 + 1


def test_agents_by_hand_that_hold_nothing_are_free() -> None:
    assert pace.crew("t", [], {"hand": 2}, 1, None).free == 1


def test_an_agent_without_a_consumer_holds_tasks_under_its_id() -> None:
    hand = share(4, name="hand") | {"consumer": ""}

    assert pace.crew("t", [hand], {"hand": 1}, 0, None).free == 3


# --- pace of the slots


def test_each_agent_counts_with_what_its_runs_took() -> None:
    both = crew(share(4, 2.0), share(3, 0.5, "b"))

    assert both.per_s == pytest.approx(2 + 6)
    assert (both.slots, both.run_s) == (7, pytest.approx(1.25))


def test_an_agent_that_ended_nothing_counts_with_the_mean_of_the_topic() -> None:
    assert crew(share(4), mean_s=2.0).per_s == pytest.approx(2.0)
    assert crew(share(4), share(1, 0.5, "b")).per_s == pytest.approx(8 + 2)


@pytest.mark.parametrize("broken", ["soon", -1.0, None, [2]])
def test_a_run_time_that_is_none_counts_as_untold(broken: Any) -> None:
    assert crew(share(4, broken)).run_s is None


def test_runs_may_take_no_time_at_all() -> None:
    assert crew(share(1, 0)).run_s == 0
    assert crew(share(1, 0)).per_s == pytest.approx(20_000)


def test_without_slots_or_run_times_nobody_knows_the_pace() -> None:
    assert crew(share(4)).per_s is None
    assert crew(row(), mean_s=1.0).per_s is None


def test_no_process_is_promised_to_be_faster_than_one_can_be() -> None:
    per_s = crew(share(100, 1e-6)).per_s

    assert per_s is not None and per_s <= 20_000


# --- pace of what ended


def test_where_nothing_ended_the_slots_tell_alone() -> None:
    assert pace.per_s(crew(share(4, 1.0)), None) == pytest.approx(4.0)
    assert pace.per_s(crew(row()), None) is None


def test_five_ends_are_more_than_chance_and_a_second_is_long_enough() -> None:
    assert pace.per_s(crew(row()), ends(5, 20)) == pytest.approx(0.25)
    assert pace.per_s(crew(row()), ends(40, 0.5)) == pytest.approx(80)


def test_where_run_times_are_unknown_the_first_end_is_the_begin() -> None:
    assert pace.per_s(crew(row()), ends(40, 20, first_s=10)) == pytest.approx(4.0)


def test_what_ended_while_tasks_waited_tells_the_pace() -> None:
    assert pace.per_s(crew(share(4, 1.0)), ends(40, 20)) == pytest.approx(2.0)


@pytest.mark.parametrize("few", [0, 4])
def test_a_few_ends_tell_of_chance(few: int) -> None:
    assert pace.per_s(crew(share(4, 1.0)), ends(few, 20)) == pytest.approx(4.0)
    assert pace.per_s(crew(row()), ends(few, 20)) is None


def test_the_first_waves_tell_less_than_the_slots() -> None:
    """Twelve tasks of 5 s that began together end together."""
    twelve = crew(share(12, 5.0))

    assert pace.per_s(twelve, ends(12, 5.1, first_s=5)) == pytest.approx(2.4)
    assert pace.per_s(twelve, ends(72, 30.1, first_s=5)) == pytest.approx(72 / 30.1)


def test_a_queue_may_be_older_than_its_agents() -> None:
    """They came 590 s after the queue, so tasks of 1 s ended from 591 s on."""
    seen = ends(36, 600, first_s=591)

    assert pace.per_s(crew(share(4, 1.0)), seen) == pytest.approx(3.6)


def test_attempts_that_failed_had_their_turns_too() -> None:
    seen = ends(10, 20, done=10, tried=40)

    assert pace.per_s(crew(share(4, 1.0)), seen) == pytest.approx(2.0)


def test_cancelling_a_topic_is_no_pace() -> None:
    """A thousand tasks were cancelled and ten done."""
    seen = ends(1_000, 20, done=10, tried=10)

    assert pace.per_s(crew(share(4, 1.0)), seen) == pytest.approx(0.5)
    assert pace.per_s(crew(share(4, 1.0)), ends(1_000, 20, done=0)) == 4.0


def test_nothing_is_promised_beyond_twice_what_the_slots_make_likely() -> None:
    assert pace.per_s(crew(share(4, 1.0)), ends(4_000, 20)) == pytest.approx(8.0)


def test_agents_that_tell_nothing_are_measured_all_the_same() -> None:
    assert pace.per_s(crew(row()), ends(40, 20)) == pytest.approx(2.0)


def test_ends_of_this_very_moment_tell_nothing() -> None:
    assert pace.per_s(crew(row()), ends(40, 0)) is None
