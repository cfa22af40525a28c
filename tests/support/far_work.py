"""A handler for processes of their own, which ends in every way there is."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from django.db import connection

import bus


class Sheet(ValueError):
    """An error as libraries have them: pickled by its message, made from two values."""

    def __init__(self, name: str, row: int) -> None:
        super().__init__(f"{name} is empty in row {row}")
        self.row = row


class Hopeless(bus.GiveUp):
    """A final one of that kind."""

    def __init__(self, name: str, row: int) -> None:
        super().__init__(f"{name} has no row {row}")


class Later(bus.Retry):
    """Another try in a minute and a half."""

    def __init__(self, *, name: str) -> None:
        super().__init__(90, f"{name} are not there yet")


class Dumb(Exception):
    """Can neither be pickled nor say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("nothing to say")

    def __reduce__(self) -> Any:
        raise TypeError("stays here")


def _asked(broken: bool) -> Any:
    """What the database says over its connection, closed behind Django's back first."""
    connection.ensure_connection()
    if broken:
        connection.connection.close()
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        return cursor.fetchone()[0]


def _fork_and_die(path: str) -> None:
    """Leaves a process behind that holds all open what this one had open."""
    pid = os.fork()
    if not pid:
        time.sleep(20)
        os._exit(0)
    Path(path).write_text(str(pid))
    os._exit(3)


def _ended_program() -> int:
    """How a program ended that was told to end."""
    with subprocess.Popen(["sleep", "60"]) as program:
        program.terminate()
    return program.returncode


def end(payload: Any, task: Any) -> Any:
    """Ends as the payload says, with the number of its process where it returns."""
    match payload:
        case "exit":
            os._exit(3)
        case "signal":
            os.kill(os.getpid(), signal.SIGKILL)
        case "SIGTERM" | "SIGHUP" | "SIGINT":
            os.kill(os.getpid(), signal.Signals[payload])
        case "program":
            return _ended_program()
        case {"fork": path}:
            _fork_and_die(path)
        case "leave":
            raise SystemExit(1)
        case "sheet":
            raise Sheet("prices", 7)
        case "hopeless":
            raise Hopeless("prices", 7)
        case "again":
            raise bus.Retry(0.5, "no paper")
        case "later":
            raise Later(name="prices")
        case "dumb":
            raise Dumb
        case "closure":
            return lambda: payload
        case "ask" | "break":
            return _asked(payload == "break")
    return os.getpid()


def hold(payload: str, task: Any) -> None:
    """Makes a file in the folder that the payload names, and waits for another."""
    folder = Path(payload)
    (folder / "begun").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
