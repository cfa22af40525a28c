"""A disk that loses what was not synced, and one that hangs, under a real server.

A small library stands between the server and the system: it notes how much of the
append-only file each sync has made safe, and makes syncs wait while a file says so.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Final

import pytest

from bus.home import syncing
from bus.server import EmbeddedServer
from tests.support import machine
from tests.support.waiting import wait_until

_SOURCE: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int synced(int fd, const char *name) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length > 0 ? length : 0] = 0;
    int ours = strstr(path, ".incr.aof") != NULL;
    while (ours && access(getenv("MESH_DISK_HANGS"), F_OK) == 0) usleep(5000);
    struct stat facts;
    fstat(fd, &facts); /* what is written meanwhile is not sure to be synced */
    int result = ((int (*)(int))dlsym(RTLD_NEXT, name))(fd);
    if (ours && result == 0) {
        char line[64];
        int size = snprintf(line, sizeof line, "%lld\n", (long long)facts.st_size);
        int flags = O_WRONLY | O_APPEND | O_CREAT;
        int note = open(getenv("MESH_DISK_SYNCED"), flags, 0600);
        if (write(note, line, size) != size) abort();
        close(note);
    }
    return result;
}
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
int fsync(int fd) { return synced(fd, "fsync"); }
"""


class Disk:
    """What a server's append-only file stands on; make the server in its `env`."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            machine.lacks("no C compiler: apt install gcc libc6-dev")
        source, library = directory / "disk.c", directory / "disk.so"
        source.write_text(_SOURCE)
        subprocess.run(
            [compiler, "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"],
            check=True,
            timeout=60,
        )
        self._hangs, self._synced = directory / "hangs", directory / "synced"
        monkeypatch.setenv("MESH_DISK_HANGS", str(self._hangs))
        monkeypatch.setenv("MESH_DISK_SYNCED", str(self._synced))
        self._library, self._patch = str(library), monkeypatch
        monkeypatch.setattr(syncing, "_sync", self._sync)

    def _sync(self, fd: int) -> None:
        """As the library does, for the syncs that are ours."""
        while self._hangs.exists():
            time.sleep(0.005)
        length = os.fstat(fd).st_size
        os.fdatasync(fd)
        with self._synced.open("a") as note:
            note.write(f"{length}\n")

    def start(self, server: EmbeddedServer) -> None:
        """Start a server on this disk; nothing else of this process stands on it."""
        with self._patch.context() as patch:
            patch.setenv("LD_PRELOAD", self._library)
            server.start()

    def hang(self) -> None:
        """Let no sync come back from now on."""
        self._hangs.touch()

    def go_on(self) -> None:
        """Let them come back."""
        self._hangs.unlink(missing_ok=True)

    @property
    def synced(self) -> int:
        """How many bytes of the file are safe."""
        told = self._synced.read_text().split() if self._synced.exists() else []
        return int(told[-1]) if told else 0

    def kill(self, server: EmbeddedServer) -> None:
        """End the server as `kill -9` does: what it has written stays."""
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        wait_until(lambda: not server.alive())

    def cut_power(self, server: EmbeddedServer) -> None:
        """End the machine: of the file only what was synced is left."""
        self.kill(server)
        [file] = (server.directory / "appendonlydir").glob("*.incr.aof")
        os.truncate(file, self.synced)
