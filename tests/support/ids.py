"""Names of tests whose parameter is hostile text."""

from __future__ import annotations

_MOST = 24


def plain(value: object) -> str:
    """The value in short ASCII without a backslash.

    pytest escapes a backslash anew whenever one process collects again, as mutmut does,
    which looks for tests by their names.
    """
    return ascii(value)[:_MOST].replace("\\", "%")
