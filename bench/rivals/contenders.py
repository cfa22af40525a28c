"""Who takes part: how each is installed, how its client and its worker are started."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
ENVIRONMENTS: Final = ROOT / "var" / "rivals"


class NotHere(Exception):
    """A contender cannot take part on this machine; the message says why."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A contender that is installed: what to start, and in which folder."""

    name: str
    client: Sequence[str]
    worker: Sequence[str]
    folder: Path


def ours() -> Ready:
    """This mesh, in the environment that runs the benchmark."""
    handler = "bench.rivals.with_mesh:noop"
    worker = [sys.executable, "manage.py", "agent", "--topic", "rivals"]
    client = [sys.executable, str(HERE / "with_mesh.py")]
    return Ready("mesh", client, [*worker, "--handler", handler], ROOT)


# The worker command of each Python contender, in the words of its own guide.
_WORKERS: Final[dict[str, str]] = {
    "celery": "celery -A with_celery worker -P solo -l ERROR"
    " --without-gossip --without-mingle --without-heartbeat",
    "dramatiq": "dramatiq with_dramatiq --processes 1 --threads 8",
    "taskiq": "taskiq worker with_taskiq:broker --workers 1 --log-level ERROR"
    " --max-async-tasks 100 --max-prefetch 100",
    "arq": "arq with_arq.WorkerSettings",
    "saq": "saq with_saq.settings --quiet",
    "streaq": "streaq run with_streaq:worker",
    "docket": "docket worker --docket bench --tasks with_docket:tasks"
    " --concurrency 40 --logging-level ERROR",
    "rq": "rq worker --worker-class rq.worker.SimpleWorker --quiet",
    "huey": "huey_consumer with_huey.huey -w 8 -k thread -q",
}


def python(name: str) -> Ready:
    """A Python contender in a virtual environment of its own."""
    folder = ENVIRONMENTS / name
    wanted = (HERE / "requirements" / f"{name}.txt").read_text()
    done = folder / "installed.txt"
    if not done.exists() or done.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        pip = [str(folder / "bin/python"), "-m", "pip", "install", "--quiet"]
        quiet = ["--disable-pip-version-check", "-r"]
        _run([*pip, *quiet, str(HERE / "requirements" / f"{name}.txt")])
        done.write_text(wanted)
    program, *arguments = _WORKERS[name].split()
    return Ready(
        name,
        [str(folder / "bin/python"), str(HERE / f"with_{name}.py")],
        [str(folder / "bin" / program), *arguments],
        HERE,
    )


def bullmq() -> Ready:
    """BullMQ on Node."""
    folder = ENVIRONMENTS / "bullmq"
    if not shutil.which("npm"):
        raise NotHere("it needs node and npm")
    folder.mkdir(parents=True, exist_ok=True)
    for file in ("package.json", "harness.mjs", "with_bullmq.mjs"):
        shutil.copy(HERE / file, folder)
    if not (folder / "node_modules" / "bullmq").exists():
        _run(["npm", "install", "--no-audit", "--no-fund", "--prefix", str(folder)])
    script = ["node", "with_bullmq.mjs"]
    return Ready("bullmq", script, [*script, "work", "0"], folder)


def sidekiq() -> Ready:
    """Sidekiq from the packages of the system, for want of its own registry."""
    probe = ["ruby", "-e", "require 'sidekiq'"]
    if (
        not shutil.which("ruby")
        or subprocess.run(probe, capture_output=True).returncode
    ):
        raise NotHere("it needs ruby and sidekiq (apt install ruby-sidekiq)")
    script = str(HERE / "with_sidekiq.rb")
    worker = ["sidekiq", "-r", script, "-c", "10"]
    return Ready("sidekiq", ["ruby", script], worker, HERE)


NAMES: Final = ("mesh", *_WORKERS, "bullmq", "sidekiq")


def prepare(name: str) -> Ready:
    """Install a contender if need be; NotHere if it cannot run on this machine."""
    makers = {"mesh": ours, "bullmq": bullmq, "sidekiq": sidekiq}
    return makers[name]() if name in makers else python(name)


def _run(argv: Sequence[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise NotHere(f"{' '.join(argv[:4])} failed: {done.stderr.strip()[-500:]}")
