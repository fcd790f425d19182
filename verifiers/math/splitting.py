"""Where a text divides: commas, "and", "or" and signs that no bracket encloses."""

from __future__ import annotations

from verifiers.math.tokens import Token

_OPENING = {"(", "[", "{", r"\{", r"\langle", r"\lfloor", r"\lceil"}
_CLOSING = {")", "]", "}", r"\}", r"\rangle", r"\rfloor", r"\rceil"}
_JOINERS = {"and": "and", "or": "or", r"\and": "and", r"\or": "or", ",": ",", ";": ","}


def split_at(tokens: list[Token], texts: tuple[str, ...]) -> list[list[Token]]:
    """The parts between those texts that stand outside of brackets and environments."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for index, token in enumerate(tokens):
        if token.text in texts and depth == 0:
            parts.append([])
            continue
        depth = max(0, depth + _step(tokens, index, depth))
        parts[-1].append(token)
    return parts


def split(tokens: list[Token]) -> tuple[list[list[Token]], list[str]]:
    """The parts of a list and what joins them: `,`, `and`, `or`. A comma before "and" belongs to it."""
    parts: list[list[Token]] = [[]]
    joiners: list[str] = []
    depth = 0
    for index, token in enumerate(tokens):
        joiner = _joiner(token) if depth == 0 else None
        if joiner is not None:
            if joiner != "," and joiners and not parts[-1]:
                joiners[-1] = joiner
            else:
                joiners.append(joiner)
                parts.append([])
            continue
        depth = max(0, depth + _step(tokens, index, depth))
        parts[-1].append(token)
    return parts, joiners


def _joiner(token: Token) -> str | None:
    text = token.text.lower() if token.kind == "word" else token.text
    return _JOINERS.get(text) if token.kind != "letter" else None


def _step(tokens: list[Token], index: int, depth: int) -> int:
    """How much deeper the token leads; `]2,5[` opens with a closing bracket."""
    text = tokens[index].text
    if text.startswith(r"\begin:"):
        return 1
    if text.startswith(r"\end:"):
        return -1
    if text == "]" and depth == 0:
        return 1
    if text == "[" and depth == 1 and _ends_interval(tokens, index):
        return -1
    return (text in _OPENING) - (text in _CLOSING)


def _ends_interval(tokens: list[Token], index: int) -> bool:
    following = tokens[index + 1].text if index + 1 < len(tokens) else ""
    return following in ("", ",", r"\cup", r"\cap", "or", "and", r"\backslash")


def is_enclosed(tokens: list[Token], opening: str) -> bool:
    """Whether the first bracket is that one and closes with the last token."""
    if tokens[0].text != opening:
        return False
    depth = 0
    for index, token in enumerate(tokens):
        depth += (token.text in _OPENING) - (token.text in _CLOSING)
        if depth == 0:
            return index == len(tokens) - 1
    return False
