"""A list with a filter, looked at for a bounded time and in parts that may be large."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dashboard import paging
from dashboard.paging import Page


class Numbers:
    """A list of so many numbers, the largest first, with how it was looked at."""

    def __init__(self, held: int) -> None:
        self.held = held
        self.looks: list[int] = []

    def look(self, place: str | None, most: int) -> Page:
        self.looks.append(most)
        top = self.held if place is None else int(place)
        found = [*range(top - 1, max(-1, top - 1 - most), -1)]
        places = [str(each) for each in found]
        older = places[-1] if found and found[-1] > 0 else None
        return Page(found, older, None, {}, place is None, places, len(found))


def even(number: int) -> bool:
    return number % 2 == 0


def every(numbers: Numbers, count: int) -> list[list[int]]:
    """What fits, page by page to the end."""
    page = paging.sift(numbers.look, even, count)
    pages = [page.items]
    while page.older is not None and len(pages) <= numbers.held:
        page = paging.sift(numbers.look, even, count, page.older)
        pages.append(page.items)
    return pages


def test_the_first_look_is_at_few_and_quick_ones_are_at_more() -> None:
    numbers = Numbers(1_000)

    page = paging.sift(numbers.look, lambda number: False, 50)

    assert (page.items, page.looked, page.older) == ([], 1_000, None)
    assert numbers.looks[:4] == [25, 50, 100, 200] and max(numbers.looks) == 200


def test_where_looks_take_long_they_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "_QUICK_S", 0.0)
    numbers = Numbers(90)

    paging.sift(numbers.look, even, 50)

    assert numbers.looks == [25, 25, 25, 25]


@pytest.mark.parametrize("look_s", [-1.0, 60.0])
@pytest.mark.parametrize("count", [1, 7, 50])
def test_each_that_fits_is_on_one_page_however_little_time_there_is(
    monkeypatch: pytest.MonkeyPatch, look_s: float, count: int
) -> None:
    monkeypatch.setattr(paging, "_LOOK_S", look_s)

    pages = every(Numbers(100), count)

    assert sum(pages, []) == [*range(98, -1, -2)]
    assert max(map(len, pages)) <= (count if look_s > 0 else 1)


def test_no_page_comes_after_the_last_that_fits_at_the_end() -> None:
    assert paging.sift(Numbers(3).look, even, 2).older is None


def test_of_what_fits_so_much_is_kept_as_is_shown() -> None:
    page = paging.sift(Numbers(3).look, even, 2, shown=str)

    assert page.items == ["2", "0"]


def test_a_page_with_a_filter_says_where_it_is() -> None:
    numbers = Numbers(10)

    first = paging.sift(numbers.look, even, 2)
    second = paging.sift(numbers.look, even, 2, first.older)

    assert first == Page([8, 6], "6", None, {}, True, ["8", "6"], 4)
    assert second == Page([4, 2], "2", None, {}, False, ["4", "2"], 4)


def test_the_heads_are_those_of_the_first_look() -> None:
    """What came meanwhile comes again on the live page: better than a gap."""
    numbers, heads = Numbers(60), iter([{"a": "1-0"}, {"a": "2-0"}])

    def look(place: str | None, most: int) -> Page:
        return replace(numbers.look(place, most), heads=next(heads))

    assert paging.sift(look, lambda number: False, 50).heads == {"a": "1-0"}


def test_nothing_behind_what_has_passed_is_looked_at() -> None:
    numbers = Numbers(1_000)

    page = paging.sift(numbers.look, even, 50, passed=lambda number: number < 990)

    assert page == Page(
        [998, 996, 994, 992, 990],
        None,
        None,
        {},
        True,
        ["998", "996", "994", "992", "990"],
        10,
    )
    assert numbers.looks == [25]
