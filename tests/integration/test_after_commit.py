"""Tasks of a transaction: what is accepted goes, what is refused is told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import redis
from django.db import connections, transaction
from pytest_django import DjangoCaptureOnCommitCallbacks as Capture
from pytest_django import DjangoDbBlocker, Settings

import bus
from bus import errors, lines, testing
from tests.support.nemesis import FailureSimulator

TAKEN = "0198c0de-0000-7000-8000-00000000aaaa"


@pytest.mark.django_db
def test_a_refused_task_takes_none_behind_it_along(
    test_topic: str, django_capture_on_commit_callbacks: Capture
) -> None:
    bus.enqueue_task(test_topic, "first", task_id=TAKEN)
    ids = []

    with (
        pytest.raises(errors.TaskConflict) as caught,
        django_capture_on_commit_callbacks(execute=True),
    ):
        ids.append(bus.enqueue_task(test_topic, 1, on_commit=True))
        for payload in ("other", "another"):
            bus.enqueue_task(test_topic, payload, task_id=TAKEN, on_commit=True)
        ids.append(bus.enqueue_task(test_topic, 2, on_commit=True))

    states = [bus.get_task(task_id, test_topic).state for task_id in ids]
    assert states == ["waiting", "waiting"]
    assert bus.stats(test_topic)["backlog"] == 3
    [own, other] = caught.value.__notes__
    assert own.startswith(f"task {TAKEN} of topic '{test_topic}' waited")
    assert other.startswith(f"task {TAKEN} of topic '{test_topic}' of the same")


@pytest.mark.django_db
def test_what_a_savepoint_rolled_back_is_not_sent(
    test_topic: str, django_capture_on_commit_callbacks: Capture
) -> None:
    bus.enqueue_task(test_topic, "first", task_id=TAKEN)

    with (
        pytest.raises(errors.TaskConflict),
        django_capture_on_commit_callbacks(execute=True),
    ):
        bus.enqueue_task(test_topic, "other", task_id=TAKEN, on_commit=True)
        with pytest.raises(ValueError, match="undo"), transaction.atomic():
            gone = bus.enqueue_task(test_topic, 1, on_commit=True)
            raise ValueError("undo")
        kept = bus.enqueue_task(test_topic, 2, on_commit=True)

    assert bus.get_task(kept, test_topic).state == "waiting"
    with pytest.raises(errors.TaskNotFound):
        bus.get_task(gone, test_topic)


@pytest.mark.django_db
def test_a_thousand_refused_tasks_are_told_and_take_none_along(
    django_capture_on_commit_callbacks: Capture,
) -> None:
    with testing.collect() as sent:
        bus.enqueue_task("mail", "first", task_id=TAKEN)
        with (
            pytest.raises(errors.TaskConflict) as caught,
            django_capture_on_commit_callbacks(execute=True),
        ):
            for number in range(1_000):
                bus.enqueue_task("mail", number, task_id=TAKEN, on_commit=True)
            bus.enqueue_task("mail", "last", on_commit=True)

    assert [task.payload for task in sent] == ["first", "last"]
    assert len(caught.value.__notes__) == 1_000
    assert caught.value.facts["unsent"] == []


@pytest.mark.django_db
def test_an_outage_holds_up_a_commit_for_the_time_of_one_task(
    failure_simulator: FailureSimulator,
    settings: Settings,
    django_capture_on_commit_callbacks: Capture,
) -> None:
    settings.MESH_SEND_RETRY_S = 0.1
    failure_simulator.unreachable()
    ids = []

    with (
        pytest.raises(errors.BusUnavailable) as caught,
        django_capture_on_commit_callbacks(execute=True),
    ):
        ids += [bus.enqueue_task("mail", n, on_commit=True) for n in range(20)]

    [first, second, unsent] = caught.value.__notes__
    assert ids[0] in first and ids[1] in second
    assert unsent.startswith("18 tasks of the same transaction not sent: ")
    assert all(task_id in unsent for task_id in ids[2:])
    assert caught.value.facts["unsent"] == ids[2:]


@pytest.mark.django_db
def test_who_is_refused_at_once_leaves_the_others_their_time(
    test_topic: str,
    monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Capture,
) -> None:
    bus.enqueue_task(test_topic, "first", task_id=TAKEN)
    real, cut = lines.Line.call_packed, []

    def call(line: lines.Line, command: bytes, *rest: Any) -> Any:
        if b"of those behind" in command and not cut:
            cut.append(command)
            raise redis.ConnectionError("simulated: connection reset")
        return real(line, command, *rest)

    monkeypatch.setattr(lines.Line, "call_packed", call)
    with (
        pytest.raises(errors.TaskConflict) as caught,
        django_capture_on_commit_callbacks(execute=True),
    ):
        bus.enqueue_task(test_topic, "other", task_id=TAKEN, on_commit=True)
        bus.enqueue_task(test_topic, "of those behind", on_commit=True)

    assert len(cut) == len(caught.value.__notes__) == 1
    assert bus.stats(test_topic)["backlog"] == 2


# --- which database


@pytest.fixture
def databases(django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """Two more of them, `orders` and `stock`, while `default` is in no transaction."""
    names = ("orders", "stock")
    for name in names:
        connections.settings[name] = {
            **connections.settings["default"],
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": ":memory:",
            "OPTIONS": {},
        }
    with django_db_blocker.unblock():
        yield
        for name in names:
            if connections[name].connection is not None:
                connections[name].connection.close()  # Django keeps one in memory open
            del connections[name]
    for name in names:
        del connections.settings[name]


@pytest.mark.usefixtures("databases")
@pytest.mark.parametrize("on_commit", [True, "orders"])
def test_a_task_waits_for_the_database_that_is_in_a_transaction(
    on_commit: bool | str,
) -> None:
    with testing.collect() as sent, transaction.atomic(using="orders"):
        task_id = bus.enqueue_task("mail", 1, on_commit=on_commit)
        before = len(sent)

    assert (before, [task.id for task in sent]) == (0, [task_id])


@pytest.mark.usefixtures("databases")
def test_a_rolled_back_transaction_of_another_database_sends_nothing() -> None:
    with (
        testing.collect() as sent,
        pytest.raises(ValueError, match="undo"),
        transaction.atomic(using="orders"),
    ):
        bus.enqueue_task("mail", 1, on_commit=True)
        raise ValueError("undo")

    assert sent == []


@pytest.mark.usefixtures("databases")
def test_of_several_transactions_one_is_named() -> None:
    with testing.collect() as sent, transaction.atomic(using="orders"):
        with transaction.atomic(using="stock"):
            with pytest.raises(errors.InvalidOption, match="orders and stock are"):
                bus.enqueue_task("mail", 1, on_commit=True)
            bus.enqueue_task("mail", 2, on_commit="orders")
        between = len(sent)

    assert (between, [task.payload for task in sent]) == (0, [2])


def test_a_database_that_is_none_is_told(redis_client: object) -> None:
    with pytest.raises(errors.InvalidOption, match="'order' is no database"):
        bus.enqueue_task("mail", 1, on_commit="order")
