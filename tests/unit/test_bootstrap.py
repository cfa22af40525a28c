"""`make` installs once per change, in a way an old machine understands."""

from __future__ import annotations

import ast
import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.processes import ROOT, script

SOURCE = ROOT / ".ci" / "bootstrap.py"


@pytest.fixture
def bootstrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The program, working on an empty folder with a venv that only counts calls."""
    spec = importlib.util.spec_from_file_location("bootstrap", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(module, "VENV_PYTHON", tmp_path / ".venv" / "bin" / "python")
    monkeypatch.setattr(module, "WHEELHOUSE", tmp_path / "wheelhouse")
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "requirements.txt"])
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    version = "{}.{}".format(*sys.version_info[:2])
    script(
        tmp_path / ".venv" / "bin" / "python",
        f'echo "$@" >> {tmp_path}/calls; echo {version}',
    )
    (tmp_path / "requirements.txt").write_text("Django==5.2.19\n-r more.txt\n")
    (tmp_path / "more.txt").write_text("rich==15.0.0\n")
    return module


def installs(folder: Path) -> list[str]:
    calls = (folder / "calls").read_text().splitlines()
    return [call for call in calls if call.startswith("-m pip install")]


def test_it_installs_once(bootstrap: ModuleType, tmp_path: Path) -> None:
    for _ in range(3):
        assert bootstrap.main() == 0

    assert len(installs(tmp_path)) == 1


@pytest.mark.parametrize("changed", ["requirements.txt", "more.txt"])
def test_it_installs_again_after_a_change(
    bootstrap: ModuleType, tmp_path: Path, changed: str
) -> None:
    bootstrap.main()
    with (tmp_path / changed).open("a") as file:
        file.write("orjson==3.13.0\n")

    bootstrap.main()

    assert len(installs(tmp_path)) == 2


def test_what_is_included_is_installed_with_the_rest(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`make test`, then `make run`: nothing is left to do, and no network needed."""
    bootstrap.main()

    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "more.txt"])
    bootstrap.main()

    assert len(installs(tmp_path)) == 1


def test_a_part_is_not_the_whole(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["bootstrap.py", "more.txt"])
        bootstrap.main()

    bootstrap.main()

    assert [call.rpartition("/")[2] for call in installs(tmp_path)] == [
        "more.txt",
        "requirements.txt",
    ]


def test_it_needs_no_network_with_a_wheelhouse(
    bootstrap: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "wheelhouse").mkdir()

    bootstrap.main()

    assert f"--no-index --find-links {tmp_path}/wheelhouse" in installs(tmp_path)[0]


def test_a_failed_install_is_tried_again(bootstrap: ModuleType, tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    working = python.read_text()
    python.write_text(working + 'case "$*" in *install*) exit 1; esac\n')
    with pytest.raises(SystemExit) as caught:
        bootstrap.main()
    assert caught.value.code == 69

    python.write_text(working)
    bootstrap.main()

    assert len(installs(tmp_path)) == 2


def test_it_says_which_package_debian_lacks(
    bootstrap: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(SystemExit):
        bootstrap.main()

    assert "apt install python3-venv" in capsys.readouterr().err


def test_it_says_which_python_is_needed(
    bootstrap: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A stub of a version manager must not be taken for an interpreter.
    script(tmp_path / "python3.12", "exit 127")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(bootstrap, "OLDEST", (99, 0))

    with pytest.raises(SystemExit):
        bootstrap.main()

    assert "Python 99.0 or later is needed" in capsys.readouterr().err


def test_an_old_python_can_read_it() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_make_alone_lists_its_targets() -> None:
    env = {**os.environ, "MAKEFLAGS": ""}

    shown = subprocess.run(
        ["make"], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout

    for target in ("run", "demo", "test", "lint", "bench", "doctor", "clean"):
        assert f"make {target} " in shown
