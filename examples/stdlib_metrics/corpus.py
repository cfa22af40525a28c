"""Which files are tasks: the standard library of this Python, and `broken/`.

A payload names a file by its root and its path below it, never by a path of the
machine, so that any agent with the same Python can run it, and no payload can make
an agent read anything else.
"""

from __future__ import annotations

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOTS: dict[str, Path] = {
    "broken": (Path(__file__).parent / "broken").resolve(),
    "stdlib": Path(sysconfig.get_paths()["stdlib"]).resolve(),
}

# Below the standard library's folder, but not shipped with it.
FOREIGN_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})


def iter_corpus() -> Iterator[dict[str, str]]:
    """Yield the payload of every task, sorted by root and path."""
    for root in sorted(ROOTS):
        for path in sorted(_walk(ROOTS[root])):
            yield {"root": root, "path": path}


def resolve(payload: Any) -> Path:
    """Return the file a payload names; ValueError says why it names none."""
    if not isinstance(payload, dict):
        raise ValueError("the payload must be an object with `root` and `path`")
    root, path = payload.get("root"), payload.get("path")
    if not isinstance(root, str) or root not in ROOTS:
        raise ValueError(f"`root` must be one of: {', '.join(sorted(ROOTS))}")
    # Unprintable: a NUL, which no file system takes, or half a surrogate pair.
    if not isinstance(path, str) or not path.isprintable():
        raise ValueError("`path` must be printable text such as json/decoder.py")
    # Every file has one spelling: "", "." and ".." would make more, or lead out.
    parts = path.split("/")
    if not {"", ".", ".."}.isdisjoint(parts):
        raise ValueError("`path` must be relative, without empty, `.` or `..` parts")
    if not path.endswith(".py") or not FOREIGN_FOLDERS.isdisjoint(parts):
        raise ValueError("`path` must name a .py file that Python itself ships")
    file = ROOTS[root].joinpath(*parts)
    try:
        real = file.resolve(strict=True)
    except (OSError, RuntimeError) as exc:  # RuntimeError: a loop of symlinks
        raise ValueError(f"`path` names no file below {root}") from exc
    if real != file:
        raise ValueError("`path` must not lead through a symbolic link")
    if not file.is_file():
        raise ValueError(f"`path` names no regular file below {root}")
    return file


def unparsable(
    payloads: Iterable[dict[str, str]] | None = None,
) -> list[dict[str, str]]:
    """Return those payloads (default: all) whose file this Python cannot parse.

    The answer key of the demo: it shares no code with `metrics`, so the dead letters
    can be held against it. It parses everything once more, so it takes a while, and
    it swaps the process's warning filters meanwhile: not for use beside threads.
    """
    chosen = iter_corpus() if payloads is None else payloads
    return [payload for payload in chosen if not _parses(resolve(payload))]


def _walk(root: Path) -> Iterator[str]:
    """Yield the path of every .py file that `resolve` accepts, relative to `root`."""
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in FOREIGN_FOLDERS]
        for name in names:
            file = Path(folder, name)
            # Debian's sitecustomize.py is a link to /etc: refused, so no task either.
            if name.endswith(".py") and file.is_file() and not file.is_symlink():
                yield file.relative_to(root).as_posix()


def _parses(file: Path) -> bool:
    """Whether `compile` gets as far as a syntax tree."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(file.read_bytes(), str(file), "exec", ast.PyCF_ONLY_AST)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True
