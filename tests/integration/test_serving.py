"""`manage.py up` serves the site: a newcomer's first minutes, and how it all ends."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis
from django.core.management import CommandError, call_command
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from bus.home import web
from tests.support import machine
from tests.support.mesh import BANNER_END, command_in, read_until, rest, up, url_in
from tests.support.processes import is_gone
from tests.support.stalls import Stalls
from tests.support.waiting import PATIENCE, wait_until

pytestmark = pytest.mark.slow

ENQUEUE = "/api/v1/mesh/enqueue"
HELLO = {"topic": "hello", "task": {"name": "you"}}


class Session:
    """A client with the credentials of a folder."""

    def __init__(self, var_dir: Path) -> None:
        self.kept: dict[str, str] = json.loads(
            (var_dir / "credentials.json").read_text()
        )
        headers = {"Authorization": f"Bearer {self.kept['token']}"}
        self.http = httpx2.Client(
            base_url=self.kept["url"], headers=headers, timeout=60
        )

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.http.close()

    def send(self, task: dict[str, Any]) -> str:
        answer = self.http.post(ENQUEUE, json={"topic": "hello", "task": task})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def task(self, task_id: str, wait: int = 10) -> dict[str, Any]:
        path = f"/api/v1/mesh/tasks/{task_id}"
        answer = self.http.get(path, params={"topic": "hello", "wait": wait})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found


def pasted(line: str, cwd: Path) -> str:
    """What a shell prints for a line of the banner, in any folder."""
    machine.needs("curl")
    done = subprocess.run(
        ["sh", "-c", line], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def pid_of(mesh: subprocess.Popen[str], command: str) -> int:
    """The child of `up` that runs this command."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parent = (entry / "stat").read_text().rpartition(")")[2].split()[1]
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent) == mesh.pid and command.encode() in words:
            return int(entry.name)
    return 0


@pytest.fixture
def far_away(tmp_path: Path) -> Path:
    """A folder that is not the mesh's."""
    path = tmp_path / "elsewhere"
    path.mkdir()
    return path


def test_the_printed_curl_works_as_pasted(tmp_path: Path, far_away: Path) -> None:
    var = tmp_path / "var"
    with up(var, "--agents", "1") as mesh:
        banner = read_until(mesh, BANNER_END)

        sent = pasted(command_in(banner, "curl -i"), far_away)
        assert sent.startswith("HTTP/1.1 201"), sent
        assert "server:" not in sent.lower()
        task_id = json.loads(sent.splitlines()[-1])["id"]

        ask = command_in(banner, "/tasks/ID").replace("ID", task_id, 1)
        began = time.monotonic()
        with Stalls() as stalls:
            found = json.loads(pasted(ask, far_away))

        assert (found["state"], found["result"]) == (
            "done",
            {"greeting": "Hello, you!"},
        )
        assert time.monotonic() - began < 1.5 * PATIENCE + stalls.total_s


def test_credentials_are_shown_once_and_kept(tmp_path: Path, far_away: Path) -> None:
    file = tmp_path / "credentials.json"
    with up(tmp_path, "--agents", "0") as mesh:
        first = read_until(mesh, BANNER_END)
        kept = json.loads(file.read_text())

        assert sorted(kept) == ["password", "token", "url", "username"]
        assert kept["url"] == url_in(first)
        assert file.stat().st_mode & 0o777 == 0o600
        assert (tmp_path / "db.sqlite3").stat().st_mode & 0o777 == 0o600
        assert kept["password"] in first and kept["token"] in first
        mesh.terminate()
        rest(mesh)

    port = free_port()
    with up(tmp_path, "--agents", "0", "--port", str(port)) as mesh:
        second = read_until(mesh, BANNER_END)
        again = json.loads(file.read_text())

        assert again == {**kept, "url": f"http://127.0.0.1:{port}"}
        assert kept["password"] not in second and kept["token"] not in second
        assert str(file) in second
        answer = pasted(command_in(second, "curl -i"), far_away)
        assert answer.startswith("HTTP/1.1 201"), answer

        mesh.terminate()
        said = second + rest(mesh)
        log = (tmp_path / "redis" / "server.log").read_text()
        assert kept["token"] not in said + log
        assert kept["password"] not in said + log


def test_deleted_credentials_are_made_anew(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as mesh:
        read_until(mesh, BANNER_END)
        with Session(tmp_path) as old:
            kept = old.kept
        mesh.terminate()
        rest(mesh)
    (tmp_path / "credentials.json").unlink()

    with up(tmp_path, "--agents", "0") as mesh:
        banner = read_until(mesh, BANNER_END)

        with Session(tmp_path) as new:
            assert new.kept["token"] != kept["token"]
            assert new.kept["password"] in banner
            assert new.http.get("/api/v1/mesh/topics").status_code == 200
            headers = {"Authorization": f"Bearer {kept['token']}"}
            answer = new.http.get("/api/v1/mesh/topics", headers=headers)
            assert answer.status_code == 401


def test_what_waits_is_there_after_a_restart_and_gets_done(tmp_path: Path) -> None:
    with up(tmp_path, "--agents", "0") as mesh:
        read_until(mesh, BANNER_END)
        with Session(tmp_path) as session:
            waiting = [session.send({"name": f"n{index}"}) for index in range(3)]
        os.killpg(mesh.pid, signal.SIGINT)
        began = time.monotonic()
        rest(mesh)

        assert mesh.wait() == 0
        assert time.monotonic() - began < 10

    with up(tmp_path, "--agents", "1") as mesh:
        began = time.monotonic()
        read_until(mesh, BANNER_END)
        assert time.monotonic() - began < 30  # 2 s alone; other tests share the cores
        with Session(tmp_path) as session:
            states = [session.task(each)["state"] for each in waiting]

            assert states == ["done", "done", "done"]


def test_two_folders_are_two_meshes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with up(one, "--agents", "0") as first, up(two, "--agents", "0") as second:
        urls = [url_in(read_until(mesh, BANNER_END)) for mesh in (first, second)]
        with Session(one) as mine, Session(two) as other:
            task_id = mine.send({"name": "one"})

            assert urls == [mine.kept["url"], other.kept["url"]]
            assert len(set(urls)) == 2
            path = f"/api/v1/mesh/tasks/{task_id}"
            assert mine.http.get(path).status_code == 200
            assert other.http.get(path).status_code == 404
            headers = {"Authorization": f"Bearer {mine.kept['token']}"}
            foreign = other.http.get("/api/v1/mesh/topics", headers=headers)
            assert foreign.status_code == 401


def signed_in(browser: httpx2.Client, kept: dict[str, str]) -> None:
    page = browser.get(f"{kept['url']}/login/").text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
    assert token, page
    form = {key: kept[key] for key in ("username", "password")}
    answer = browser.post(
        f"{kept['url']}/login/",
        data={**form, "csrfmiddlewaretoken": token[1]},
        headers={"Origin": kept["url"]},
    )
    assert answer.status_code == 303, answer.text


def test_one_browser_is_signed_in_to_both_meshes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with up(one, "--agents", "0") as first, up(two, "--agents", "0") as second:
        for mesh in (first, second):
            read_until(mesh, BANNER_END)
        kept = [
            json.loads((var / "credentials.json").read_text()) for var in (one, two)
        ]
        with httpx2.Client(timeout=60) as browser:
            for each in kept:
                signed_in(browser, each)

            # Cookies know no port: the second sign-in must leave the first alone.
            pages = [browser.get(f"{each['url']}/") for each in kept]

            assert [page.status_code for page in pages] == [200, 200]
            names = sorted(name for name in browser.cookies if "session" in name)
            assert len(set(names)) == 2


def test_a_port_that_is_taken_is_an_error_if_it_was_asked_for(tmp_path: Path) -> None:
    with web.listen("127.0.0.1") as taken:
        port = taken.getsockname()[1]
        with up(tmp_path, PORT=str(port)) as mesh:
            said = rest(mesh)

            assert mesh.wait() == 69
            assert f"port {port} on 127.0.0.1 is taken" in said
            assert "Traceback" not in said
        assert not (tmp_path / "redis" / "url").exists()


def test_a_web_server_by_itself_says_what_it_cannot_listen_on(
    redis_client: redis.Redis,
) -> None:
    with web.listen("127.0.0.1") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"port {port} on .* is taken") as told:
            call_command("web", port=port)
    assert told.value.returncode == 69

    with pytest.raises(CommandError, match="--fd 999999 is no socket") as told:
        call_command("web", fd=999_999)
    assert told.value.returncode == 2


def test_without_a_port_the_next_free_one_is_taken_and_told(tmp_path: Path) -> None:
    with web.listen("127.0.0.1"), up(tmp_path, "--agents", "0") as mesh:
        banner = read_until(mesh, BANNER_END)

        assert url_in(banner) != "http://127.0.0.1:8000"
        assert "(8000 was taken)" in banner


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Session]]:
    """A mesh without agents, with a client of its own."""
    with up(tmp_path, "--agents", "0") as mesh:
        read_until(mesh, BANNER_END)
        with Session(tmp_path) as session:
            yield mesh, session


def test_a_killed_web_process_comes_back_and_refuses_nobody(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    mesh, session = serving
    killed = pid_of(mesh, "web")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: is_gone(killed))

    # Whoever comes meanwhile waits in the backlog of the socket that `up` holds.
    with ThreadPoolExecutor(20) as crowd:
        answers = list(
            crowd.map(
                lambda _: httpx2.get(f"{session.kept['url']}/login/", timeout=60),
                range(20),
            )
        )

    assert {answer.status_code for answer in answers} == {200}
    assert pid_of(mesh, "web") not in (0, killed)
    assert "it starts again" in read_until(mesh, "web server answers")


def test_ctrl_c_ends_with_sockets_open_and_calls_waiting(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    mesh, session = serving
    task_id = session.send({"name": "nobody is there to greet"})
    place = session.kept["url"].removeprefix("http://")
    headers = {"Authorization": f"Bearer {session.kept['token']}"}
    with (
        ThreadPoolExecutor(1) as other,
        connect(f"ws://{place}/ws/feed", additional_headers=headers) as feed,
    ):
        feed.send(json.dumps({"op": "resume", "after": {}, "topics": None}))
        feed.recv(timeout=30)
        waiting = other.submit(session.task, task_id, 60)
        time.sleep(0.5)  # until the call waits; if it does not yet, it is no worse
        began = time.monotonic()
        os.killpg(mesh.pid, signal.SIGINT)
        said = rest(mesh)

        assert mesh.wait() == 0
        assert time.monotonic() - began < 5
        assert "is killed" not in said
        assert "Traceback" not in said
        assert waiting.result()["state"] == "waiting"  # told what is known, not cut off
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                feed.recv(timeout=30)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012


def test_static_files_are_served_with_care(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    _, session = serving
    path = "/static/admin/css/base.css"

    got = session.http.get(path)
    head = session.http.head(path)
    again = session.http.get(path, headers={"If-None-Match": got.headers["etag"]})

    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/css")
    assert got.headers["cache-control"] == "max-age=60, public"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(got.content))
    assert again.status_code == 304
    assert session.http.get("/static/none.css").status_code == 404
    assert session.http.get("/static/../manage.py").status_code == 404
    assert session.http.post(path).status_code == 405


def test_a_page_of_another_origin_gets_no_socket(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    _, session = serving
    place = session.kept["url"].removeprefix("http://")
    headers = {"Authorization": f"Bearer {session.kept['token']}"}

    for origin in ("http://127.0.0.1:1", f"https://{place}", "http://evil.example"):
        with (
            pytest.raises(Exception, match="403"),
            connect(
                f"ws://{place}/ws/feed",
                additional_headers=headers,
                origin=origin,  # type: ignore[arg-type]
            ),
        ):
            pass
    with connect(
        f"ws://{place}/ws/feed",
        additional_headers=headers,
        origin=f"http://{place}",  # type: ignore[arg-type]
    ) as feed:
        feed.send(json.dumps({"op": "resume", "after": {}, "topics": None}))
        assert feed.recv(timeout=30)


def test_a_host_that_is_not_ours_is_told_in_a_line(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    mesh, session = serving

    answer = session.http.get("/login/", headers={"Host": "evil.example"})
    assert session.http.get("/no-such-page").status_code == 404

    assert answer.status_code == 400
    mesh.terminate()
    said = rest(mesh)
    assert "no-such-page" not in said, "whoever calls must not fill the log"
    assert "evil.example" in said
    assert "Traceback" not in said


def test_a_head_without_end_is_refused(
    serving: tuple[subprocess.Popen[str], Session],
) -> None:
    _, session = serving
    host, _, port = session.kept["url"].removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(1_000):  # 100 MB, if it took them
                line.sendall(b"a" * 100_000)
            pytest.fail("it took 100 MB of one header")

    answer = session.http.get("/login/", headers={"X": "a" * 30_000})
    assert answer.status_code == 200


@pytest.mark.parametrize("fd", ["0", "777"])
def test_the_web_command_refuses_what_is_no_socket(tmp_path: Path, fd: str) -> None:
    done = subprocess.run(
        [sys.executable, "manage.py", "web", "--fd", fd],
        env={**os.environ, "MESH_VAR_DIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 2
    assert f"--fd {fd} is no socket" in done.stderr
