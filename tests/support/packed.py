"""What a command says that is on its way out already."""

from __future__ import annotations

import hiredis


def sha_of(data: bytes) -> str:
    """The script that a packed EVALSHA runs; empty for any other command."""
    words = data.split(b"\r\n", 5)
    return words[4].decode() if words[2] == b"EVALSHA" else ""


def words_of(data: bytes) -> list[str]:
    """A packed command's words; bytes that are no text come out again as they were."""
    reader = hiredis.Reader(encoding="utf-8", errors="surrogateescape")
    reader.feed(data)
    words = reader.gets()
    assert isinstance(words, list), data
    return words
