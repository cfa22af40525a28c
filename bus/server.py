"""The embedded Redis server of this folder, run as our child."""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shlex
import socket
import subprocess
import time
from pathlib import Path
from typing import BinaryIO, Final

import redis

from . import announcement, conf, errors
from .home import allocator, binary, child, claim, server_config, syncing

HOST: Final = "127.0.0.1"
START_TIMEOUT_S: Final = 15.0  # of silence; a server that says LOADING gets longer
STOP_TIMEOUT_S: Final = 2.0  # it takes 10 ms, and may never end on a full disk
LOG_MAX_BYTES: Final = 5_000_000  # looked at when starting; the server says little
PORT_TRIES: Final = 100
# Ports for tests lie below the kernel's ephemeral range. Inside it, a client that
# reconnects to a server being restarted may be given that very port as its own and
# connect to itself, and the server could never bind it again.
_TEST_PORTS: Final = range(15_000, 32_000)
_POLL_S: Final = 0.003
_LOG_TAIL_BYTES: Final = 20_000
_PORT_TAKEN: Final = "Address already in use"  # in the server's own words
_DAMAGED: Final = re.compile(
    "Bad file format|Unexpected end of file|AOF manifest file|obtain the AOF file"
    "|RDB reading|RDB checksum|Short read"
)


class EmbeddedServer:
    """A Redis server on loopback whose data, log, password live in one directory.

    The URL stays the same when the process is restarted, so clients find it again.
    `port`: None takes MESH_REDIS_PORT or the next free one, 0 any free one, a number
    exactly that one. Start it from the main thread (see `child.start`).
    """

    name = "redis"

    def __init__(
        self, directory: Path, *, port: int | None = None, debug_commands: bool = False
    ) -> None:
        self.directory = Path(directory).absolute()
        self.log_path = self.directory / "server.log"
        self.binary: binary.Binary | None = None
        self._wanted_port = port
        self._port = 0
        self._debug_commands = debug_commands
        self._claim: claim.Claim | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._password = ""
        self._log_start = 0

    def __enter__(self) -> EmbeddedServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    @property
    def _files(self) -> Path:
        return self.directory / "appendonlydir"

    @property
    def pid(self) -> int | None:
        """The process id while the server runs."""
        return self._process.pid if self._process and self.alive() else None

    @property
    def port(self) -> int:
        """The port, once started."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect, password included; known once started."""
        return f"redis://:{self._password}@{HOST}:{self._port}/0"

    @property
    def shown_url(self) -> str:
        """The URL for eyes: without its password."""
        return f"redis://{HOST}:{self._port}/0"

    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def poll(self) -> int | None:
        """The exit code of an ended process, negative for a signal."""
        return self._process.poll() if self._process else None

    def start(self, *, timeout_s: float = START_TIMEOUT_S) -> None:
        """Run the server until it answers; also again, after it died."""
        again = self._port != 0
        try:
            for _ in range(PORT_TRIES):
                self.launch()
                if self._answers(timeout_s):
                    return
                if again or self._wanted_port or _PORT_TAKEN not in self._said():
                    raise errors.ServerError(self.last_words())
                # Somebody took the port between our look and the server's bind.
                self._port = 0
            raise errors.ServerError(f"no free port among {PORT_TRIES} for the server")
        except BaseException:  # Ctrl-C while it loads, too
            self.stop()
            raise

    def launch(self) -> None:
        """Start the process without waiting for it to answer."""
        if self.alive():
            return
        self.binary = self.binary or binary.find()
        if self._claim is None:
            self._claim = claim.Claim(self.directory)
        elif not self._claim.holds():
            raise errors.ServerError(
                f"the data directory {self.directory} was deleted or replaced while "
                "the mesh ran; its data is gone. Stop the mesh, then start it again"
            )
        self._port = self._free_port()
        try:
            self._password = self._kept_password()
            self._write_config()
            with self._open_log() as log:
                self._process = child.start(
                    [str(self.binary.path), "server.conf"],
                    cwd=self.directory,
                    env=allocator.environment(self.binary.path, self.binary.malloc)
                    | server_config.ENVIRONMENT,
                    stdout=log,
                    keep_fds=[self._claim.fd],
                )
            self._claim.note(f"{self._process.pid} {self.shown_url}")
            if _appendfsync() == syncing.POLICY:
                syncing.start(self._files, self._process, self._tell)
        except OSError as exc:
            raise errors.ServerError(
                f"the server cannot be started in {self.directory}: {exc.strerror}"
            ) from exc

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the process, by force after `timeout_s`; give the directory up.

        A server whose directory was deleted ignores SIGTERM for good, hence the timer.
        """
        announcement.withdraw(self.url)
        if self._process is not None and self.alive():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout_s)
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)  # only a process stuck in the kernel takes it
        if self._claim is not None:
            self._claim.release()
            self._claim = None

    def announce(self) -> None:
        """Tell every command of this folder where the server is."""
        announcement.publish(self.url)

    def last_words(self) -> str:
        """Why the process ended, as far as its log tells, with what to do about it."""
        said = self._said()
        lines = [line for line in said.splitlines() if line.strip()]
        tail = "\n".join(f"    {line}" for line in lines[-5:])
        ended = child.ending(self.poll() or 0) if not self.alive() else "no answer"
        return (
            f"the embedded server does not run ({ended}){self._advice(said)}\n"
            f"{tail}\n  whole log: {self.log_path}"
        )

    def _advice(self, said: str) -> str:
        if _PORT_TAKEN in said:
            return (
                f": port {self._port} is taken; free it, or set MESH_REDIS_PORT to "
                "another one"
            )
        if _DAMAGED.search(said):
            manifest = self._files / "appendonly.aof.manifest"
            program = str(self.binary.path) if self.binary else "valkey-server"
            # The server is its own repair tool when called by that name.
            tool = Path(program).name.replace("server", "check-aof")
            repair = shlex.join(["exec", "-a", tool, program, "--fix", str(manifest)])
            return (
                ": its append-only file is damaged. Copy the directory, then cut the "
                f"file at the damage with\n    bash -c {shlex.quote(repair)}\n"
                f"  or move {self.directory} away to start empty. Its log ends with"
            )
        return ""

    def _tell(self, *command: str) -> bool:
        try:
            with announcement.client(self.url, timeout_s=5.0) as client:
                client.execute_command(*command)
        except (redis.RedisError, OSError):
            return False
        return True

    def _open_log(self) -> BinaryIO:
        if self.log_path.exists() and self.log_path.stat().st_size > LOG_MAX_BYTES:
            self.log_path.replace(self.log_path.with_suffix(".log.1"))
        log = self.log_path.open("ab")
        self._log_start = log.tell()
        return log

    def _said(self) -> str:
        """What this process, not an earlier one, wrote to the log."""
        try:
            with self.log_path.open("rb") as log:
                size = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _answers(self, timeout_s: float) -> bool:
        """True when it answers PING, False when it died; ServerError when it hangs."""
        deadline = time.monotonic() + timeout_s
        with announcement.client(self.url, timeout_s=1.0) as client:
            while self.alive():
                try:
                    client.ping()
                    return True
                except redis.BusyLoadingError:
                    # Loading is progress, however long: silence is counted anew.
                    deadline = time.monotonic() + timeout_s
                except redis.RedisError:
                    pass
                if time.monotonic() > deadline:
                    raise errors.ServerError(self.last_words())
                time.sleep(_POLL_S)
        return False

    def _free_port(self) -> int:
        if self._port or self._wanted_port:
            # A restart keeps its port, since clients know the URL.
            wanted = [self._port or self._wanted_port or 0]
        elif self._wanted_port == 0:
            wanted = random.sample(_TEST_PORTS, PORT_TRIES)
        else:
            base = int(conf.conf.REDIS_PORT)
            wanted = list(range(base, base + PORT_TRIES))
        for port in wanted:
            with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                # As the server does: connections of its dead predecessor don't count.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.suppress(OSError, OverflowError):
                    probe.bind((HOST, port))
                    return port
        ports = f"{wanted[0]}" if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
        raise errors.ServerError(
            f"port {ports} on {HOST} cannot be used, most likely because another "
            "program does; free it, or set MESH_REDIS_PORT to another one"
        )

    def _kept_password(self) -> str:
        """The password of this directory, so that its URL outlives a restart."""
        path = self.directory / "password"
        with contextlib.suppress(FileNotFoundError):
            kept = path.read_text(errors="replace").strip()
            if re.fullmatch(r"[\w-]{20,100}", kept, re.ASCII):
                return kept
        password = secrets.token_hex(24)
        announcement.write_private(path, password + "\n")
        return password

    def _write_config(self) -> None:
        maxmemory = str(conf.conf.REDIS_MAXMEMORY)
        if not re.fullmatch(r"\d+([kmg]b?)?", maxmemory, re.IGNORECASE | re.ASCII):
            raise errors.ServerError(
                f"MESH_REDIS_MAXMEMORY is {maxmemory!r}; it takes a number of bytes, "
                "or one like 512mb or 2gb; 0 means no limit"
            )
        text = server_config.TEXT.format(
            host=HOST,
            port=self._port,
            password=self._password,
            maxmemory=maxmemory,
            appendfsync=_appendfsync(),
            debug="local" if self._debug_commands else "no",
        )
        announcement.write_private(self.directory / "server.conf", text)


def _appendfsync() -> str:
    """When the file is synced: before every reply only where that was promised."""
    return "always" if conf.conf.DURABILITY == "fsync" else syncing.POLICY
