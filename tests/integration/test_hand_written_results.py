"""Results that an agent written by hand publishes itself."""

from __future__ import annotations

import bus
from tests.support.waiting import wait_until


def by_hand(topic: str, result: str) -> str:
    """A task done by hand, its result published well before its ack."""
    task_id = bus.enqueue_task(topic, "work")
    [(entry_id, fields)] = bus.read_group(topic, "mine", "me", block_ms=0)
    row = f'{{"id":"{task_id}","result":{result}}}'
    client = bus.get_redis()
    client.xadd(bus.result_stream(topic), {"id": fields["id"], "json": row})
    # Another moment on the server's clock than that of the row.
    before = client.time()
    wait_until(lambda: client.time() > (before[0], before[1] + 5_000))
    assert bus.ack(topic, "mine", entry_id) == 1
    return task_id


def test_it_is_found_although_the_ack_came_later(test_topic: str) -> None:
    task_id = by_hand(test_topic, '{"n":1}')

    assert bus.get_task(task_id, test_topic).result == {"n": 1}
    assert bus.wait_result(task_id, test_topic, 1).result == {"n": 1}


def test_a_letter_moved_with_its_error_is_replayed_as_it_was(test_topic: str) -> None:
    task_id = bus.enqueue_task(test_topic, {"n": 7})
    [(entry_id, fields)] = bus.read_group(test_topic, "mine", "me", block_ms=0)

    bus.move_to_dead(test_topic, entry_id, fields["payload"], error="seven")
    died_of = bus.get_dead(task_id, test_topic).error["message"]
    bus.replay(task_id, test_topic)

    [(_, again)] = bus.read_group(test_topic, "mine", "me", block_ms=0)
    assert (died_of, again["payload"]) == ("seven", {"n": 7})
