"""What a command says that is on its way out already."""

from __future__ import annotations


def sha_of(data: bytes) -> str:
    """The script that a packed EVALSHA runs; empty for any other command."""
    words = data.split(b"\r\n", 5)
    return words[4].decode() if words[2] == b"EVALSHA" else ""
