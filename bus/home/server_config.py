"""The configuration that the embedded server is started with."""

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
enable-debug-command {debug}
"""
