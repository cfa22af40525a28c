"""`make` installs once per change, in a way an old machine understands."""

from __future__ import annotations

import ast
import importlib.util
import os
import shutil
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
        f'echo "$@" >> {tmp_path}/calls; echo {version}; '
        f'case "$*" in *--no-index) test ! -e {tmp_path}/lacks;; esac',
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


@pytest.fixture
def wheelhouse(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """What `make wheels` leaves."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "argv", ["bootstrap.py", "--wheels"])
        assert bootstrap.main() == 0
    calls = (tmp_path / "calls").read_text()
    assert calls.startswith(f"-m pip wheel -q -w {tmp_path}/wheelhouse ")
    return tmp_path / "wheelhouse"


@pytest.mark.parametrize("name", ["requirements.txt", "more.txt"])
def test_it_needs_no_network_with_a_wheelhouse(
    bootstrap: ModuleType,
    wheelhouse: Path,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", name])

    bootstrap.main()

    [call] = installs(tmp_path)
    assert call.endswith(f" --find-links {wheelhouse} --no-index")


@pytest.mark.parametrize("name", ["lint.txt", "requirements.txt"])
def test_what_a_wheelhouse_lacks_comes_from_elsewhere(
    bootstrap: ModuleType,
    wheelhouse: Path,
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Other requirements than those it was made of, or these since they changed."""
    (tmp_path / name).write_text("ruff==0.15.0\n-r more.txt\n")
    (tmp_path / "lacks").touch()
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", name])

    bootstrap.main()

    alone, call = installs(tmp_path)
    assert alone == f"{call} --no-index"
    assert call.endswith(f" --find-links {wheelhouse}")


def test_what_somebody_put_into_a_wheelhouse_by_hand_is_enough_as_well(
    bootstrap: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "wheelhouse").mkdir()

    bootstrap.main()

    [call] = installs(tmp_path)
    assert call.endswith(" --no-index")


def test_make_fills_it_with_what_is_named() -> None:
    command = ["make", "--dry-run", "wheels", "ARGS=tests/requirements.txt"]
    env = {**os.environ, "MAKEFLAGS": ""}

    said = subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout

    assert " .ci/bootstrap.py --wheels tests/requirements.txt\n" in said


def test_wheels_that_could_not_be_made_are_not_counted_on(
    bootstrap: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script(tmp_path / ".venv" / "bin" / "python", "exit 1")
    (tmp_path / "wheelhouse").mkdir()
    monkeypatch.setattr(sys, "argv", ["bootstrap.py", "--wheels", "more.txt"])

    with pytest.raises(SystemExit):
        bootstrap.main()

    assert list((tmp_path / "wheelhouse").iterdir()) == []


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

    for target in (
        "run",
        "demo",
        "test",
        "test-all",
        "lint",
        "bench",
        "doctor",
        "clean",
    ):
        assert f"make {target} " in shown


def an_installed_python(folder: Path, name: str, tests: str) -> None:
    """One whose venv, in place of pip and pytest, notes its calls and does `tests`."""
    made = (
        f"printf '#!/bin/sh\\necho \"$0 $*\" >> calls; {tests}' > $VENV_DIR/bin/python"
    )
    script(
        folder / name,
        f"""case "$1" in
  --version) echo Python of {name};;
  .ci/bootstrap.py) mkdir -p $VENV_DIR/bin; {made}; chmod +x $VENV_DIR/bin/python;;
esac""",
    )


def make_test_all(folder: Path, pythons: str) -> subprocess.CompletedProcess[str]:
    """`make test-all` in a folder that has only the Makefile."""
    shutil.copy(ROOT / "Makefile", folder)
    env = {**os.environ, "MAKEFLAGS": "", "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["make", "test-all", f"PYTHONS={pythons}", "ARGS=tests/unit"]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


def test_each_python_that_is_there_has_a_run_of_its_own(tmp_path: Path) -> None:
    an_installed_python(tmp_path, "python-one", "exit 1")
    an_installed_python(tmp_path, "python-two", "exit 0")
    # A stub of a version manager is not there.
    script(tmp_path / "python-stub", "exit 127")

    done = make_test_all(tmp_path, "python-one python-stub python-two")

    calls = (tmp_path / "calls").read_text()
    assert [call.split()[0] for call in calls.splitlines()] == [
        ".venvs/python-one/bin/python",
        ".venvs/python-two/bin/python",
    ]
    whole = "-m pytest -n auto --dist worksteal -m not chaos and not soak tests/unit"
    assert calls.count(whole) == 2
    assert "no python-stub here: passed over" in done.stdout
    assert "ran on: python-one python-two; failed on: python-one" in done.stdout
    assert done.returncode != 0


def test_all_is_well_where_each_python_passes(tmp_path: Path) -> None:
    an_installed_python(tmp_path, "python-one", "exit 0")

    done = make_test_all(tmp_path, "python-one")

    assert "ran on: python-one; failed on: none" in done.stdout
    assert done.returncode == 0


def test_it_says_so_where_no_python_is_there(tmp_path: Path) -> None:
    done = make_test_all(tmp_path, "no-such-python")

    assert "none of no-such-python is here: PYTHONS=/path/to/python" in done.stdout
    assert done.returncode != 0


@pytest.mark.parametrize("given, used", [("", ".venv"), (".venvs/x", ".venvs/x")])
def test_it_works_on_the_folder_it_is_given(given: str, used: str) -> None:
    source = f"import runpy; print(runpy.run_path({str(SOURCE)!r})['VENV'])"

    said = subprocess.run(
        [sys.executable, "-c", source],
        env={**os.environ, "VENV_DIR": given},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert said.strip() == str(ROOT / used)
