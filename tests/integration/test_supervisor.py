"""Children are kept running, then stopped in order, within the time promised."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from pytest_django import Settings

from bus import announcement, errors, server, supervisor
from bus.home import child
from tests.support.processes import is_gone, program
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

# A child that says it is ready, then lives until SIGTERM, which it puts on record.
OBEDIENT = """
import signal, sys, time
def end(*_):
    # Linux tells of a parent's death once per thread of it that the child is left to.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with open(sys.argv[1], "a") as record:
        record.write(sys.argv[2] + "\\n")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("ready")
while True:
    time.sleep(60)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready")
while True:
    time.sleep(60)
"""
# Runs a supervisor over two children, after the manner of `manage.py up`.
MAIN = """
import signal, sys
from bus import supervisor
from bus.home import child
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also where the tests run under nohup
source, record, timeout_s = sys.argv[1], sys.argv[2], float(sys.argv[3])
specs = [
    child.Spec(name, [sys.executable, "-c", source, record, name],
               stop_timeout_s=timeout_s)
    for name in ("agent-1", "agent-2")
]
mesh = supervisor.Supervisor(specs)
mesh.start()
print("pids", *mesh.pids().values())
sys.exit(mesh.run_until_signal())
"""


class Mesh:
    """A supervisor whose output can be looked at, stopped when the test ends."""

    def __init__(
        self, specs: Sequence[child.Spec], embedded: supervisor.Server | None = None
    ) -> None:
        self.out = io.StringIO()
        self.supervisor = supervisor.Supervisor(specs, server=embedded, out=self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.getvalue().splitlines()

    def start(self) -> Mesh:
        self.supervisor.start()
        return self

    def pid(self, name: str) -> int:
        return self.supervisor.pids().get(name, 0)

    def ready(self, count: int) -> None:
        wait_until(
            lambda: sum(line.endswith("| ready") for line in self.lines) >= count,
            description=f"{count} children said they are ready",
        )


MakeMesh = Callable[..., Mesh]


@pytest.fixture
def mesh() -> Iterator[MakeMesh]:
    made: list[Mesh] = []

    def make(*specs: child.Spec, embedded: supervisor.Server | None = None) -> Mesh:
        made.append(Mesh(specs, embedded))
        return made[-1].start()

    yield make
    for one in made:
        one.supervisor.stop()


def python(name: str, source: str, *args: str, **options: object) -> child.Spec:
    argv = [sys.executable, "-S", "-c", source, *args]
    return child.Spec(name, argv, **options)  # type: ignore[arg-type]


@pytest.fixture
def record(tmp_path: Path) -> Path:
    return tmp_path / "record"


def test_it_starts_all_children(mesh: MakeMesh, record: Path) -> None:
    specs = [python(name, OBEDIENT, str(record), name) for name in ("a", "b")]

    running = mesh(*specs)

    assert set(running.supervisor.pids()) == {"a", "b"}


def test_it_passes_output_on_line_by_line(mesh: MakeMesh) -> None:
    source = (
        "import sys, time; print('one\\ntwo'); print('err', file=sys.stderr); "
        "sys.stdout.buffer.write(b'caf\\xe9 without end'); sys.stdout.flush(); "
        "time.sleep(60)"
    )

    running = mesh(python("agent-1", source), python("web", "print('hello')"))

    wait_until(lambda: "web     | hello" in running.lines)
    wait_until(lambda: {"agent-1 | one", "agent-1 | two"} <= set(running.lines))
    wait_until(lambda: "agent-1 | err" in running.lines)
    running.supervisor.stop()
    assert "agent-1 | caf\ufffd without end" in running.lines


def test_it_restarts_a_killed_child_at_once(mesh: MakeMesh, record: Path) -> None:
    running = mesh(python("agent-1", OBEDIENT, str(record), "agent-1"))
    running.ready(1)
    first = running.pid("agent-1")

    os.kill(first, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(lambda: running.pid("agent-1") not in (0, first), 10)

    assert time.monotonic() - killed_at < supervisor.RESTART_AFTER_MAX_S / 2
    running.ready(2)
    assert any(
        "agent-1 ended with SIGKILL" in line and "starts again in 0.2 s" in line
        for line in running.lines
    )


def test_it_holds_back_a_child_that_keeps_dying(mesh: MakeMesh) -> None:
    running = mesh(python("agent-1", "import sys; sys.exit(7)"))

    def delays() -> list[str]:
        return [
            line.rpartition(" in ")[2]
            for line in running.lines
            if "ended with exit code 7" in line
        ]

    wait_until(lambda: len(delays()) >= 3)
    assert delays()[:3] == ["0.2 s", "0.4 s", "0.8 s"]


# Serves a moment, then is killed as by a task; its code is the argument.
SERVES = """
import os, sys
sys.path.insert(0, sys.argv[1])
from bus.home import child
child.tell_serving()
os._exit(137)
"""


def test_it_restarts_what_had_served_without_holding_it_back(mesh: MakeMesh) -> None:
    root = str(Path(__file__).parents[2])

    running = mesh(child.Spec("agent-1", [sys.executable, "-c", SERVES, root]))

    def deaths() -> list[str]:
        return [line for line in running.lines if "exit code 137" in line]

    wait_until(lambda: len(deaths()) >= 5, 30)
    assert all(line.endswith("starts again in 0.2 s") for line in deaths())


def test_what_serves_and_dies_without_end_is_held_back_at_last() -> None:
    class Served(child.Child):
        served = True

    watch = supervisor._Watch(Served(python("a", ""), lambda *_: None))  # type: ignore[arg-type, return-value]

    delays = [watch.put_off(now=1.0) for _ in range(supervisor.AT_ONCE_TRIES + 3)]

    assert delays[-3:] == [0.2, 0.4, 0.8]
    assert set(delays[:-3]) == {supervisor.RESTART_AFTER_S}


def test_the_delay_is_bounded_until_a_long_life_ends_it() -> None:
    watch = supervisor._Watch(child.Child(python("a", ""), lambda *_: None))  # type: ignore[arg-type, return-value]

    delays = [watch.put_off(now=1.0) for _ in range(12)]
    after_a_long_life = watch.put_off(now=1.0 + supervisor.STEADY_AFTER_S)

    assert delays == sorted(delays)
    assert delays[-1] == supervisor.RESTART_AFTER_MAX_S
    assert after_a_long_life == supervisor.RESTART_AFTER_S


@pytest.mark.parametrize("code", supervisor.USAGE_EXITS)
def test_it_gives_up_on_a_usage_error(mesh: MakeMesh, code: int) -> None:
    running = mesh(python("agent-1", f"import sys; sys.exit({code})"))

    assert running.supervisor.run_until_signal() == 1

    ended = [line for line in running.lines if f"exit code {code}" in line]
    assert len(ended) == supervisor.USAGE_TRIES
    assert "given up" in ended[-1]


def test_it_goes_on_with_those_it_has_not_given_up(
    mesh: MakeMesh, record: Path
) -> None:
    running = mesh(
        python("agent-1", "import sys; sys.exit(2)"),
        python("agent-2", OBEDIENT, str(record), "agent-2"),
    )

    wait_until(lambda: any("given up" in line for line in running.lines))

    assert running.pid("agent-2")
    assert running.supervisor.stop() == 0


def test_it_ends_with_a_child_it_cannot_do_without(
    mesh: MakeMesh, record: Path
) -> None:
    running = mesh(
        python("web", "import sys; sys.exit(2)", essential=True),
        python("agent-1", OBEDIENT, str(record), "agent-1"),
    )

    assert running.supervisor.run_until_signal() == 1
    assert record.read_text() == "agent-1\n"


def test_it_tells_of_a_program_that_does_not_exist(mesh: MakeMesh) -> None:
    running = mesh(child.Spec("agent-1", ["/nowhere/python"]))

    wait_until(
        lambda: any(
            "cannot run /nowhere/python: No such file" in line for line in running.lines
        )
    )


def test_what_a_killed_child_left_running_ends_as_well(
    mesh: MakeMesh, tmp_path: Path
) -> None:
    source = (
        "import subprocess, sys, time; "
        "print('pid', subprocess.Popen(['sleep', '600']).pid); time.sleep(60)"
    )
    running = mesh(python("agent-1", source))
    said = wait_until(lambda: [line for line in running.lines if "| pid" in line])
    grandchild = int(said[0].split()[-1])

    os.kill(running.pid("agent-1"), signal.SIGKILL)

    wait_until(lambda: is_gone(grandchild))


def test_it_stops_by_rank_with_the_server_last(mesh: MakeMesh, record: Path) -> None:
    class Recorder:
        """Stands in for the embedded server, to see when its turn comes."""

        name = "redis"
        pid = 1

        def start(self) -> None:
            assert not record.exists()

        def launch(self) -> None: ...
        def announce(self) -> None: ...

        def poll(self) -> int | None:
            return None

        def last_words(self) -> str:
            return ""

        def stop(self, timeout_s: float) -> None:
            with record.open("a") as file:
                file.write("redis\n")

    running = mesh(
        python("web", OBEDIENT, str(record), "web", stop_rank=1),
        python("agent-1", OBEDIENT, str(record), "agent", stop_rank=0),
        python("agent-2", OBEDIENT, str(record), "agent", stop_rank=0),
        embedded=Recorder(),
    )
    running.ready(3)

    assert running.supervisor.stop() == 0

    assert record.read_text().split() == ["agent", "agent", "web", "redis"]


def test_it_kills_a_child_that_does_not_stop(mesh: MakeMesh) -> None:
    running = mesh(python("agent-1", STUBBORN, stop_timeout_s=0.1))
    running.ready(1)
    pid = running.pid("agent-1")

    running.supervisor.stop()

    assert is_gone(pid)
    assert any("agent-1 is killed" in line for line in running.lines)


def test_the_whole_stop_has_a_limit(
    mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "STOP_LIMIT_S", 6.0)
    running = mesh(
        python("agent-1", STUBBORN, stop_timeout_s=600),
        python("web", STUBBORN, stop_rank=1, stop_timeout_s=600),
    )
    running.ready(2)
    pids = running.supervisor.pids().values()
    began_at = time.monotonic()

    running.supervisor.stop()

    assert time.monotonic() - began_at < 20
    assert all(is_gone(pid) for pid in pids)


def test_it_does_not_hang_when_nobody_reads_its_output() -> None:
    paused = threading.Event()

    class Pager(io.StringIO):
        def write(self, text: str) -> int:
            paused.wait()
            return super().write(text)

    source = "import time; [print('x' * 100) for _ in range(20_000)]; time.sleep(60)"
    running = supervisor.Supervisor([python("agent-1", source)], out=Pager())
    running.start()
    try:
        first = running.pids()["agent-1"]
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: running.pids().get("agent-1", first) != first)
    finally:
        running.stop()
        paused.set()
    assert running.pids() == {}


def test_it_brings_a_killed_server_back_at_the_same_url(
    mesh: MakeMesh, tmp_path: Path, settings: Settings
) -> None:
    settings.MESH_VAR_DIR = str(tmp_path)
    embedded = server.EmbeddedServer(tmp_path / "redis", port=0)
    running = mesh(embedded=embedded)
    url, first = embedded.url, embedded.pid
    assert first is not None
    with announcement.client(url, timeout_s=2.0) as client:
        client.set("key", "value")

        os.kill(first, signal.SIGKILL)
        wait_until(lambda: embedded.pid not in (None, first))
        wait_until(announcement.running, description="the announced URL answers")

        assert client.get("key") == b"value"
    assert embedded.url == url
    running.supervisor.stop()
    assert embedded.poll() == 0
    assert announcement.running() is None


def test_it_stops_what_it_started_when_the_start_fails(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.MESH_VAR_DIR = str(tmp_path)
    embedded = server.EmbeddedServer(tmp_path / "redis", port=0)
    failing = Mesh([python("agent-1", STUBBORN)], embedded)

    def fail(self: child.Child) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(child.Child, "launch", fail)
    with pytest.raises(OSError, match="no more processes"):
        failing.start()

    assert not embedded.alive()


def pids_of(main_output: Iterator[str]) -> list[int]:
    """The children's ids, once both have said that they are ready."""
    pids: list[int] = []
    ready = 0
    for line in main_output:
        if line.startswith("pids"):
            pids = [int(pid) for pid in line.split()[1:]]
        ready += line.endswith("| ready\n")
        if ready == 2 and pids:
            break
    return pids


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_with_exit_code_zero(
    record: Path, signum: signal.Signals
) -> None:
    with program(MAIN, OBEDIENT, str(record), "5") as main:
        assert main.stdout is not None
        pids = pids_of(main.stdout)

        # To the whole group, as a terminal does: the children must not hear it.
        os.killpg(main.pid, signum)

        assert main.wait(10) == 0
        assert sorted(record.read_text().split()) == ["agent-1", "agent-2"]
        assert all(is_gone(pid) for pid in pids)


@pytest.mark.parametrize("while_it", ["runs", "starts"])
def test_ctrl_c_stops_all_and_one_more_hurries(record: Path, while_it: str) -> None:
    source = MAIN
    if while_it == "starts":  # as in `up`: its way out stops what it has started
        begun = "try: signal.pause()\nexcept KeyboardInterrupt: sys.exit(mesh.stop())"
        source = MAIN.replace("sys.exit(mesh.run_until_signal())", begun)
        assert source != MAIN
    with program(source, STUBBORN, str(record), "600") as main:
        assert main.stdout is not None
        pids_of(main.stdout)

        os.killpg(main.pid, signal.SIGINT)
        for line in main.stdout:
            if "Ctrl-C hurries" in line:
                break
        os.killpg(main.pid, signal.SIGINT)

        assert main.wait(20) == 0
        assert "as you hurry" in main.stdout.read()


def test_children_end_with_a_supervisor_that_was_killed(record: Path) -> None:
    with program(MAIN, OBEDIENT, str(record), "5") as main:
        assert main.stdout is not None
        pids = pids_of(main.stdout)

        main.kill()

        wait_until(lambda: all(is_gone(pid) for pid in pids))
        assert sorted(record.read_text().split()) == ["agent-1", "agent-2"]


class Frail:
    """A server that has died, and starts again only after `failures` tries."""

    name, pid = "redis", None

    def __init__(self, failures: int = 0, bug: bool = False) -> None:
        self.failures, self.bug = failures, bug
        self.dead = True

    def start(self) -> None: ...
    def announce(self) -> None: ...
    def stop(self, timeout_s: float) -> None: ...

    def launch(self) -> None:
        self.failures -= 1
        if self.failures >= 0:
            raise errors.ServerError("the disk is full")
        self.dead = False

    def poll(self) -> int | None:
        if self.bug:
            raise RuntimeError("a bug of ours")
        return 1 if self.dead else None

    def last_words(self) -> str:
        return "out of memory"


def test_a_server_that_cannot_be_started_again_is_tried_again(mesh: MakeMesh) -> None:
    frail = Frail(failures=1)

    running = mesh(embedded=frail)
    wait_until(lambda: not frail.dead, 15)

    said = running.out.getvalue()
    assert "out of memory" in said
    assert "redis cannot be started, next try in 0.4 s: the disk is full" in said


def test_a_bug_in_it_stops_all_in_order(mesh: MakeMesh, record: Path) -> None:
    frail = Frail()
    running = mesh(python("agent-1", OBEDIENT, str(record), "agent-1"), embedded=frail)
    running.ready(1)

    frail.bug = True

    assert not running.supervisor.until(lambda: False), "it does not wait for ever"
    assert running.supervisor.run_until_signal() == 70
    assert "RuntimeError: a bug of ours" in running.out.getvalue()
    assert record.read_text() == "agent-1\n"
