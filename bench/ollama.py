"""What the gateway adds to a streamed generation: `python -m bench.ollama`.

A model server of this file's stamps each line with the time it left; both ways are
asked in turn, so that both see the same machine. First byte: from the request to the
first line. Each line: from its stamp to its arrival. What the web process computes for
them stands below: it says the same on a machine where others wait for the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bus.home import child
from bus.server import EmbeddedServer

ROOT: Final = Path(__file__).resolve().parent.parent
FLOOR_MS: Final = 5.0  # what the gateway may add, at the 99th percentile
LINES: Final = 20
PAUSE_S: Final = 0.005
_START_S: Final = 60.0
_PATH: Final = "/api/generate"
_MESH: Final = "/api/v1/mesh/ollama"
_FIRST: Final = """
import django
django.setup()
from django.core.management import call_command
from bus import accounts
call_command("migrate", verbosity=0)
print(accounts.create_token("bench", "operator")[1])
"""

Sample = tuple[float, list[float]]  # ms to the first line, ms of each line


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code; prints one table."""
    parser = argparse.ArgumentParser(prog="python -m bench.ollama")
    parser.add_argument("--calls", type=int, default=200, help="each way (200)")
    parser.add_argument("--upstream", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.upstream is not None:
        asyncio.run(_upstream(options.upstream))
        return 0
    with contextlib.ExitStack() as stack:
        name = stack.enter_context(tempfile.TemporaryDirectory(prefix="mesh-bench-"))
        redis = stack.enter_context(EmbeddedServer(Path(name) / "redis", port=0))
        upstream = stack.enter_context(_listening())
        mesh = stack.enter_context(_listening())
        fd = str(upstream.fileno())
        argv = ["-m", "bench.ollama", "--upstream", fd]
        stack.enter_context(_process(argv, upstream, dict(os.environ)))
        env = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "meshsite.settings",
            "MESH_VAR_DIR": name,
            "REDIS_URL": redis.url,
            "OLLAMA_BASE_URL": f"http://127.0.0.1:{_port(upstream)}",
            "OLLAMA_RATE_CAPACITY": "1000000",
        }
        made = [sys.executable, "-c", _FIRST]
        token = subprocess.check_output(made, cwd=ROOT, env=env, text=True).split()[-1]
        argv = ["manage.py", "web", "--fd", str(mesh.fileno())]
        pid = stack.enter_context(_process(argv, mesh, env))
        _measure(_port(upstream), _port(mesh), token, options.calls)
        _compute(pid, _port(mesh), token, options.calls)
    return 0


def _measure(upstream: int, mesh: int, token: str, calls: int) -> None:
    bearer = {"Authorization": f"Bearer {token}"}
    until = time.monotonic() + _START_S
    while True:  # the first of each also warms it up
        with contextlib.suppress(OSError, http.client.HTTPException):
            _ask(upstream, _PATH, {}, "warm")
            _ask(mesh, _MESH + _PATH, bearer, "warm")
            break
        if time.monotonic() > until:
            raise SystemExit("the web server does not answer")
        time.sleep(0.1)
    direct: list[Sample] = []
    through: list[Sample] = []
    for n in range(calls):
        direct.append(_ask(upstream, _PATH, {}, f"question {n}"))
        through.append(_ask(mesh, _MESH + _PATH, bearer, f"question {n}"))
    table = Table("ms", "direct p50", "p99", "gateway p50", "p99", "added p50", "p99")
    firsts = [[each[0] for each in way] for way in (direct, through)]
    lines = [[ms for each in way for ms in each[1]] for way in (direct, through)]
    for name, (plain, gated) in (("first byte", firsts), ("each line", lines)):
        figures = [_p(plain, 50), _p(plain, 99), _p(gated, 50), _p(gated, 99)]
        added = [figures[2] - figures[0], figures[3] - figures[1]]
        table.add_row(name, *(f"{each:.2f}" for each in figures + added))
    Console().print(table)
    print(
        f"{calls} calls each way, one after the other; the aim: p99 < {FLOOR_MS:g} ms"
    )


def _compute(pid: int, mesh: int, token: str, calls: int) -> None:
    bearer = {"Authorization": f"Bearer {token}"}
    took: dict[int, list[float]] = {1: [], LINES: []}
    for n in range(calls):
        for lines, each in took.items():
            before = _cpu_ms(pid)
            _ask(mesh, _MESH + _PATH, bearer, f"{lines} lines {n}", lines)
            each.append(_cpu_ms(pid) - before)
    call, whole = (statistics.median(each) for each in took.values())
    print(
        f"the web process computes {call:.2f} ms for a call of one line (p99 "
        f"{_p(took[1], 99):.2f}), {(whole - call) / (LINES - 1):.3f} ms for each more"
    )


def _cpu_ms(pid: int) -> float:
    """CPU time of all threads of a process so far; 0 where the system does not say."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e6


def _p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _ask(
    port: int, path: str, headers: dict[str, str], prompt: str, lines: int = LINES
) -> Sample:
    """One streamed generation, whose lines carry when they left."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    with contextlib.closing(connection):
        connection.connect()
        asked = {"model": "bench", "prompt": prompt, "stream": True}
        body = json.dumps({**asked, "options": {"num_predict": lines}})
        began = time.monotonic_ns()
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise SystemExit(f"{path} answered {answer.status}: {answer.read()!r}")
        first_ms, each_ms = 0.0, []
        while line := answer.readline():
            now = time.monotonic_ns()
            first_ms = first_ms or (now - began) / 1e6
            each_ms.append((now - int(json.loads(line)["response"])) / 1e6)
        return first_ms, each_ms


@contextlib.contextmanager
def _listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


@contextlib.contextmanager
def _process(
    argv: Sequence[str], listener: socket.socket, env: dict[str, str]
) -> Iterator[int]:
    process = child.start(
        [sys.executable, *argv], cwd=ROOT, env=env, keep_fds=[listener.fileno()]
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def _upstream(fd: int) -> None:
    """A model server that says when it said it, until it is killed."""
    listener = socket.socket(fileno=fd)
    server = await asyncio.start_server(_answer, sock=listener)
    await server.serve_forever()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    # Connections are kept, as Ollama keeps them.
    with contextlib.suppress(asyncio.IncompleteReadError, OSError):
        while True:
            request = await reader.readuntil(b"\r\n\r\n")
            size = request.lower().partition(b"content-length:")[2].split(b"\r\n")[0]
            body = json.loads(await reader.readexactly(int(size)))
            lines = body["options"]["num_predict"]
            writer.write(head)
            for n in range(lines):
                stamp = str(time.monotonic_ns())
                line = {"model": "bench", "response": stamp, "done": n == lines - 1}
                text = json.dumps(line).encode() + b"\n"
                writer.write(b"%x\r\n%b\r\n" % (len(text), text))
                await writer.drain()
                await asyncio.sleep(PAUSE_S)
            writer.write(b"0\r\n\r\n")
    writer.close()


if __name__ == "__main__":
    sys.exit(main())
