"""What else the machine did during a run, with the versions that ran."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
# Fields of a process in /proc/<pid>/stat, counted from the state behind its name.
_PARENT, _USER, _SYSTEM, _DEAD_USER, _DEAD_SYSTEM = 1, 11, 12, 13, 14


@dataclass(frozen=True, slots=True)
class Ticks:
    """CPU time since boot, in ticks over all CPUs; `own` is ours with our children."""

    total: int
    idle: int
    stolen: int
    own: int


@dataclass(frozen=True, slots=True)
class Load:
    """Shares (0 to 1) of all CPU time that a run did not get."""

    stolen: float  # taken by the host for its other guests
    others: float  # used by processes that are not of the benchmark


def ticks() -> Ticks | None:
    """The counters as they stand; None where the system has no /proc/stat."""
    try:
        first = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return None
    # user nice system idle iowait irq softirq steal; what follows is in them already.
    parts = [int(part) for part in first.split()[1:9]]
    return Ticks(sum(parts), parts[3] + parts[4], parts[7], _own())


def load(before: Ticks | None, after: Ticks | None) -> Load | None:
    """What was missing between two looks; None where nobody can tell."""
    if before is None or after is None or after.total <= before.total:
        return None
    total = after.total - before.total
    stolen = after.stolen - before.stolen
    busy = total - (after.idle - before.idle) - stolen
    # The counters are read one after the other, so small differences may be negative.
    others = max(0, busy - (after.own - before.own))
    return Load(stolen / total, others / total)


def _own() -> int:
    """Ticks of this process, of children that ended, of children that run."""
    mine = os.times()
    ended_s = mine.children_user + mine.children_system
    own = round((mine.user + mine.system + ended_s) * _TICKS_PER_S)
    me = str(os.getpid())
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            fields = file.read_text().rpartition(")")[2].split()
            if fields[_PARENT] == me:
                spent = (_USER, _SYSTEM, _DEAD_USER, _DEAD_SYSTEM)
                own += sum(int(fields[index]) for index in spent)
    return own


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the figures come from."""

    system: str
    cpu: str
    cpus: int
    python: str
    redis_py: str
    hiredis: str
    server: str

    def line(self) -> str:
        """All of it in one line."""
        return (
            f"{self.cpus} CPUs {self.cpu}, {self.system}, Python {self.python}, "
            f"redis-py {self.redis_py}, hiredis {self.hiredis}, {self.server}"
        )

    def as_dict(self) -> dict[str, object]:
        """The same for programs."""
        return asdict(self)


def describe(server: str) -> Machine:
    """This machine, with the name the server gave itself."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        cpu=_cpu_model(),
        cpus=len(os.sched_getaffinity(0))
        if sys.platform == "linux"
        else os.cpu_count() or 1,
        python=platform.python_version(),
        redis_py=_version("redis"),
        hiredis=_version("hiredis"),
        server=server,
    )


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
