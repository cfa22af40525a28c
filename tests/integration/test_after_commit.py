"""Tasks of a transaction: what is accepted goes, what is refused is told."""

from __future__ import annotations

import pytest
from django.db import transaction
from pytest_django import DjangoCaptureOnCommitCallbacks as Capture

import bus
from bus import errors

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
    assert len(caught.value.__notes__) == 1


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
