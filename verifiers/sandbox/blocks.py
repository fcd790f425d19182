"""The code in a completion, as people and models write it: fenced, half fenced, or among sentences.

Runs inside the sandbox, in the candidate's process: standard library only. Every text here was written by a model that
may want to exhaust the parser, so nothing outside the sandbox parses it.
"""

from __future__ import annotations

import ast
import re
import types
import warnings
from dataclasses import dataclass

UNPARSABLE = (SyntaxError, ValueError, MemoryError, RecursionError, OverflowError)
"""What `compile` raises for a text."""
MAX_TRIED_CHARS = 200_000
"""Of all pieces of one text without fences that are compiled before it is given up."""

MAX_LITERAL = 20
"""Unindented lines of one assignment."""

_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^`\n]*)$")
_GLUED_OPENING = re.compile(r"^(.*\S)[ \t]*(`{3,})([\w+#-]*)[ \t]*$")
_NO_PYTHON = re.compile(
    r"\s*(bash|sh|shell|zsh|console|terminal|text|txt|plaintext|output|input|json|yaml|toml|markdown|md|diff|"
    r"c|cpp|c\+\+|cc|cs|csharp|java|javascript|js|typescript|ts|go|golang|rust|rs|ruby|php|sql|html|css|latex)\b",
    re.IGNORECASE,
)
_CODE_START = re.compile(
    r"(async[ \t]+)?def[ \t]+\w+[ \t]*[(\[]|class[ \t]+\w+[ \t]*[:(\[]|@\w|import[ \t]+[\w.]+([ \t]*,|[ \t]+as[ \t]|[ \t]*$)"
    r"|from[ \t]+[\w.]+[ \t]+import\b"
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*(?:[ \t]*,[ \t]*\w+)*[ \t]*(?::[^=]+)?=[^=]")
_SCRIPT_START = re.compile(r"(for|while|if|with|try|print|while|input|sys|assert)\b")
_GOES_ON = re.compile(r"(else|elif|except|finally)\b")


_COMPILED: dict[str, types.CodeType | None] = {}
"""Of this one candidate: its process reads one completion."""


@dataclass(frozen=True, slots=True)
class Block:
    """One piece of code; `is_python` unless its fence names another language."""

    code: str
    is_python: bool = True


def readings(text: str) -> list[list[Block]]:
    """The fenced blocks of a text, in the order in which it may be meant; empty lists for one without a fence.

    As CommonMark has it; then with fences that are closed at any indentation or at the end of a line of code; then as
    if the text began inside a block, as a completion does whose prompt opened one.
    """
    tried = [_blocks(text, loose=False), _blocks(text, loose=True)]
    if _has_fence(text):
        tried.append(_blocks(f"```\n{text}", loose=True))
    return tried


def _has_fence(text: str) -> bool:
    return "```" in text or "~~~" in text


def _blocks(text: str, *, loose: bool) -> list[Block]:
    found: list[Block] = []
    code: list[str] | None = None
    indent, mark, info = 0, "", ""
    for line in text.split("\n"):
        fence = _FENCE.match(line)
        if code is None:
            if fence:
                indent, mark, info, code = len(fence[1].expandtabs()), fence[2], fence[3], []
            elif loose and (glued := _GLUED_OPENING.match(line)):
                indent, mark, info, code = 0, glued[2], glued[3], []
            continue
        closes = fence and not fence[3].strip() and fence[2].startswith(mark)
        if fence and closes and (loose or len(fence[1].expandtabs()) <= indent + 3):
            found.append(_block(code, info))
            code = None
        elif loose and line.rstrip().endswith(mark) and line.count(mark) == 1:
            code.append(_outdent(line.rstrip()[: -len(mark)], indent))
            found.append(_block(code, info))
            code = None
        else:
            code.append(_outdent(line, indent))
    if code is not None:
        found.append(_block(code, info))
    return found


def _block(lines: list[str], info: str) -> Block:
    return Block("".join(f"{line}\n" for line in lines), not _NO_PYTHON.match(info))


def _outdent(line: str, width: int) -> str:
    """The line without the indentation of the fence that holds it, in a list say."""
    kept = line.lstrip(" \t")
    lead = line[: len(line) - len(kept)].expandtabs()
    return line if width == 0 else lead[min(width, len(lead)) :] + kept


def compiles(code: str) -> bool:
    return compiled(code) is not None


def compiled(code: str) -> types.CodeType | None:
    """What a text compiles to; None for one that does not."""
    if code not in _COMPILED:
        try:
            _COMPILED[code] = compile_program(code)
        except UNPARSABLE:
            _COMPILED[code] = None
    return _COMPILED[code]


def forget_compiled() -> None:
    _COMPILED.clear()


def compile_program(code: str) -> types.CodeType:
    """Raises one of UNPARSABLE. Not with this module's own `annotations`: the candidate's are evaluated."""
    with warnings.catch_warnings(action="ignore"):  # of "\\d" in a text
        return compile(code, "<candidate>", "exec", dont_inherit=True)


def without_prose(text: str) -> str | None:
    """The definitions, imports and constants of a text that has sentences around them; None if there are none.

    What begins like code and does not compile is no sentence: then the text as a whole is unreadable.
    """
    lines = text.split("\n")
    starts = [n for n, line in enumerate(lines) if line[:1].strip()] + [len(lines)]
    kept, position, tried = [], 0, 0
    while position < len(starts) - 1:
        first = lines[starts[position]]
        is_code = _CODE_START.match(first)
        if not (is_code or _ASSIGNMENT.match(first)):
            position += 1
            continue
        end = position + 1
        while not compiles(piece := "\n".join(lines[starts[position] : starts[end]])):
            end, tried = end + 1, tried + len(piece)
            if (
                end == len(starts)
                or tried > MAX_TRIED_CHARS
                or not (is_code or end - position <= MAX_LITERAL)
            ):
                if is_code:
                    return None
                end = position
                break
        while position < end < len(starts) - 1 and _GOES_ON.match(lines[starts[end]]):
            end += 1
        if end > position:
            kept.append("\n".join(lines[starts[position] : starts[end]]))
        position = max(end, position + 1)
    kept = [piece for piece in kept if _CODE_START.match(piece) or _is_constant(piece)]
    return "\n".join(kept) if any(map(_CODE_START.match, kept)) else None


def _is_constant(assignment: str) -> bool:
    """Whether an assignment needs no name: others may be a sentence's example, which would fail where it stands."""
    return not any(
        isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
        for node in ast.walk(ast.parse(assignment))
    )


def script_without_prose(text: str) -> str | None:
    """The longest run of lines that compiles, from the first that looks like code; None if there is none."""
    lines = text.split("\n")
    starts = [n for n, line in enumerate(lines) if line[:1].strip()]
    tried = 0
    for start in starts:
        line = lines[start]
        if not (_CODE_START.match(line) or _ASSIGNMENT.match(line) or _SCRIPT_START.match(line)):
            continue
        for end in [len(lines), *reversed([n for n in starts if n > start])]:
            code = "\n".join(lines[start:end])
            tried += len(code)
            if tried > MAX_TRIED_CHARS:
                return None
            if compiles(code):
                return code
    return None
