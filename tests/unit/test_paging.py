"""Places in a list over many topics: each page whole, and nothing asked in vain."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bus import errors
from bus.abreast import Ask, Found
from dashboard import paging
from dashboard.paging import Page

Ids = st.builds(lambda ms, seq: f"{ms}-{seq}", st.integers(1, 4), st.integers(0, 3))
Streams = st.dictionaries(
    st.sampled_from(["a", "b", "b.c"]), st.sets(Ids, max_size=8), min_size=1
)


def key(entry_id: str) -> tuple[int, int]:
    ms, _, seq = entry_id.partition("-")
    return int(ms), int(seq)


def look_into(streams: dict[str, set[str]]) -> paging.Look:
    def found(ask: Ask) -> list[Found]:
        ids = sorted(streams[ask.topic], key=key, reverse=ask.after is None)
        if ask.before is not None:
            ids = [each for each in ids if key(each) < key(ask.before)]
        if ask.after is not None:
            ids = [each for each in ids if key(each) > key(ask.after)]
        return [
            (each, partial(tuple[str, str], (ask.topic, each)))
            for each in ids[: ask.count]
        ]

    return lambda asks: [*map(found, asks)]


@given(Streams, st.integers(1, 5))
def test_pages_down_show_everything_once_in_order(
    streams: dict[str, set[str]], count: int
) -> None:
    look, found = look_into(streams), []
    page = paging.read(streams, look, count)
    found += page.items
    everything = [(topic, each) for topic in streams for each in streams[topic]]
    while page.older and len(found) < len(everything):
        page = paging.read(streams, look, count, before=page.older)
        found += page.items

    assert page.older is None
    assert found == sorted(
        everything, key=lambda item: (*key(item[1]), item[0]), reverse=True
    )


@given(Streams, st.integers(1, 5))
def test_pages_up_come_back_to_the_newest(
    streams: dict[str, set[str]], count: int
) -> None:
    look = look_into(streams)
    down = paging.read(streams, look, count)
    found = list(down.items)
    while down.older and len(found) < sum(map(len, streams.values())):
        down = paging.read(streams, look, count, before=down.older)
        found += down.items
    up = down.items
    newer = down.newer
    while newer and len(up) < len(found):
        page = paging.read(streams, look, count, after=newer)
        up, newer = page.items + up, page.newer

    assert (up, newer) == (found, None)


@pytest.mark.parametrize(
    "place", ["x", "1-1", "1@a", "1-1@A", f"{2**64}-0@a", "1-1@a\n", "-1-1@a"]
)
def test_a_place_that_is_none_is_refused(place: str) -> None:
    look = look_into({"a": set()})

    said = "^the address names no place in this list$"
    with pytest.raises(errors.InvalidOption, match=said):
        paging.read(["a"], look, 5, before=place)
    with pytest.raises(errors.InvalidOption, match=said):
        paging.read(["a"], look, 5, after=place)


# --- one page, to the letter

TOWN = {"a": {"1-0", "3-0", "9-9"}, "b": {"3-0", "4-0"}, "c": set[str]()}


class Looking:
    """Looks into streams, and keeps what it was asked."""

    def __init__(self, streams: dict[str, set[str]]) -> None:
        self._look = look_into(streams)
        self.asked: list[list[Ask]] = []

    def __call__(self, asks: Sequence[Ask]) -> list[list[Found]]:
        self.asked.append([*asks])
        return self._look(asks)


def test_the_first_page_has_the_heads_of_all_topics() -> None:
    look = Looking(TOWN)

    page = paging.read(TOWN, look, 3)

    assert page == Page(
        items=[("a", "9-9"), ("b", "4-0"), ("b", "3-0")],
        older="3-0@b",
        newer=None,
        heads={"a": "9-9", "b": "4-0", "c": "0-0"},
        first=True,
    )
    assert look.asked == [
        [Ask("a", 1), Ask("b", 1), Ask("c", 1)],
        [Ask("a", 4), Ask("b", 4)],
    ]


def test_the_page_below_goes_on_with_what_sorts_below_at_the_same_id() -> None:
    look = Looking(TOWN)

    page = paging.read(TOWN, look, 3, before="3-0@b")

    assert page == Page(
        items=[("a", "3-0"), ("a", "1-0")],
        older=None,
        newer="3-0@a",
        heads={},
        first=False,
    )
    assert look.asked[0] == [
        Ask("a", 1, before="3-1"),
        Ask("b", 1, before="3-0"),
        Ask("c", 1, before="3-0"),
    ]


def test_the_page_above_is_in_order_too() -> None:
    look = Looking(TOWN)

    page = paging.read(TOWN, look, 2, after="3-0@a")

    assert page == Page(
        items=[("b", "4-0"), ("b", "3-0")],
        older="3-0@b",
        newer="4-0@b",
        heads={},
        first=False,
    )
    assert look.asked[0] == [
        Ask("a", 1, after="3-0"),
        Ask("b", 1, after=f"2-{2**64 - 1}"),
        Ask("c", 1, after=f"2-{2**64 - 1}"),
    ]


def test_the_last_page_above_leads_no_further() -> None:
    page = paging.read(TOWN, look_into(TOWN), 2, after="3-0@b")

    assert (page.items, page.newer) == ([("a", "9-9"), ("b", "4-0")], None)


def test_beyond_the_ends_there_is_nothing() -> None:
    below = paging.read(TOWN, look_into(TOWN), 2, before="1-0@a")
    above = paging.read(TOWN, look_into(TOWN), 2, after="9-9@a")

    for page in (below, above):
        assert (page.items, page.older, page.newer) == ([], None, None)


def test_of_many_topics_those_are_read_whose_first_entries_are_shown() -> None:
    many = {f"t{n}": {f"{n}-{n + 1}"} for n in range(1, 10)}
    look = Looking(many)

    page = paging.read(many, look, 2)

    assert [ask.topic for ask in look.asked[1]] == ["t9", "t8", "t7"]
    assert page.heads == {topic: next(iter(each)) for topic, each in many.items()}


def test_of_topics_with_equal_ids_the_last_by_name_is_first() -> None:
    equal = {topic: {"1-0"} for topic in "abc"}

    assert paging.read(equal, look_into(equal), 1).items == [("c", "1-0")]


def test_what_comes_between_the_two_looks_is_on_the_page() -> None:
    streams = {"a": {"1-0"}, "b": {"2-0"}}

    def look(asks: Sequence[Ask]) -> list[list[Found]]:
        found = look_into(streams)(asks)
        streams["b"].add("5-0")
        return found

    page = paging.read([*streams], look, 5)

    assert page.items == [("b", "5-0"), ("b", "2-0"), ("a", "1-0")]
    assert page.heads == {"a": "1-0", "b": "5-0"}


MOST = 2**64 - 1


@pytest.mark.parametrize(
    ("place", "below", "above"),
    [
        ("7-3@m", "7-4", "7-2"),
        (f"7-{MOST}@m", "8-0", f"7-{MOST - 1}"),
        ("7-1@m", "7-2", "7-0"),
        ("7-0@m", "7-1", f"6-{MOST}"),
        ("0-0@m", "0-1", "0-0"),
        ("0-1@m", "0-2", "0-0"),
    ],
)
def test_the_next_id_is_next_whatever_its_number(
    place: str, below: str, above: str
) -> None:
    look = Looking({"a": set(), "z": set()})

    paging.read(["a", "z"], look, 1, before=place)
    paging.read(["a", "z"], look, 1, after=place)

    down, up = look.asked[0], look.asked[2]
    own = place.partition("@")[0]
    assert [ask.before for ask in down] == [below, own]
    assert [ask.after for ask in up] == [own, above]


def test_a_place_may_be_the_last_possible_id() -> None:
    page = paging.read(["a"], look_into({"a": {"1-0"}}), 1, before=f"{MOST}-{MOST}@a")

    assert page.items == [("a", "1-0")]


def test_of_many_topics_few_entries_are_read_and_more_of_one_that_fills_the_page() -> (
    None
):
    many = {f"t{n}": {f"{at}-{n}" for at in range(100)} for n in range(50)}
    many["busy"] = {f"{at}-0" for at in range(1_000, 1_200)}
    look = Looking(many)

    page = paging.read(many, look, 50)
    older = paging.read(many, look, 50, before="1000-0@busy")

    assert [item[1] for item in page.items] == [
        f"{at}-0" for at in range(1_199, 1_149, -1)
    ]
    assert page.older == "1150-0@busy"
    assert older.items == [(f"t{n}", f"99-{n}") for n in range(49, -1, -1)]
    assert max(sum(ask.count for ask in asks) for asks in look.asked) < 300
    assert len(look.asked) == 5
    assert [ask.topic for ask in look.asked[2]] == ["busy"]


def test_what_comes_while_more_is_read_is_left_to_the_live_page() -> None:
    streams = {"a": {f"{at}-0" for at in range(20)}, "b": {"1-0"}, "c": {"2-0"}}
    looks = 0

    def look(asks: Sequence[Ask]) -> list[list[Found]]:
        nonlocal looks
        found, looks = look_into(streams)(asks), looks + 1
        if looks == 2:
            streams["a"].add("30-0")
        return found

    page = paging.read([*streams], look, 10)

    assert looks == 3
    assert page.items == [("a", f"{at}-0") for at in range(19, 9, -1)]
    assert page.heads["a"] == "19-0"
