"""What the embedded server is started with."""

from __future__ import annotations

from typing import Final

TEXT: Final = """\
# Written at every start; a change made here is lost.
bind {host}
port {port}
protected-mode yes
requirepass {password}
daemonize no
logfile ""
always-show-logo no
appendonly yes
appendfsync {appendfsync}
aof-load-truncated yes
save ""
maxmemory {maxmemory}
maxmemory-policy noeviction
# Live tasks are fields of one hash, which as a list would be walked by every look-up.
hash-max-listpack-entries 64
# A size of jemalloc's own: full nodes of usual tasks leave nothing of it unused.
stream-node-max-bytes 5120
enable-debug-command {debug}
"""
# Valkey, and Redis from 7.2 on, end where this machine lacks the locale that they are
# started in: ssh brings that of another along. Redis 7.0 has no word for it in TEXT.
ENVIRONMENT: Final = {"LC_ALL": "C"}
