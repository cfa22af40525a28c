"""The embedded server keeps its data, its URL, its directory to itself."""

from __future__ import annotations

import contextlib
import ctypes.util
import errno
import itertools
import os
import re
import shutil
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from bus import announcement, conf, errors, server
from bus.home import claim, syncing
from tests.support import machine
from tests.support.processes import is_gone, program, script
from tests.support.stalls import Stalls
from tests.support.waiting import wait_until

# Starts a server, says its pid, then lives until it is killed.
OWNER = """
import sys, time
from pathlib import Path
from bus import server
embedded = server.EmbeddedServer(Path(sys.argv[1]), port=0)
embedded.start()
print(embedded.pid, embedded.url)
time.sleep(600)
"""


@pytest.fixture
def embedded(tmp_path: Path, settings: Settings) -> Iterator[server.EmbeddedServer]:
    """A running server in the place where this folder's mesh would have it."""
    settings.MESH_VAR_DIR = str(tmp_path)
    with server.EmbeddedServer(tmp_path / "redis", port=0) as running:
        yield running


def connect(url: str) -> redis.Redis:
    return announcement.client(url, timeout_s=2.0)


def kill(embedded: server.EmbeddedServer, signum: int = signal.SIGKILL) -> None:
    """Kill the server process, then wait until we can see that it died."""
    assert embedded.pid is not None
    os.kill(embedded.pid, signum)
    wait_until(lambda: not embedded.alive(), description="the server died")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@contextlib.contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Another program's port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        yield other.getsockname()[1]


def test_a_locale_that_this_machine_lacks_keeps_it_from_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ssh brings it along from where somebody sits."""
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")

    with server.EmbeddedServer(tmp_path, port=0) as embedded:
        assert connect(embedded.url).ping()


def test_it_starts_in_a_moment(tmp_path: Path) -> None:
    embedded = server.EmbeddedServer(tmp_path, port=0)
    began_at = time.monotonic()
    with Stalls() as stalls:
        embedded.start()
    took_s = time.monotonic() - began_at - stalls.total_s
    embedded.stop()

    # 30 ms on an idle machine; the bound leaves room for a busy one.
    assert took_s < 1.0


def test_it_persists_and_never_evicts(embedded: server.EmbeddedServer) -> None:
    with connect(embedded.url) as client:
        config = client.config_get()

    expected = {
        "bind": "127.0.0.1",
        "protected-mode": "yes",
        "appendonly": "yes",
        "appendfsync": "no",  # bus/home/syncing.py
        "save": "",
        "maxmemory-policy": "noeviction",
        "maxmemory": "0",
        "stream-node-max-bytes": "5120",
        "enable-debug-command": "no",
        "dir": str(embedded.directory),
    }
    assert {name: config[name] for name in expected} == expected


def test_it_runs_with_jemalloc_where_the_machine_has_it(
    embedded: server.EmbeddedServer,
) -> None:
    if ctypes.util.find_library("jemalloc") is None:
        machine.lacks("no libjemalloc2 here")

    assert "libjemalloc" in Path(f"/proc/{embedded.pid}/maps").read_text()


def test_it_obeys_the_memory_limit(tmp_path: Path, settings: Settings) -> None:
    settings.MESH_REDIS_MAXMEMORY = "64mb"

    with (
        server.EmbeddedServer(tmp_path, port=0) as embedded,
        connect(embedded.url) as client,
    ):
        assert client.config_get("maxmemory") == {"maxmemory": str(64 * 2**20)}


def test_it_allows_debug_commands_only_if_asked(tmp_path: Path) -> None:
    asked = server.EmbeddedServer(tmp_path, port=0, debug_commands=True)

    with asked, connect(asked.url) as client:
        assert client.execute_command("DEBUG", "SLEEP", "0") == b"OK"


def test_it_lets_nobody_in_without_the_password(
    embedded: server.EmbeddedServer,
) -> None:
    with (
        connect(embedded.shown_url) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()


def test_its_files_are_private(embedded: server.EmbeddedServer) -> None:
    assert mode(embedded.directory) == 0o700
    for name in ("server.conf", "password", "lock", "owner"):
        assert mode(embedded.directory / name) == 0o600


def test_it_announces_itself_until_it_stops(embedded: server.EmbeddedServer) -> None:
    embedded.announce()

    assert conf.announcement().read_text() == embedded.url + "\n"
    assert mode(conf.announcement()) == 0o600
    found = announcement.running()
    assert found is not None
    assert (found.url, found.pid) == (embedded.url, embedded.pid)
    assert re.fullmatch(r"(Valkey|Redis) \d+\.\d+\.\d+", found.version)

    embedded.stop()
    assert not conf.announcement().exists()


def test_it_leaves_the_announcement_of_another_server(
    embedded: server.EmbeddedServer,
) -> None:
    embedded.announce()
    announcement.publish("redis://127.0.0.1:1/0")

    embedded.stop()

    assert conf.announcement().read_text() == "redis://127.0.0.1:1/0\n"


@pytest.mark.parametrize("content", ["redis://127.0.0.1:1/0", "nonsense", "", "\xff"])
def test_it_does_not_believe_an_announcement_without_an_answer(
    tmp_path: Path, settings: Settings, content: str
) -> None:
    settings.MESH_VAR_DIR = str(tmp_path)
    assert announcement.running() is None

    conf.announcement().parent.mkdir()
    conf.announcement().write_bytes(content.encode("latin-1"))

    assert announcement.running() is None


def test_it_keeps_data_and_url_when_killed(embedded: server.EmbeddedServer) -> None:
    url = embedded.url
    with connect(url) as client:
        client.xadd("stream", {"n": "1"})
        client.xgroup_create("stream", "group", id="0")
        client.xreadgroup("group", "agent", {"stream": ">"})

        kill(embedded)
        embedded.start()

        assert embedded.url == url
        assert client.xlen("stream") == 1
        assert client.xpending("stream", "group")["pending"] == 1


def test_it_keeps_data_when_stopped(tmp_path: Path) -> None:
    with (
        server.EmbeddedServer(tmp_path, port=0) as first,
        connect(first.url) as client,
    ):
        client.set("key", "value")

    with (
        server.EmbeddedServer(tmp_path, port=0) as second,
        connect(second.url) as client,
    ):
        assert client.get("key") == b"value"


def test_it_refuses_a_second_server_on_the_same_data(
    embedded: server.EmbeddedServer,
) -> None:
    second = server.EmbeddedServer(embedded.directory, port=0)

    with pytest.raises(errors.ServerLocked) as caught:
        second.start()

    said = str(caught.value)
    assert f"process {os.getpid()}" in said
    assert embedded.shown_url in said
    assert embedded.url not in said
    assert announcement.ask(embedded.url).pid == embedded.pid


def test_it_gives_its_directory_up_when_stopped(
    embedded: server.EmbeddedServer,
) -> None:
    embedded.stop()

    with server.EmbeddedServer(embedded.directory, port=0) as second:
        assert second.alive()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with program(OWNER, str(tmp_path)) as owner:
        assert owner.stdout is not None
        pid, url = owner.stdout.readline().split()
        with connect(url) as client:
            client.set("key", "value")
        owner.kill()
        owner.wait()

        # Waits for the orphan to go: its lock is on the directory as long as it lives.
        with (
            server.EmbeddedServer(tmp_path, port=0) as heir,
            connect(heir.url) as client,
        ):
            assert is_gone(int(pid))
            assert client.get("key") == b"value"


def test_it_refuses_the_data_of_an_orphan_that_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "ORPHAN_WAIT_S", 0.1)
    with program(OWNER, str(tmp_path)) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline().split()[0])
        os.kill(pid, signal.SIGSTOP)  # deaf to the parent-death signal
        owner.kill()
        owner.wait()

        try:
            with pytest.raises(errors.ServerLocked, match=f"`kill {pid}`"):
                server.EmbeddedServer(tmp_path, port=0).start()
        finally:
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: is_gone(pid))


def test_it_is_killed_when_it_ignores_the_request_to_stop(
    embedded: server.EmbeddedServer,
) -> None:
    pid = embedded.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)

    embedded.stop(timeout_s=0.1)

    assert embedded.poll() == -signal.SIGKILL


def test_it_stops_although_its_directory_was_deleted(
    embedded: server.EmbeddedServer,
) -> None:
    shutil.rmtree(embedded.directory)

    embedded.stop(timeout_s=1.0)

    assert not embedded.alive()


def test_it_does_not_start_empty_when_its_data_was_deleted(
    embedded: server.EmbeddedServer,
) -> None:
    shutil.rmtree(embedded.directory)
    kill(embedded)
    embedded.directory.mkdir()

    with pytest.raises(errors.ServerError, match="was deleted or replaced"):
        embedded.launch()


def test_it_takes_the_next_free_port(tmp_path: Path, settings: Settings) -> None:
    with listener() as taken:
        settings.MESH_REDIS_PORT = taken
        with server.EmbeddedServer(tmp_path) as embedded:
            assert taken < embedded.port <= taken + server.PORT_TRIES


def test_it_says_so_when_the_very_port_it_must_have_is_taken(tmp_path: Path) -> None:
    with (
        listener() as taken,
        pytest.raises(errors.ServerError, match=f"port {taken} .*MESH_REDIS_PORT"),
    ):
        server.EmbeddedServer(tmp_path, port=taken).start()


def test_it_says_so_when_its_port_was_taken_while_it_was_down(
    embedded: server.EmbeddedServer,
) -> None:
    kill(embedded)

    with (
        listener(embedded.port),
        pytest.raises(errors.ServerError, match=f"port {embedded.port} "),
    ):
        embedded.start()


def test_it_tries_another_port_when_somebody_was_faster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listener() as taken:
        embedded = server.EmbeddedServer(tmp_path, port=0)
        look = embedded._free_port
        ports = iter([taken])
        # The look finds the port free, the server's bind does not.
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports, 0) or look())
        with embedded:
            assert embedded.port != taken


def damage(directory: Path, *, at: int) -> None:
    file = next((directory / "appendonlydir").glob("*.incr.aof"))
    content = bytearray(file.read_bytes())
    content[at : at + 20] = b"x" * 20
    file.write_bytes(content)


def filled(directory: Path) -> None:
    with (
        server.EmbeddedServer(directory, port=0) as embedded,
        connect(embedded.url) as client,
    ):
        for number in range(100):
            client.set(f"key-{number}", "value")


def test_it_says_how_to_repair_a_damaged_file(tmp_path: Path) -> None:
    filled(tmp_path)
    damage(tmp_path, at=1000)
    embedded = server.EmbeddedServer(tmp_path, port=0)

    with pytest.raises(errors.ServerError) as caught:
        embedded.start()

    said = str(caught.value)
    repair = re.search(r"bash -c '(exec -a .* --fix .*\.manifest)'", said)
    assert repair is not None
    assert "Bad file format" in said
    assert str(embedded.log_path) in said

    # The advice works, and the failed start left nothing behind that blocks it.
    assert os.system(f"yes | bash -c '{repair[1]}' >/dev/null") == 0
    with embedded, connect(embedded.url) as client:
        assert 0 < client.dbsize() < 100


def test_it_starts_from_a_file_cut_off_by_a_crash(tmp_path: Path) -> None:
    filled(tmp_path)
    file = next((tmp_path / "appendonlydir").glob("*.incr.aof"))
    os.truncate(file, file.stat().st_size - 5)

    with (
        server.EmbeddedServer(tmp_path, port=0) as embedded,
        connect(embedded.url) as client,
    ):
        assert client.dbsize() == 99


def test_it_gives_up_on_a_server_that_never_answers(
    tmp_path: Path, settings: Settings
) -> None:
    settings.MESH_REDIS_BIN = str(
        script(
            tmp_path / "mute",
            '[ "$1" = --version ] && echo "Redis server v=7.2.4" || exec sleep 600',
        )
    )
    embedded = server.EmbeddedServer(tmp_path / "data", port=0)

    with pytest.raises(errors.ServerError, match="no answer"):
        embedded.start(timeout_s=0.2)

    assert not embedded.alive()


def test_many_run_side_by_side(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        many = [
            stack.enter_context(server.EmbeddedServer(tmp_path / str(n), port=0))
            for n in range(5)
        ]

        assert len({embedded.port for embedded in many}) == 5
        assert all(announcement.ask(one.url).pid == one.pid for one in many)


def test_once_a_sync_of_ours_fails_the_server_syncs_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses writes when its own syncs fail, which a sync of ours cannot."""

    def broken(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(syncing, "_sync", broken)
    told: list[tuple[str, ...]] = []
    tell = server.EmbeddedServer._tell

    def busy_at_first(embedded: server.EmbeddedServer, *command: str) -> bool:
        told.append(command)
        return len(told) > 2 and tell(embedded, *command)

    monkeypatch.setattr(syncing, "EVERY_S", 0.05)
    monkeypatch.setattr(server.EmbeddedServer, "_tell", busy_at_first)

    with (
        server.EmbeddedServer(tmp_path, port=0) as embedded,
        connect(embedded.url) as client,
    ):
        client.set("a", 1)

        wait_until(
            lambda: client.config_get("appendfsync") == {"appendfsync": "everysec"},
            10,
            "the server syncs",
        )


def test_what_grows_is_synced_and_what_lies_still_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    monkeypatch.setattr(syncing, "EVERY_S", 0.01)
    monkeypatch.setattr(syncing, "_sync", lambda fd: lengths.append(size_of(fd)))

    with (
        server.EmbeddedServer(tmp_path, port=0) as embedded,
        connect(embedded.url) as client,
    ):
        client.set("a", "x" * 1000)
        wait_until(lambda: lengths and lengths[-1] > 1000, 10, "it is synced")
        client.execute_command("BGREWRITEAOF")  # from now on in another file
        wait_until(lambda: not rewriting(client), 30, "the file is rewritten")
        client.set("b", "x" * 2000)
        wait_until(lambda: lengths[-1] > 2000, 10, "the new file is synced")

    assert all(one != next_ for one, next_ in itertools.pairwise(lengths))


def test_a_file_that_was_deleted_under_the_server_is_written_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syncing, "EVERY_S", 0.05)
    embedded = server.EmbeddedServer(tmp_path, port=0)
    with embedded, connect(embedded.url) as client:
        client.set("a", "1")
        files = tmp_path / "appendonlydir"
        wait_until(lambda: syncing_has_begun(files), 10, "its file is open here")
        shutil.rmtree(files)
        wait_until(lambda: list(files.glob("*.manifest")), 30, "there is a new one")
        wait_until(lambda: not rewriting(client), 30, "it is whole")
        client.set("b", "2")
        assert embedded.pid is not None
        os.kill(embedded.pid, signal.SIGKILL)
        wait_until(lambda: not embedded.alive(), 10, "the server is dead")
        embedded.start()
        assert (client.get("a"), client.get("b")) == (b"1", b"2")


def syncing_has_begun(files: Path) -> bool:
    """Whether this process has one of these files open."""
    mine = (Path(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd"))
    return any(files in link.resolve().parents for link in mine)


def size_of(fd: int) -> int:
    return os.fstat(fd).st_size


def rewriting(client: redis.Redis) -> bool:
    facts = client.info("persistence")
    return bool(facts["aof_rewrite_in_progress"] or facts["aof_rewrite_scheduled"])
