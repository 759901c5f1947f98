"""Clips of a small corpus by name, and lists of them."""

from __future__ import annotations

from pathlib import Path

NAMES = ("anna/1", "anna/2", "ben/1", "carl/7")


def listing(corpus: Path, text: str, name: str = "list.txt") -> Path:
    path = corpus / "filelists" / name
    path.write_text(text)
    return path
