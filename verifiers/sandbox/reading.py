"""Which program a completion is.

Runs inside the sandbox, in the candidate's process: standard library only (see `blocks`). What the host sends is a
completion with how it is to be read:

    {"kind": "whole", "wanted": ["f", "Stack"]}                    a program that defines what the tests call
    {"kind": "continue", "wanted": ["f"], "prompt": "def f(x):.."} one that goes on from a prompt, or begins anew
    {"kind": "script"}                                             one that reads standard input
                                    with "imports": the program finds what `common_imports` has
    {"kind": "verbatim"}                                           the text itself
"""

from __future__ import annotations

import ast
import builtins
import re
import symtable
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from verifiers.sandbox.blocks import (
    UNPARSABLE,
    Block,
    compiles,
    readings,
    script_without_prose,
    without_prose,
)

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.MULTILINE)
_READS_INPUT = re.compile(r"\binput\s*\(|\bstdin\b|\bfileinput\b|\bopen\s*\(\s*0\b|\bread\s*\(\s*0\b")
_SOLUTION = "Solution"
"""The class in which LeetCode's problems have their function."""


def read_program(text: str, reading: dict[str, Any]) -> str:
    """The program; a text that does not compile where there is none."""
    if reading["kind"] == "verbatim":
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = text.rpartition("</think>")[2] if "</think>" in text else text
    if reading["kind"] == "script":
        return _script(text)
    if reading["kind"] == "continue":
        return _continued(text, reading["prompt"], *reading["wanted"])
    return _whole(text, reading["wanted"])


def _whole(text: str, wanted: Sequence[str]) -> str:
    """The first block that defines what is wanted, with what it needs of the others; else the first; else the text."""
    for begin, end in (
        ("[BEGIN]", "[DONE]"),
        ("[PYTHON]", "[/PYTHON]"),
    ):  # of MBPP's prompts, of Code Llama's
        text = text.partition(end)[0]
        text = text.partition(begin)[2] if begin in text else text
    found = _defining(text, wanted)
    if found is not None:
        return found
    blocks = readings(text)[0]
    return blocks[0].code if blocks else text


def _defining(text: str, wanted: Sequence[str]) -> str | None:
    """A program that compiles and defines at least one of the wanted; the one that defines most counts."""
    names = {part for name in wanted for part in _parts(name)}
    for blocks in readings(text):
        codes = [
            code
            for block in blocks
            if (code := _flush_left(block.code) or without_prose(block.code)) is not None
        ]
        number = {code: len(definitions(code) & names) for code in codes}
        best = max(codes, key=number.__getitem__, default=None)
        if best is not None and number[best]:
            return _with_entries(_complete(best, codes, wanted), wanted)
    fence = _FENCE.search(text)
    parts = ([text[: fence.start()]] if fence else []) + [text]
    for part in parts:
        code = _flush_left(part) or without_prose(part)
        if code is not None and definitions(code) & names:
            return _with_entries(code, wanted)
    return None


def _parts(name: str) -> list[str]:
    """`Solution` and `f` of `Solution().f`."""
    return name.replace("()", "").split(".")


def _flush_left(code: str) -> str | None:
    """The code if it compiles, as it is or with the indentation of its first line taken from all."""
    if compiles(code):
        return code
    first = code.lstrip("\n")
    width = len(first) - len(first.lstrip(" \t"))
    lines = code.split("\n")
    if not width or any(line[:width].strip() for line in lines):
        return None
    moved = "\n".join(line[width:] for line in lines)
    return moved if compiles(moved) else None


def _continued(text: str, prompt: str, *wanted: str) -> str:
    """The program of a completion that may be a function's body, or hold the whole function."""
    is_body = text.lstrip("\n")[:1].isspace()
    body = prompt + (_FENCE.split(text, maxsplit=1)[0] if is_body else text)
    if is_body and compiles(body):
        return body
    if is_body and not _FENCE.search(text) and _flush_left(text) is None:
        return body  # as in the official harness, what follows a body is no prose
    begun = prompt if compiles(prompt) else f"{prompt.rstrip()}\n    pass\n"
    code = _defining(text, wanted)
    if code is not None:
        return _join([begun, code])
    blocks = readings(text)[0]
    code = blocks[0].code if blocks else text
    if is_body and not blocks:
        return body
    # A chat's answer loses the indentation of the first line, or of all.
    for continued in (code, f"    {code}", "".join(f"    {line}\n" for line in code.split("\n"))):
        if compiles(prompt + continued):
            return prompt + continued
    return prompt + code


def _script(text: str) -> str:
    """The last block that reads standard input, as LiveCodeBench has it; else the last; else what is no sentence."""
    found = [
        [(code, codes) for code in codes]
        for blocks in readings(text)
        if (
            codes := [
                code for block in _python_first(blocks) if (code := _flush_left(block.code)) and code.strip()
            ]
        )
    ]
    unfenced = text if compiles(text) else script_without_prose(text)
    if unfenced is not None:
        found.append([(unfenced, [unfenced])])
    for choices in found:
        reading = [choice for choice in choices if _READS_INPUT.search(choice[0])]
        if reading:
            return _complete(*reading[-1], ())
    return _complete(*found[0][-1], ()) if found else text


def _python_first(blocks: list[Block]) -> list[Block]:
    python = [block for block in blocks if block.is_python]
    return python or blocks


def definitions(code: str) -> set[str]:
    """The names that a program defines at its top, and the methods of a class Solution there."""
    names: set[str] = set()
    for node in _statements(_parse(code).body):
        names |= _bound(node)
        if isinstance(node, ast.ClassDef) and node.name == _SOLUTION:
            names |= {part.name for part in node.body if isinstance(part, ast.FunctionDef)}
    return names


def _bound(node: ast.stmt) -> set[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            return {alias.asname or alias.name.partition(".")[0] for alias in aliases}
        case ast.Assign(targets=targets):
            return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
        case ast.AnnAssign(target=ast.Name(id=name), value=value) if value is not None:
            return {name}
    return set()


def _statements(body: Iterable[ast.stmt]) -> Iterable[ast.stmt]:
    """Those of the top, also within `if` and `try`."""
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements(node.body)
            yield from _statements(node.orelse)


def _complete(code: str, codes: Sequence[str], wanted: Sequence[str]) -> str:
    """The code with those imports, definitions and constants of the other blocks that it needs, and no others.

    Of several with a name the nearest before it counts, then the first after it.
    """
    place = codes.index(code)
    missing = _needed(code) | {_parts(name)[0] for name in wanted} - definitions(code)
    if not missing:
        return code
    taken: dict[tuple[int, int], str] = {}
    order = [*range(place - 1, -1, -1), *range(place + 1, len(codes))]
    trees = {number: _parse(codes[number]) for number in order}
    known = definitions(code)
    while missing:
        name = min(missing)
        missing.discard(name)
        known.add(name)
        for number in order:
            found = [n for n, node in enumerate(trees[number].body) if name in _bound(node)]
            if found:
                source = _source(codes[number], trees[number].body[found[-1]])
                taken[number, found[-1]] = source
                missing |= _needed(source) - known
                break
    stars = [
        _source(codes[number], node)
        for number in order
        for node in trees[number].body
        if isinstance(node, ast.ImportFrom) and node.names[0].name == "*"
    ]
    return _join([*stars, *(taken[key] for key in sorted(taken)), code]) if stars or taken else code


def _source(code: str, node: ast.stmt) -> str:
    first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", []))])
    return "\n".join(code.split("\n")[first - 1 : node.end_lineno])


def _needed(code: str) -> set[str]:
    """The global names that a program reads and neither defines nor finds among the builtins."""
    try:
        with warnings.catch_warnings(action="ignore"):
            table = symtable.symtable(code, "<candidate>", "exec")
    except UNPARSABLE:
        return set()
    own = {s.get_name() for s in table.get_symbols() if s.is_assigned() or s.is_imported()}
    own |= {child.get_name() for child in table.get_children()}
    read, tables = set(), [table]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        is_top = table.get_type() == "module"
        read |= {s.get_name() for s in table.get_symbols() if s.is_referenced() and (is_top or s.is_global())}
    return {name for name in read - own if not hasattr(builtins, name)}


def _join(parts: Sequence[str]) -> str:
    """One program of several, with what must stand first in front."""
    future = [
        (part, node)
        for part in parts[1:]
        if "__future__" in part and compiles(part)
        for node in _parse(part).body
        if isinstance(node, ast.ImportFrom) and node.module == "__future__"
    ]
    if not future:
        return "\n\n".join(parts)
    lines = [_source(part, node) for part, node in future]
    rest = list(parts)
    for line in lines:
        rest = [rest[0], *(part.replace(line, "", 1) for part in rest[1:])]
    return "\n".join(lines) + "\n" + "\n\n".join(rest)


def _with_entries(program: str, wanted: Sequence[str]) -> str:
    """The program, with a function where the tests look for it: `f` for `Solution().f`, or the reverse."""
    top = {name for node in _statements(_parse(program).body) for name in _bound(node)}
    for entry in wanted:
        function = entry.rpartition(".")[2]
        if entry == function and function not in top and function in definitions(program):
            call = f"{_SOLUTION}().{function}(*arguments, **keywords)"
            program += f"\n\ndef {function}(*arguments, **keywords):\n    return {call}\n"
        elif entry != function and _SOLUTION not in top and function in top:
            program += f"\n\nclass {_SOLUTION}:\n    {function} = staticmethod({function})\n"
    return program


def _parse(code: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):
        return ast.parse(code)
