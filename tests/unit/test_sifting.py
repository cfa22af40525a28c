"""A list with a filter: looked at for a moment, in parts that may be large."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count, islice
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import errors
from bus.abreast import Ask, Found
from dashboard import paging, seeking, sifting
from dashboard.paging import Page
from tests.unit.test_paging import Streams, key, look_into


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as it takes, on a busy machine as well."""
    monkeypatch.setattr(seeking, "_LOOK_S", 60.0)


class Looking:
    """Streams of so many entries each, with what was asked of them."""

    def __init__(self, **held: int) -> None:
        self.streams = {
            topic: {f"{at}-0" for at in range(count)} for topic, count in held.items()
        }
        self.asked: list[list[Ask]] = []
        self._look = look_into(self.streams)

    def __call__(self, asks: Sequence[Ask]) -> list[list[Found]]:
        self.asked.append([*asks])
        return self._look(asks)

    @property
    def counts(self) -> list[list[int]]:
        return [[ask.count for ask in asks] for asks in self.asked]


def even(item: tuple[str, str]) -> bool:
    return key(item[1])[0] % 2 == 0


def none(item: tuple[str, str]) -> bool:
    return False


def every(topics: Sequence[str], look: paging.Look, count: int) -> list[Page]:
    """The pages of what is even, to the end."""
    pages = [sifting.sift(topics, look, even, count)]
    while pages[-1].older is not None and len(pages) < 500:
        pages.append(sifting.sift(topics, look, even, count, pages[-1].older))
    return pages


@given(Streams, st.integers(1, 5), st.booleans(), st.integers(1, 3))
def test_all_that_fit_are_found_once_in_order_however_little_time_there_is(
    streams: dict[str, set[str]], count: int, hurried: bool, ahead: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seeking, "_LOOK_S", -1.0 if hurried else 60.0)
        patch.setattr(seeking, "_SLOW_S", 60.0)  # wherever the machine stalls
        patch.setattr(sifting, "_FIRST", ahead * len(streams))
        patch.setattr(sifting, "_MOST", 2 * ahead * len(streams))
        pages = every([*streams], look_into(streams), count)

    everything = [(topic, each) for topic in streams for each in streams[topic]]
    in_order = sorted(
        everything, key=lambda item: (*key(item[1]), item[0]), reverse=True
    )
    assert [item for page in pages for item in page.items] == [*filter(even, in_order)]
    assert sum(page.looked for page in pages) == len(everything)
    assert pages[-1].older is None
    assert all(len(page.items) <= (1 if hurried else count) for page in pages)


def test_few_are_read_at_first_and_more_while_that_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sifting, "_QUICK_S", 60.0)
    look = Looking(a=3_000)

    page = sifting.sift(["a"], look, none, 50)

    assert (page.items, page.looked, page.older) == ([], 3_000, None)
    counts = [count for [count] in look.counts]
    assert counts[:4] == [25, 50, 100, 200] and max(counts) <= 2_000


def test_where_that_takes_long_fewer_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifting, "_QUICK_S", -1.0)
    monkeypatch.setattr(sifting, "_SLOW_S", -1.0)
    look = Looking(a=45)

    sifting.sift(["a"], look, none, 50)

    assert look.counts == [[25], [12], [6], [3]]


def test_what_took_long_to_read_is_looked_at_for_as_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One entry of 1 MiB of each of 200 topics, to look at one of them, say."""
    ticks = count(step=0.001)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr(seeking, "time", clock)
    monkeypatch.setattr(seeking, "_LOOK_S", 0.08)
    read = Looking(a=3_000)

    def slow(asks: Sequence[Ask]) -> list[list[Found]]:
        deque(islice(ticks, 500), maxlen=0)
        return read(asks)

    page = sifting.sift(["a"], slow, none, 50)

    assert len(read.asked) == 2 and page.looked > 25


def test_of_many_topics_few_each_are_read_and_only_where_little_is_left() -> None:
    quiet = {f"t{at:02}": 1 for at in range(50)}
    look = Looking(busy=1_000, **quiet)

    page = sifting.sift([*look.streams], look, none, 50)

    assert page.looked == 1_050
    assert look.counts[0] == [1] * 51
    # What came to its end is not asked again.
    assert [ask.topic for ask in look.asked[-1]] == ["busy"]
    assert sum(map(sum, look.counts)) < 1_400


def test_no_page_comes_after_the_last_that_fits_at_the_end() -> None:
    assert sifting.sift(["a"], Looking(a=3), even, 2).older is None


def test_of_what_fits_so_much_is_kept_as_is_shown() -> None:
    page = sifting.sift(["a"], Looking(a=3), even, 2, shown=lambda item: item[1])

    assert page.items == ["2-0", "0-0"]


def test_a_page_with_a_filter_says_where_it_is() -> None:
    look = Looking(a=10, b=0)

    first = sifting.sift(["a", "b"], look, even, 2)
    second = sifting.sift(["a", "b"], look, even, 2, first.older)

    heads = {"a": "9-0", "b": "0-0"}
    assert first == Page([("a", "8-0"), ("a", "6-0")], "6-0@a", None, heads, True, 4)
    assert second == Page([("a", "4-0"), ("a", "2-0")], "2-0@a", None, {}, False, 4)


def test_the_heads_are_those_of_the_first_look() -> None:
    """What came meanwhile comes again on the live page: better than a gap."""
    look = Looking(a=60)
    read = look._look

    def comes(asks: Sequence[Ask]) -> list[list[Found]]:
        found = read(asks)
        look.streams["a"].add(f"{len(look.streams['a'])}-0")
        return found

    page = sifting.sift(["a"], comes, none, 50)

    assert page.heads == {"a": "59-0"} and page.looked == 60


def test_nothing_behind_what_has_passed_is_looked_at() -> None:
    look = Looking(a=1_000)

    page = sifting.sift(
        ["a"], look, even, 50, passed=lambda item: key(item[1])[0] < 990
    )

    assert [each for _, each in page.items] == [f"{at}-0" for at in range(998, 988, -2)]
    assert (page.older, page.looked, look.counts) == (None, 10, [[25]])


def test_without_topics_there_is_nothing() -> None:
    assert sifting.sift([], Looking(), even, 5) == Page([], None, None, {}, True)


# --- parts of a search


@pytest.mark.parametrize("place", ["1-0@a", "waiting/a/WyJ4Il0", "dead/a/"])
def test_a_part_says_what_the_parts_before_came_to(place: str) -> None:
    so_far = seeking.SoFar().plus(2, 100).plus(1, 30)

    assert seeking.opened(so_far.part(place, 50)) == (place, seeking.SoFar(3, 130))
    assert seeking.opened(place) == (place, seeking.SoFar())
    assert so_far.left(50) == 47 and so_far.left(3) == so_far.left(2) == 1
    assert so_far.part(None, 50) == so_far.part(place, 3) == ""


@pytest.mark.parametrize("text", [None, "", "~0.0"])
def test_without_a_place_it_begins_at_the_top(text: str | None) -> None:
    assert seeking.opened(text) == (None, seeking.SoFar())


@pytest.mark.parametrize(
    "told",
    ["", "1", "1.", ".1", "-1.2", "1.2.3", "a.b", "٣.1", "1~1.1", "9" * 13 + ".1"],
)
def test_what_names_no_part_is_an_error(told: str) -> None:
    with pytest.raises(errors.InvalidOption, match="part of a search"):
        seeking.opened(f"1-0@a~{told}")
