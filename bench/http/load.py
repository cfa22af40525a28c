"""Load over HTTP: by wrk where there is one, else by a process of ours."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.stage import ROOT, BenchError

CONNECTIONS: Final = 32
_GRACE_S: Final = 30.0
# Only a script sets the body; it tells the figures as JSON, in the last line.
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %(token)s"
local file = io.open("%(body)s", "rb")
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local bad = summary.errors
  print(string.format(
    '\\n{"calls": %%d, "took_s": %%.6f, "failed": %%d, ' ..
    '"p50_ms": %%.3f, "p99_ms": %%.3f}',
    summary.requests, summary.duration / 1e6,
    bad.connect + bad.read + bad.write + bad.status + bad.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of one call, repeated on all connections."""

    calls: int
    took_s: float
    failed: int  # refused, cut off or late
    p50_ms: float
    p99_ms: float

    @property
    def per_s(self) -> float:
        """Calls per second."""
        return self.calls / self.took_s


def with_wrk() -> bool:
    """Whether this machine has wrk (apt install wrk)."""
    return shutil.which("wrk") is not None


def once(url: str, token: str, body: Any) -> None:
    """One call, however long it takes: the first of a server loads what it needs.

    BenchError with what is said where it is refused.
    """
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    text = json.dumps(body).encode()
    asked = urllib.request.Request(url, text, headers, method="POST")
    try:
        with urllib.request.urlopen(asked, timeout=_GRACE_S):
            pass
    except urllib.error.HTTPError as exc:
        raise BenchError(f"{url} says {exc.code}: {exc.read()[:800]!r}") from None


def post(
    url: str, token: str, body: Any, seconds: int, *, wrk: bool | None = None
) -> Load:
    """POST the same JSON for so long; BenchError where a single call fails."""
    with tempfile.TemporaryDirectory(prefix="mesh-bench-") as name:
        file = Path(name) / "body.json"
        file.write_text(json.dumps(body, separators=(",", ":")))
        if with_wrk() if wrk is None else wrk:
            script = Path(name) / "post.lua"
            script.write_text(_SCRIPT % {"token": token, "body": file})
            argv = ["wrk", f"-c{CONNECTIONS}", "-t1", f"-d{seconds}s", "-s"]
            argv += [str(script), url]
        else:
            argv = [sys.executable, "-m", "bench.http.generator", url, str(seconds)]
            argv += [str(CONNECTIONS), token, str(file)]
        told = _last_line(argv, seconds + _GRACE_S)
    load = Load(**told)
    if load.failed or not load.calls:
        raise BenchError(f"{load.failed:,} of {load.calls:,} calls of {url} failed")
    return load


def _last_line(argv: list[str], timeout_s: float) -> Mapping[str, Any]:
    try:
        done = subprocess.run(
            argv, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"{argv[0]} does not end") from None
    if done.returncode or not done.stdout.strip():
        raise BenchError(f"{argv[0]} failed: {done.stderr.strip()[-800:]}")
    told: Mapping[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return told
