"""Ids are the sender's own, in whichever process he sends."""

from __future__ import annotations

from tests.support.processes import program

# What comes behind the time: two processes may send in the same millisecond.
_FORKS = """
import os
from bus import tasks
tasks.new_id()
for _ in range(3):
    pid = os.fork()
    if pid == 0:
        break
    os.waitpid(pid, 0)
print(tasks.new_id()[15:], flush=True)
os._exit(0)
"""


def test_processes_forked_from_one_make_different_ids() -> None:
    with program(_FORKS) as parent:
        said, _ = parent.communicate(timeout=60)

    ids = said.split()
    assert len(ids) == len(set(ids)) == 4
