"""The bare consumer, a process that does with streams the least an agent must do."""

from __future__ import annotations

import argparse
import os
from typing import Any

import redis

from bench.payloads import BATCH

# The same as the pipeline below in one round trip per batch.
_FINISH = """
for i = 2, #ARGV, 3 do
  redis.call('XADD', KEYS[2], '*', 'id', ARGV[i + 1], 'json', ARGV[i + 2])
  redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
  redis.call('XDEL', KEYS[1], ARGV[i])
end
"""


def main() -> None:
    """Read, write results, delete, until killed."""
    parser = argparse.ArgumentParser()
    for name in ("tasks", "results", "group"):
        parser.add_argument(name)
    parser.add_argument("--script", action="store_true")
    options = parser.parse_args()
    tasks, results, group = options.tasks, options.results, options.group
    client: Any = redis.Redis.from_url(os.environ["REDIS_URL"])
    finish = client.register_script(_FINISH)
    while True:
        reply = client.xreadgroup(group, "bare", {tasks: ">"}, count=BATCH, block=2_000)
        if not reply:
            continue
        entries = reply[0][1]
        if options.script:
            args = [group]
            for sid, fields in entries:
                args += (sid, fields[b"id"], fields[b"json"])
            finish(keys=[tasks, results], args=args)
            continue
        pipe = client.pipeline(transaction=False)
        for sid, fields in entries:
            pipe.xadd(results, {"id": fields[b"id"], "json": fields[b"json"]})
            pipe.xack(tasks, group, sid)
            pipe.xdel(tasks, sid)
        pipe.execute()


if __name__ == "__main__":
    main()
