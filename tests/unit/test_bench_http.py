"""The benchmark over HTTP counts what was answered, or tells why it cannot."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import redis
from rich.console import Console

import bus
from bench import report, stage
from bench.http import __main__ as command
from bench.http import filling, generator, load, reads
from bench.machine import Load
from bench.report import Pair
from bus.api.views.docs import description
from tests.support import machine

pytestmark = pytest.mark.slow


class Answers(BaseHTTPRequestHandler):
    """Says 201 to whoever has the token, 401 to all others."""

    protocol_version = "HTTP/1.1"
    bodies: list[bytes] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.headers["Authorization"] == "Bearer good"
        self.send_response(201 if good else 401)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the output is the test's."""


@pytest.fixture
def url() -> Iterator[str]:
    """Where a real web server answers."""
    Answers.bodies = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/enqueue"
        server.shutdown()
        thread.join()


def test_our_generator_counts_every_answer_once(url: str) -> None:
    found = load.post(url, "good", {"n": 1}, 1, wrk=False)

    assert found.calls == len(Answers.bodies) and set(Answers.bodies) == {b'{"n":1}'}
    assert found.failed == 0
    assert 0 < found.p50_ms <= found.p99_ms
    assert found.per_s == pytest.approx(found.calls / found.took_s)


def test_wrk_sends_the_same(url: str) -> None:
    machine.needs("wrk")

    found = load.post(url, "good", {"n": 1}, 1, wrk=True)

    assert set(Answers.bodies) == {b'{"n":1}'}
    assert 0 < found.calls <= len(Answers.bodies)
    assert found.failed == 0


def test_a_refused_call_is_no_figure(url: str) -> None:
    with pytest.raises(stage.BenchError, match="calls of http://.* failed"):
        load.post(url, "wrong", {}, 1, wrk=False)
    with pytest.raises(stage.BenchError, match="says 401"):
        load.once(url, "wrong", {})


def test_a_length_is_read_in_any_case() -> None:
    assert (
        generator.length_of(b"HTTP/1.1 201 Created\r\nCONTENT-length: 17\r\nA: b") == 17
    )
    assert generator.length_of(b"HTTP/1.1 204 No Content\r\nDate: now") == 0


def test_every_row_fits_the_table() -> None:
    rows = command.rows()
    for row in rows:
        row.pairs, row.loads = [Pair(123_456, 23_456)] * 3, [Load(0.02, 0.11)] * 3
    out = io.StringIO()

    Console(file=out, width=80).print(report.table(rows))

    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_floors_are_those_of_the_promise() -> None:
    by_name = {row.name: row for row in command.rows()}

    def verdict(name: str, ours: float, raw: float) -> str:
        by_name[name].pairs = [Pair(ours, raw)]
        return by_name[name].verdict

    assert verdict("calls", 300, 100) == verdict("batch", 400, 100) == report.HELD
    assert verdict("calls", 299, 100) == verdict("batch", 399, 100) == report.MISSED
    assert verdict("p99", 10, 10) == report.HELD
    assert verdict("p99", 11, 10) == report.MISSED


@pytest.mark.parametrize("argv", [["--runs", "0"], ["--seconds", "0"], ["--only", "x"]])
def test_options_that_measure_nothing_are_refused(argv: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(argv)


def test_every_get_of_the_description_is_asked_or_left_out_by_name() -> None:
    described = {
        verbs["get"]["operationId"]
        for verbs in description()["paths"].values()
        if "get" in verbs
    }
    asked = {name for name, _ in reads.READS}

    assert asked | set(reads.LEFT_OUT) == described
    assert not asked & set(reads.LEFT_OUT)


def test_a_read_is_judged_by_its_p99() -> None:
    usual = reads.Read("agents", [1.0] * 98 + [2.0] * 2, [1.0] * 98 + [6.0] * 2)
    by_id = reads.Read("tasks/{waiting}", [1.0] * 100, [10.0] * 100)

    assert (usual.ratio, usual.holds) == (3.0, True)
    assert (by_id.ratio, by_id.holds) == (10.0, True)
    usual.full[:] = [7.0] * 100
    by_id.full[:] = [11.0] * 100
    assert not usual.holds and not by_id.holds


def test_every_read_fits_the_table() -> None:
    every = [reads.Read(path, [123.4] * 9, [1234.5] * 9) for _, path in reads.READS]
    out = io.StringIO()

    Console(file=out, width=80).print(reads.table(every))

    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert all(each.path in out.getvalue() for each in every)


def test_a_filled_mesh_has_what_the_reads_ask_for(
    redis_client: redis.Redis, redis_url: str
) -> None:
    size = filling.Size(tasks=7, topics=3, dead=5, agents=2)

    names = filling.filled(redis_url, size)

    stats = bus.stats(names["topic"])
    assert (stats["waiting"], stats["dead"]) == (7, 5)
    assert stats["done"] == filling.PAGE
    assert len(bus.list_topics()) == 3
    assert bus.get_agent("reader-1")["state"] == "live"
    for state in ("waiting", "dead", "done"):
        assert bus.get_task(names[state]).state == state


def test_reads_of_nothing_are_refused() -> None:
    with pytest.raises(SystemExit, match="2"):
        reads.main(["--tasks", "0"])
