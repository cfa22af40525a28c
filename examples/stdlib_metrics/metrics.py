"""Measures one Python source: its lines, its blocks, its complexity."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

# Warnings about the measured source name this module, so that one filter hits them
# and no others. Not `catch_warnings`: agents run handlers in threads, and it swaps a
# list that all threads share.
_MODULE = "measured-source"
_FILTER = ("ignore", None, Warning, re.compile(_MODULE), 0)

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While)
_COMPOUND = (
    *_FUNCTIONS,
    *_LOOPS,
    ast.ClassDef,
    ast.If,
    ast.Try,
    ast.TryStar,
    ast.With,
    ast.AsyncWith,
    ast.Match,
)
_BODIES = ("body", "handlers", "cases", "orelse", "finalbody")

# One more way through the code each; three more kinds have rules in `_decisions`.
_BRANCHES = (*_LOOPS, ast.If, ast.IfExp, ast.ExceptHandler, ast.Assert)


class Unparsable(Exception):
    """Not Python to this Python; `kind` is the name of the exception it raised."""

    def __init__(self, kind: str, message: str, line: int | None) -> None:
        super().__init__(kind, message, line)
        self.kind = kind
        self.message = message
        self.line = line

    def __str__(self) -> str:
        return f"{self.message} (line {self.line})" if self.line else self.message


def measure(source: bytes, name: str) -> dict[str, Any]:
    """Return the metrics of a source; raise `Unparsable` if it has none.

    `lines` sorts the physical lines: one with a comment behind code is code, and so
    is every line of a multi-line string. `max_nesting` counts compound statements
    inside one another, functions and classes included. Cyclomatic complexity is 1 per
    function and 1 for the module's own statements, plus 1 per decision: `if`, `elif`,
    `for`, `while`, `except`, `case` (but not one that takes anything), `assert`,
    conditional expression, `and`, `or`, each `for` and `if` of a comprehension. It is
    highest in `max_function`, which is `<module>` for the module's own statements.
    """
    walk = _Walk(_parse(source))
    # The first of equals, in source order.
    peak = max(walk.blocks, key=lambda block: (block.complexity, -block.line))
    return {
        "name": name,
        "bytes": len(source),
        "lines": _count_lines(source, walk.string_lines),
        "functions": len(walk.blocks) - 1,
        "classes": walk.classes,
        "imports": walk.imports,
        "max_nesting": walk.max_nesting,
        "cyclomatic_complexity": {
            "total": sum(block.complexity for block in walk.blocks),
            "max": peak.complexity,
            "max_function": peak.name,
        },
    }


def _parse(source: bytes) -> ast.Module:
    """Parse bytes, so that Python itself reads the coding cookie (PEP 263)."""
    # Checked each time because a test or a library may have put its own in front;
    # added only then because adding makes Python forget which warnings it has shown.
    if warnings.filters[:1] != [_FILTER]:
        warnings.filterwarnings("ignore", module=_MODULE)
    try:
        return ast.parse(source, filename=_MODULE)
    except SyntaxError as exc:
        # Line 0 stands for "not one line could be read".
        raise _unparsable(exc, exc.msg, exc.lineno or None) from exc
    except (ValueError, RecursionError, MemoryError) as exc:
        # ValueError: a NUL byte, before Python 3.11.4. The others are the parser's own
        # bounds on depth; memory is not short.
        raise _unparsable(exc, str(exc), None) from exc


def _unparsable(exc: Exception, message: str, line: int | None) -> Unparsable:
    """Name what the parser raised; its MemoryError has no message on Python 3.11."""
    sentence = " ".join(message.split()) or "too deeply nested for the parser"
    return Unparsable(type(exc).__name__, sentence, line)


class _Block:
    """A function, or the module around them: what complexity is counted for."""

    __slots__ = ("complexity", "line", "name")

    def __init__(self, name: str, line: int) -> None:
        self.name = name
        self.line = line
        self.complexity = 1


class _Walk:
    """One pass over a syntax tree, on a stack of its own: no depth exhausts it."""

    def __init__(self, tree: ast.Module) -> None:
        module = _Block("<module>", 0)
        self.blocks = [module]
        self.classes = 0
        self.imports = 0
        self.max_nesting = 0
        # Lines that begin inside a string: code, even if they look like a comment.
        self.string_lines: set[int] = set()
        # A node, how many compound statements are around it, the block it counts
        # for, the prefix of the names below it.
        self._stack: list[tuple[ast.AST, int, _Block, str]] = [(tree, 0, module, "")]
        while self._stack:
            self._visit(*self._stack.pop())

    def _visit(self, node: ast.AST, depth: int, block: _Block, prefix: str) -> None:
        if isinstance(node, _COMPOUND):
            self._visit_compound(node, depth, block, prefix)
            return
        if isinstance(node, (ast.Constant, ast.JoinedStr)):
            # Strings that follow one another without an operator are one node: a
            # comment between them counts as code. Rare, and not worth a tokenizer.
            last = node.end_lineno or node.lineno
            self.string_lines.update(range(node.lineno + 1, last + 1))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            self.imports += 1
        block.complexity += _decisions(node)
        for child in ast.iter_child_nodes(node):
            self._stack.append((child, depth, block, prefix))

    def _visit_compound(
        self, node: ast.stmt, depth: int, block: _Block, prefix: str
    ) -> None:
        """Push the head of a compound statement as it is, its body one level deeper."""
        self.max_nesting = max(self.max_nesting, depth + 1)
        # The head (condition, decorators, defaults) belongs to the block around.
        block.complexity += _decisions(node)
        inner = block
        if isinstance(node, ast.ClassDef):
            self.classes += 1
            prefix = f"{prefix}{node.name}."
        elif isinstance(node, _FUNCTIONS):
            inner = _Block(f"{prefix}{node.name}", node.lineno)
            self.blocks.append(inner)
            prefix = f"{prefix}{node.name}."
        for field, value in ast.iter_fields(node):
            children = value if isinstance(value, list) else [value]
            for child in children:
                if not isinstance(child, ast.AST):
                    continue
                if field not in _BODIES or _is_elif(node, child):
                    self._stack.append((child, depth, block, prefix))
                else:
                    self._stack.append((child, depth + 1, inner, prefix))


def _is_elif(node: ast.AST, child: ast.AST) -> bool:
    """Whether `child` is the `elif` of `node`: an `if` that stands in its column."""
    return (
        isinstance(node, ast.If)
        and isinstance(child, ast.If)
        and node.col_offset == child.col_offset
    )


def _decisions(node: ast.AST) -> int:
    """How many ways through the code this node adds."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        pattern = node.pattern
        takes_anything = isinstance(pattern, ast.MatchAs) and pattern.pattern is None
        return 0 if takes_anything and node.guard is None else 1
    return 0


def _count_lines(source: bytes, string_lines: set[int]) -> dict[str, int]:
    """Sort the physical lines into code, comment and blank."""
    comment = blank = 0
    # Bytes, not text: they split where Python's tokenizer does, and nowhere else.
    lines = source.removeprefix(b"\xef\xbb\xbf").splitlines()
    for number, line in enumerate(lines, start=1):
        stripped = line.strip()
        if number in string_lines:
            continue  # code, whatever it looks like
        if not stripped:
            blank += 1
        elif stripped.startswith(b"#"):
            comment += 1
    return {
        "total": len(lines),
        "code": len(lines) - comment - blank,
        "comment": comment,
        "blank": blank,
    }
