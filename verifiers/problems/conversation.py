"""Prompts that are published as messages: `[{"role": "system", ...}, {"role": "user", "content": "1+1?"}]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from verifiers.types import Turn
from verifiers.wording import short

ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
MAX_SHOWN_CHARS = 100


def read_messages(messages: Any, name: str) -> tuple[tuple[Turn, ...], str]:
    """The turns before the last one, and the text of the last, which is the prompt; `name` is the field's.

    Raises ValueError, without the row's place, for what is no conversation that a user's turn ends.
    """
    turns = [_turn(message, f"{name}.{place}") for place, message in enumerate(messages)]
    if turns[-1][0] != "user":
        raise ValueError(
            f"field {name!r} ends with a turn of {turns[-1][0]!r}, and a prompt ends with the user's: "
            f"name the prompt's own turn, as in problems.prompt_field = {f'{name}.{_users(turns)}.content'!r}"
        )
    for place, (role, _) in enumerate(turns):
        if role == "system" and place:
            raise ValueError(f"field {name!r} has a system turn at place {place}: make it the first turn")
    return tuple(turns[:-1]), turns[-1][1]


def _users(turns: list[Turn]) -> int:
    return next((place for place, (role, _) in enumerate(turns) if role == "user"), 0)


def _turn(message: Any, name: str) -> Turn:
    if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
        raise ValueError(
            f"field {name!r} is {short(message, MAX_SHOWN_CHARS)}: make it a message with 'role' and 'content', or name the text "
            "itself by its path in problems.prompt_field"
        )
    role = message["role"]
    if role not in ROLES:
        raise ValueError(f"field {name + '.role'!r} is {role!r}: make it one of {', '.join(ROLES)}")
    return ROLES[role], _content(message["content"], f"{name}.content")


def _content(content: Any, name: str) -> str:
    """A text, or the texts of a list of parts, as some libraries write it."""
    if isinstance(content, list) and content:
        kinds = [part.get("type") if isinstance(part, Mapping) else None for part in content]
        if all(
            kind == "text" and isinstance(part.get("text"), str)
            for kind, part in zip(kinds, content, strict=True)
        ):
            content = "".join(part["text"] for part in content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(
            f"field {name!r} is {short(content, MAX_SHOWN_CHARS)}: make it a text that is not empty (pictures and tools are not read)"
        )
    return content
