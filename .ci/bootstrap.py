"""Keeps `.venv` in step with a requirements file: `bootstrap.py requirements.txt`.

With `--wheels` it fills `wheelhouse/` with them instead. VENV_DIR names another folder
than `.venv`. Standard library only. Old interpreters must at least parse it, so that
they can be told they are too old; hence no newer syntax here.
"""

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

OLDEST = (3, 11)  # asyncio.TaskGroup, ExceptionGroup, tomllib
NEWEST_BUNDLED = (3, 13)  # the newest Python with a wheel of the embedded server
NEWER_PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.14")
EXIT_UNAVAILABLE = 69

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / (os.environ.get("VENV_DIR") or ".venv")
VENV_PYTHON = VENV / "bin" / "python"
WHEELHOUSE = ROOT / "wheelhouse"


def main() -> int:
    if sys.version_info < OLDEST:
        hand_over()
    names = [arg for arg in sys.argv[1:] if arg != "--wheels"]
    requirements = ROOT / (names[0] if names else "requirements.txt")
    if "--wheels" in sys.argv:
        fill_wheelhouse(requirements)
        return 0
    stamp = stamp_of(requirements)
    wanted = fingerprint(requirements)
    if is_current(stamp, wanted):
        return 0
    # One at a time: two `make` at once would install into each other's half-made
    # folder. The lock is on this very file, which no rebuild deletes.
    with open(__file__) as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(stamp, wanted):
            return 0  # the one we waited for did it
        if stamp.exists():
            stamp.unlink()  # from here on the folder is half-made
        make_venv()
        install(requirements)
        for each in [requirements, *nested(requirements)]:
            stamp_of(each).write_text(fingerprint(each))
    return 0


def stamp_of(requirements: Path) -> Path:
    """The file that says which state of these requirements is installed."""
    return VENV / (".stamp-" + flat(requirements))


def wheels_stamp_of(requirements: Path) -> Path:
    """The one that says of which state all is in the wheelhouse."""
    return WHEELHOUSE / ("of-" + flat(requirements))  # `cp wheelhouse/*` takes it along


def flat(requirements: Path) -> str:
    return "-".join(requirements.resolve().relative_to(ROOT.resolve()).parts)


def nested(requirements: Path) -> "list[Path]":
    """The files that these requirements include, and those that they include."""
    found = []
    for line in requirements.read_text().splitlines():
        include = re.match(r"-r\s+(\S+)", line)
        if include:
            inner = requirements.parent / include.group(1)
            found += [inner, *nested(inner)]
    return found


def fingerprint(requirements: Path) -> str:
    """Of all the text pip would read, and of the Python that would run it."""
    text = b"".join(each.read_bytes() for each in [requirements, *nested(requirements)])
    python = "{} {}.{}".format(sys.implementation.name, *sys.version_info[:2])
    return hashlib.sha256(text + python.encode()).hexdigest()


def is_current(stamp: Path, wanted: str) -> bool:
    # A dangling interpreter, after the system's Python was upgraded, is not current.
    return VENV_PYTHON.exists() and is_written(stamp, wanted)


def is_written(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text() == wanted


def hand_over() -> NoReturn:
    """Run again under a newer Python of this machine, or say which one is needed."""
    for name in NEWER_PYTHONS:
        # Version managers leave stubs on PATH that only print an error: try it.
        if shutil.which(name) and answers(name):
            os.execvp(name, [name, *sys.argv])
    need = ".".join(map(str, OLDEST))
    have = ".".join(map(str, sys.version_info[:3]))
    fail(
        f"Python {need} or later is needed (asyncio.TaskGroup, exception groups); "
        f"{sys.executable} is {have}.\n"
        "Install a newer one, then: make PYTHON=/path/to/python3.12 run"
    )


def answers(name: str) -> bool:
    quiet = subprocess.DEVNULL
    return subprocess.call([name, "-c", ""], stdout=quiet, stderr=quiet) == 0


def make_venv() -> None:
    version = sys.version_info
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        fail(
            "this Python cannot make virtual environments; on Debian or Ubuntu:\n"
            "  apt install python3-venv\n"
            f"(or python{version[0]}.{version[1]}-venv, for a Python of its own)"
        )
    if version[:2] > NEWEST_BUNDLED:
        say(
            f"Python {version[0]}.{version[1]} has no bundled Redis server yet: "
            "apt install valkey-server, or make PYTHON=python3.13 …"
        )
    mine = f"{version[0]}.{version[1]}"
    if VENV_PYTHON.exists():
        probe = "import sys, pip; print('{}.{}'.format(*sys.version_info))"
        command = [str(VENV_PYTHON), "-c", probe]
        found = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        if found.stdout.decode().strip() == mine:
            return  # only its packages are out of date
    say(f"making {VENV}")
    command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        fail(done.stdout.decode(errors="replace") + f"making {VENV} failed, see above")


def install(requirements: Path) -> None:
    shown = requirements.relative_to(ROOT)
    command = [str(VENV_PYTHON), "-m", "pip", "install", "-qq"]
    command += ["--disable-pip-version-check", "--no-input"]
    command += ["-r", str(requirements)]
    if WHEELHOUSE.is_dir():
        command += ["--find-links", str(WHEELHOUSE)]
        say(f"installing {shown} into {VENV} from wheelhouse/; once per change")
        alone = [*command, "--no-index"]
        # Of what it was not filled for by `make wheels` it may hold all, or a part.
        if is_written(wheels_stamp_of(requirements), fingerprint(requirements)):
            command = alone
        elif not subprocess.call(alone, cwd=str(ROOT), stderr=subprocess.DEVNULL):
            return
        else:
            say("wheelhouse/ does not hold all of it: the rest from the network")
    else:
        say(f"installing {shown} into {VENV}; once per change")
    if subprocess.call(command, cwd=str(ROOT)):
        fail(
            f"pip could not install {shown}, see above. Without network: run `make "
            f"wheels ARGS={shown}` where there is some, then copy wheelhouse/ here"
        )


def fill_wheelhouse(requirements: Path) -> None:
    """All that an install of these takes, to be copied to where no network is."""
    command = [str(VENV_PYTHON), "-m", "pip", "wheel", "-q", "-w", str(WHEELHOUSE)]
    command += ["--disable-pip-version-check", "--no-input", "-r", str(requirements)]
    if subprocess.call(command, cwd=str(ROOT)):
        fail(f"pip could not fill {WHEELHOUSE}, see above")
    WHEELHOUSE.mkdir(exist_ok=True)
    for each in [requirements, *nested(requirements)]:
        wheels_stamp_of(each).write_text(fingerprint(each))


def say(text: str) -> None:
    print("bootstrap: " + text, file=sys.stderr, flush=True)


def fail(text: str) -> NoReturn:
    say(text)
    sys.exit(EXIT_UNAVAILABLE)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
