"""`manage.py up` runs a mesh, or says in one sentence why it does not."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path

import pytest

from bus import announcement
from bus.home import binary
from bus.management.commands.up import Command
from tests.support.mesh import read_until, rest, up
from tests.support.processes import is_gone
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow


def test_it_runs_a_mesh_until_ctrl_c(tmp_path: Path) -> None:
    url_file = tmp_path / "redis" / "url"
    with up(tmp_path, "--agents", "1") as mesh:
        banner = read_until(mesh, "Ctrl-C here stops all")
        if "agent-1 |" not in banner:
            read_until(mesh, "agent-1 |")
        answer = announcement.ask(url_file.read_text().strip())

        assert binary.find().origin in banner
        assert str(tmp_path / "redis") in banner
        assert "\033[" not in banner
        assert (tmp_path / "db.sqlite3").exists()

        os.killpg(mesh.pid, signal.SIGINT)
        said = rest(mesh)

        assert mesh.wait() == 0
        assert "agent-1 is killed" not in said
        assert not url_file.exists()
        assert is_gone(answer.pid)


def test_its_banner_is_in_a_file_as_soon_as_it_runs(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0", PYTHONUNBUFFERED="") as mesh:
        read_until(mesh, "Ctrl-C here stops all")


def test_a_reader_who_left_before_the_banner_takes_no_mesh_along() -> None:
    """`manage.py up | head`."""

    class Left(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    Command(stdout=Left())._greet("Hello")


def test_it_is_refused_where_a_mesh_runs(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as first:
        read_until(first, "Ctrl-C here stops all")
        with up(tmp_path) as second:
            said = rest(second)

            assert second.wait() == 2
            assert f"by the mesh of process {first.pid}" in said
            assert "redis://127.0.0.1:" in said
            assert "Traceback" not in said


def test_it_starts_again_after_it_was_killed(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as first:
        read_until(first, "Ctrl-C here stops all")
        stale = (tmp_path / "redis" / "url").read_text().strip()
        orphan = announcement.ask(stale).pid
        first.kill()
        first.wait()

        with up(tmp_path, "--agents", "0") as second:
            read_until(second, "Ctrl-C here stops all")

            wait_until(lambda: is_gone(orphan))
            url = (tmp_path / "redis" / "url").read_text().strip()
            assert announcement.ask(url).pid != orphan


def test_it_uses_the_given_server_and_starts_none(tmp_path: Path) -> None:
    with up(tmp_path / "one", "--agents", "0") as other:
        read_until(other, "Ctrl-C here stops all")
        url = (tmp_path / "one" / "redis" / "url").read_text().strip()

        with up(tmp_path / "two", "--agents", "0", redis_url=url) as mesh:
            banner = read_until(mesh, "Ctrl-C here stops all")

            assert "of REDIS_URL" in banner
            assert url not in banner  # it holds the password
            assert not (tmp_path / "two" / "redis").exists()
            mesh.terminate()
            assert mesh.wait() == 0
        assert announcement.ask(url)


@pytest.mark.parametrize("redis_url", ["http://127.0.0.1/", "nonsense"])
def test_it_does_not_start_with_a_url_that_is_none(
    tmp_path: Path, redis_url: str
) -> None:
    with up(tmp_path, redis_url=redis_url) as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert "cannot be parsed" in said
        assert "Traceback" not in said


def test_it_does_not_start_without_the_given_server(tmp_path: Path) -> None:
    with up(tmp_path, redis_url="redis://:secret@127.0.0.1:1/0") as mesh:
        said = rest(mesh)

        assert mesh.wait() == 69
        assert "REDIS_URL is set, yet nothing useful answers" in said
        assert "secret" not in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    "args",
    [
        ("--agents", "-1"),
        ("--agents", "1000000"),
        ("--concurrency", "0"),
        ("--port", "0"),
        ("--port", "65536"),
        ("--what",),
    ],
)
def test_it_refuses_options_out_of_range(tmp_path: Path, args: tuple[str, ...]) -> None:
    with up(tmp_path, *args) as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert "usage:" in said


def test_it_names_an_address_that_is_not_this_machine_s(tmp_path: Path) -> None:
    with up(tmp_path, "--host", "192.0.2.1") as mesh:
        said = rest(mesh)

        assert mesh.wait() == 69
        assert "'192.0.2.1'" in said
        assert "an address of this machine" in said
        assert "Traceback" not in said


def test_it_refuses_a_port_of_the_environment_that_is_none(tmp_path: Path) -> None:
    with up(tmp_path, PORT="http") as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert "'http' is no number" in said


def test_prod_names_all_it_needs_before_anything_starts(tmp_path: Path) -> None:
    with up(tmp_path, "--prod") as mesh:
        said = rest(mesh)

        assert mesh.wait() == 2
        assert all(name in said for name in ("SECRET_KEY", "ALLOWED_HOSTS", "HTTPS"))
        assert not (tmp_path / "redis").exists()


def test_prod_runs_with_what_it_needs_and_makes_no_admin(tmp_path: Path) -> None:
    own = {"SECRET_KEY": "k" * 50, "ALLOWED_HOSTS": "mesh.example", "HTTPS": "0"}
    with up(tmp_path, "--prod", "--agents", "0", **own) as mesh:
        banner = read_until(mesh, "Ctrl-C here stops all")

        assert "createsuperuser" in banner
        assert "asked for as mesh.example only" in banner
        assert "HTTP_HOST" not in banner, "it asks for itself under its own name"
        assert not (tmp_path / "credentials.json").exists()
