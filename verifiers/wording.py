"""Values and errors as they stand in messages of one line."""

from __future__ import annotations

from typing import Any


def short(value: Any, max_chars: int) -> str:
    """Its repr, cut off behind so many characters."""
    text = repr(value)
    return text if len(text) <= max_chars else f"{text[:max_chars]}..."


def one_line(error: BaseException, max_chars: int) -> str:
    """What the error says, without line breaks, at most so many characters; its repr where it says nothing."""
    return " ".join(str(error).split())[:max_chars] or repr(error)
