"""The demo measures what it may read, and says why it cannot measure the rest."""

from __future__ import annotations

import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from examples.stdlib_metrics import corpus, metrics

pytestmark = pytest.mark.slow

# What each committed file dies of: error type, and what every Python says about it.
BROKEN = {
    "call_as_target.py": ("SyntaxError", "cannot assign to function call"),
    "invalid_utf8.py": ("SyntaxError", "can't decode byte 0xf6"),
    "leading_zero.py": ("SyntaxError", "leading zeros"),
    "nul_byte.py": ("SyntaxError", "null bytes"),
    "python2_print.py": ("SyntaxError", "call to 'print'"),
    "smart_quotes.py": ("SyntaxError", "invalid character"),
    "tab_error.py": ("TabError", "tabs and spaces"),
    "too_many_parentheses.py": ("SyntaxError", "too many nested parentheses"),
    "unclosed_bracket.py": ("SyntaxError", "'[' was never closed"),
    "unexpected_indent.py": ("IndentationError", "unexpected indent"),
    "unindent_mismatch.py": ("IndentationError", "does not match any outer"),
    "unknown_cookie.py": ("SyntaxError", "unknown encoding: klingon-8"),
    "unterminated_string.py": ("SyntaxError", "unterminated triple-quoted string"),
}

SMALL_SOURCE = b'''\
#!/usr/bin/env python
"""A small module.

# Not a comment: this line belongs to the docstring.
"""

import os, sys
from json import loads  # a comment behind code is code


class Shelf:
    # A comment.
    def find(self, wanted):
        for book in self.books:
            if book is wanted and book.here or self.lax:
                return book
        return None

    async def lend(self, book): return await self.desk(book)


if os.name == "nt":
    sys.exit([n for n in (1, 2) if n])
'''

TOO_DEEP = {
    "brackets": b"(" * 300 + b")" * 300,
    "blocks": b"".join(b" " * depth + b"if 1:\n" for depth in range(200)),
    "negations": b"not " * 20_000 + b"1",
    "branches": b"if 1: pass\n" + b"elif 1: pass\n" * 20_000,
    "attributes": b"a" + b".a" * 50_000,
    "sums": b"1" + b"+1" * 50_000,
}


def failure(source: bytes) -> metrics.Unparsable:
    """The error that measuring this source ends with."""
    with pytest.raises(metrics.Unparsable) as caught:
        metrics.measure(source, "source.py")
    return caught.value


@pytest.fixture(scope="module")
def payloads() -> list[dict[str, str]]:
    return list(corpus.iter_corpus())


@pytest.fixture
def agents() -> ModuleType:
    """The agent's module, imported late: the rest of this file needs no bus."""
    from examples.stdlib_metrics import agents

    return agents


@pytest.fixture
def small_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A corpus of one file, `real.py`, beside everything that is not to be read."""
    root = tmp_path / "root"
    (root / "folder.py").mkdir(parents=True)
    (root / "real.py").write_text("answer = 42\n")
    (root / "notes.txt").write_text("no source")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.py").write_text("secret = 1\n")
    (root / "linked.py").symlink_to(tmp_path / "outside" / "secret.py")
    (root / "inward.py").symlink_to("real.py")
    (root / "loop.py").symlink_to("loop.py")
    (root / "linked").symlink_to(tmp_path / "outside")
    for folder in ("site-packages", "__pycache__"):
        (root / folder).mkdir()
        (root / folder / "foreign.py").write_text("foreign = 1\n")
    os.mkfifo(root / "pipe.py")
    monkeypatch.setattr(corpus, "ROOTS", {"stdlib": root})
    return root


def test_it_measures_a_small_source_exactly() -> None:
    assert metrics.measure(SMALL_SOURCE, "shelf.py") == {
        "name": "shelf.py",
        "bytes": len(SMALL_SOURCE),
        "lines": {"total": 23, "code": 15, "comment": 2, "blank": 6},
        "functions": 2,
        "classes": 1,
        "imports": 2,
        "max_nesting": 4,
        # find: itself, for, if, and, or; lend: itself; module: itself, if, for … if.
        "cyclomatic_complexity": {"total": 10, "max": 5, "max_function": "Shelf.find"},
    }


@pytest.mark.parametrize(
    ("source", "code", "comment", "blank"),
    [
        (b"", 0, 0, 0),
        (b"\n", 0, 0, 1),
        (b"# only a comment", 0, 1, 0),
        (b"\xef\xbb\xbf# behind a byte order mark\nx = 1\n", 1, 1, 0),
        (b"x = 1\r\n\r\n# DOS\r\n", 1, 1, 1),
        (b"x = 1\r\r# old Mac\r", 1, 1, 1),
        (b"x = 1\n\x0c\n# form feed\n", 1, 1, 1),
        (b'x = """\n# text\n\n"""\n', 4, 0, 0),
        (b'x = f"""\n# {1}\n\n"""\n', 4, 0, 0),
        (b"x = b'''\n# bytes\n'''  # comment\n# comment\n", 3, 1, 0),
        (b"x = [\n    # inside brackets\n\n    1,\n]\n", 3, 1, 1),
    ],
)
def test_it_sorts_lines_into_code_comment_and_blank(
    source: bytes, code: int, comment: int, blank: int
) -> None:
    lines = metrics.measure(source, "source.py")["lines"]

    assert lines == {
        "total": code + comment + blank,
        "code": code,
        "comment": comment,
        "blank": blank,
    }


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\n elif b: pass\n else: pass", 3),
        ("for a in b: pass\n else: pass", 2),
        ("while a: break", 2),
        ("try: pass\n except A: pass\n except B: pass\n finally: pass", 3),
        ("try: pass\n except* A: pass", 2),
        ("with a: pass", 1),
        ("assert a", 2),
        ("return a if b else c", 2),
        ("return a and b and c or d", 4),
        ("return [a for a in b for c in a if c if a]", 5),
        ("return lambda: a", 1),
        ("match a:\n  case 1: pass\n  case b if c: pass\n  case _: pass", 3),
    ],
)
def test_it_adds_one_to_complexity_per_decision(body: str, complexity: int) -> None:
    source = f"def decide():\n {body}\n".encode()

    measured = metrics.measure(source, "source.py")["cyclomatic_complexity"]

    # The module itself is one more way through.
    assert measured["total"] == complexity + 1
    assert measured["max"] == complexity


@pytest.mark.parametrize(
    ("source", "max_function"),
    [
        (b"", "<module>"),
        (b"def f(): pass", "<module>"),
        (b"def f(): assert 1\ndef g(): assert 1", "f"),
        (b"class A:\n class B:\n  def c(self): assert 1", "A.B.c"),
        (b"def f():\n def g(): assert 1", "f.g"),
        # What stands in a head runs in the block around it.
        (b"def f(x=1 if 2 else 3): pass", "<module>"),
        (b"@d(1 and 2)\nclass A: pass", "<module>"),
    ],
)
def test_it_names_the_most_complex_function(source: bytes, max_function: str) -> None:
    complexity = metrics.measure(source, "source.py")["cyclomatic_complexity"]

    assert complexity["max_function"] == max_function


@pytest.mark.parametrize(
    ("source", "max_nesting"),
    [
        (b"x = [[[1]]]", 0),
        (b"if 1: pass", 1),
        (b"if 1: pass\nelif 2: pass\nelif 3: pass\nelse: pass", 1),
        (b"if 1: pass\nelse:\n if 2: pass", 2),
        (b"try: pass\nexcept A:\n with b: pass", 2),
        (b"match a:\n case 1:\n  while b: pass", 2),
        (b"class A:\n async def b():\n  async for c in d:\n   async with e: pass", 4),
    ],
)
def test_it_counts_nesting_in_compound_statements(
    source: bytes, max_nesting: int
) -> None:
    assert metrics.measure(source, "source.py")["max_nesting"] == max_nesting


def test_it_reads_a_source_in_the_encoding_its_cookie_names() -> None:
    source = '# coding: latin-1\ncity = "Köln"\n'.encode("latin-1")

    assert metrics.measure(source, "source.py")["lines"]["code"] == 1


def test_it_says_which_line_does_not_parse() -> None:
    error = failure(b"x = 1\ny = (\n")

    assert (error.kind, error.line) == ("SyntaxError", 2)
    assert str(error) == "'(' was never closed (line 2)"


@pytest.mark.parametrize("source", TOO_DEEP.values(), ids=TOO_DEEP.keys())
def test_it_survives_a_source_that_is_nested_too_deeply(source: bytes) -> None:
    # Agents run handlers in threads, whose stacks may be smaller than the main one.
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(failure, source).result()

    assert error.kind
    assert error.message


def test_it_keeps_quiet_about_warnings_in_a_measured_source() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        metrics.measure(b'x = "\\d"\n', "source.py")
        warnings.warn("somebody else's", SyntaxWarning, stacklevel=1)

    assert [str(warning.message) for warning in caught] == ["somebody else's"]


def test_it_measures_a_source_with_warnings_where_warnings_are_errors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        assert metrics.measure(b'x = "\\d"\n', "source.py")["lines"]["code"] == 1


@pytest.mark.parametrize("name", BROKEN)
def test_it_says_what_is_wrong_with_each_broken_file(name: str) -> None:
    kind, message = BROKEN[name]
    file = corpus.resolve({"root": "broken", "path": name})

    error = failure(file.read_bytes())

    # Before 3.11.4 Python had a ValueError for a NUL byte.
    assert error.kind in ({kind, "ValueError"} if name == "nul_byte.py" else {kind})
    assert message in error.message
    assert file.read_bytes().startswith(b"# Broken: ")


def test_it_has_a_different_reason_for_each_broken_file() -> None:
    names = [path.name for path in sorted(corpus.ROOTS["broken"].iterdir())]
    errors = [failure((corpus.ROOTS["broken"] / name).read_bytes()) for name in names]

    assert names == list(BROKEN)
    assert len({(error.kind, error.message) for error in errors}) == len(BROKEN)


def test_it_makes_every_shipped_file_one_task(payloads: list[dict[str, str]]) -> None:
    keys = [(payload["root"], payload["path"]) for payload in payloads]

    assert keys == sorted(set(keys))
    assert keys[: len(BROKEN)] == [("broken", name) for name in BROKEN]
    assert {("stdlib", "json/decoder.py"), ("stdlib", "os.py")} <= set(keys)
    assert not any("-packages/" in path for _, path in keys)


def test_it_finds_the_file_of_every_task(payloads: list[dict[str, str]]) -> None:
    for payload in payloads:
        file = corpus.resolve(payload)

        assert file == corpus.ROOTS[payload["root"]] / payload["path"]


def test_it_measures_exactly_the_files_that_parse(
    payloads: list[dict[str, str]],
) -> None:
    # A sample: all that may well be unparsable, and every tenth file.
    suspects = [p for p in payloads if "lib2to3" in p["path"] or "bad" in p["path"]]
    sample = payloads[: len(BROKEN)] + suspects + payloads[len(BROKEN) :: 10]
    died = []

    for payload in sample:
        source = corpus.resolve(payload).read_bytes()
        try:
            measured = metrics.measure(source, payload["path"])
        except metrics.Unparsable:
            died.append(payload)
        else:
            assert sum(measured["lines"].values()) == 2 * measured["lines"]["total"]

    assert died == corpus.unparsable(sample)
    assert died[: len(BROKEN)] == payloads[: len(BROKEN)]


def test_it_finds_nothing_unparsable_among_no_files() -> None:
    assert corpus.unparsable([]) == []


@pytest.mark.parametrize(
    "payload",
    [
        None,
        "json/decoder.py",
        ["stdlib", "json/decoder.py"],
        {},
        {"root": "stdlib"},
        {"path": "os.py"},
        {"root": "elsewhere", "path": "os.py"},
        {"root": "", "path": "os.py"},
        {"root": ["stdlib"], "path": "os.py"},
        {"root": "stdlib", "path": None},
        {"root": "stdlib", "path": 7},
        {"root": "stdlib", "path": ["os.py"]},
        {"root": "stdlib", "path": ""},
        {"root": "stdlib", "path": "."},
        {"root": "stdlib", "path": "/etc/passwd"},
        {"root": "stdlib", "path": "/etc/passwd.py"},
        {"root": "stdlib", "path": str(corpus.ROOTS["stdlib"] / "os.py")},
        {"root": "stdlib", "path": "../../../../etc/passwd"},
        {"root": "broken", "path": "../corpus.py"},
        {"root": "broken", "path": "../broken/nul_byte.py"},
        {"root": "stdlib", "path": "json/../os.py"},
        {"root": "stdlib", "path": "./os.py"},
        {"root": "stdlib", "path": "json//decoder.py"},
        {"root": "stdlib", "path": "os.py/"},
        {"root": "stdlib", "path": "~/os.py"},
        {"root": "stdlib", "path": "..\\os.py"},
        {"root": "stdlib", "path": "os.py\0"},
        {"root": "stdlib", "path": "os\0.py"},
        {"root": "stdlib", "path": "\ud800.py"},
        {"root": "stdlib", "path": "json"},
        {"root": "stdlib", "path": "no_such_module.py"},
        {"root": "stdlib", "path": "os.py/no_such_module.py"},
        {"root": "stdlib", "path": "site-packages/pip/__init__.py"},
        {"root": "stdlib", "path": "x" * 5_000 + ".py"},
        {"root": "stdlib", "path": "x/" * 50_000 + "x.py"},
    ],
    ids=lambda payload: ascii(payload)[:60],
)
def test_it_refuses_a_payload_that_names_no_task(payload: Any) -> None:
    with pytest.raises(ValueError, match="^(the payload|`root`|`path`) ") as caught:
        corpus.resolve(payload)

    assert type(caught.value) is ValueError


@pytest.mark.parametrize(
    "path",
    [
        "linked.py",
        "inward.py",
        "loop.py",
        "linked/secret.py",
        "folder.py",
        "pipe.py",
        "notes.txt",
        "__pycache__/foreign.py",
        "site-packages/foreign.py",
    ],
)
def test_it_refuses_what_is_not_a_source_of_its_own(
    small_root: Path, path: str
) -> None:
    assert os.path.lexists(small_root / path)

    with pytest.raises(ValueError, match="^`path` "):
        corpus.resolve({"root": "stdlib", "path": path})


def test_it_makes_no_task_of_what_it_would_refuse(small_root: Path) -> None:
    assert list(corpus.iter_corpus()) == [{"root": "stdlib", "path": "real.py"}]
    assert corpus.resolve({"root": "stdlib", "path": "real.py"}) == (
        small_root / "real.py"
    )


def test_it_returns_the_metrics_of_the_file_a_task_names(agents: ModuleType) -> None:
    result = agents.measure_file({"root": "stdlib", "path": "json/decoder.py"}, None)

    assert result["name"] == "json/decoder.py"
    assert result["functions"] >= 5


@pytest.mark.parametrize("name", BROKEN)
def test_it_gives_up_on_a_file_that_does_not_parse(
    agents: ModuleType, name: str
) -> None:
    from bus import GiveUp

    with pytest.raises(GiveUp, match=r"\w") as caught:
        agents.measure_file({"root": "broken", "path": name}, None)

    # The bus takes `kind` for the error type, so operators can tell failures apart.
    assert (
        caught.value.kind == failure((corpus.ROOTS["broken"] / name).read_bytes()).kind
    )


@pytest.mark.parametrize("payload", [None, {"root": "stdlib", "path": "../x.py"}])
def test_it_gives_up_on_a_payload_that_names_no_task(
    agents: ModuleType, payload: Any
) -> None:
    from bus import GiveUp

    with pytest.raises(GiveUp, match="^(the payload|`path`) ") as caught:
        agents.measure_file(payload, None)

    assert type(caught.value).__name__ == "NotInCorpus"


def test_its_errors_keep_their_kind_between_processes(agents: ModuleType) -> None:
    given_up = agents.DoesNotParse("inconsistent tabs", "TabError")
    unparsable = metrics.Unparsable("TabError", "inconsistent tabs", 4)

    given_up = pickle.loads(pickle.dumps(given_up))
    unparsable = pickle.loads(pickle.dumps(unparsable))

    assert (given_up.kind, str(given_up)) == ("TabError", "inconsistent tabs")
    assert (unparsable.kind, unparsable.line) == ("TabError", 4)
