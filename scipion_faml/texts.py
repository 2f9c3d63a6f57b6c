"""Texts of users and of files, as they are shown."""

from __future__ import annotations


def one_line(text: str) -> str:
    """Return a text as one line that controls no terminal: what is not printed is escaped."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in " ".join(text.split()))
