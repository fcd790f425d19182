"""Problems of inputs and outputs: APPS, LiveCodeBench, CodeContests.

`inputs` and `outputs` are lists of equal length. Without `fn_name` they are texts (or lists of lines) that a program
reads and prints. With it an input is the list of a function's arguments and an output what it returns, as JSON has
them; either may also be JSON's text, an argument to a line, as in LiveCodeBench.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_PRELUDE = """
import json

def _as_json(value):
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _as_json(item) for key, item in value.items()}
    return value

def _is_right(result, expected):
    result = _as_json(result)
    return result == expected or (isinstance(expected, list) and len(expected) == 1 and result == expected[0])

def _argument(value):
    if isinstance(value, dict) and value and all(key.removeprefix("-").isdecimal() for key in value):
        return {int(key): item for key, item in value.items()}
    return value
"""


def cases_of(truth: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What a program reads, and what it is to print."""
    pairs = zip(truth["inputs"], truth["outputs"], strict=True)
    return tuple((as_text(given), as_text(expected)) for given, expected in pairs)


def as_text(lines: str | Sequence[Any]) -> str:
    return lines if isinstance(lines, str) else "".join(f"{line}\n" for line in lines)


def function_tests(truth: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The code that the tests share, and a test for each pair of arguments and result.

    As in APPS' harness a tuple counts as a list, an argument's keys that are numbers as numbers, and a result may
    stand in a list of one.
    """
    tests = []
    for given, expected in zip(truth["inputs"], truth["outputs"], strict=True):
        arguments, result = json.dumps(arguments_of(given)), json.dumps(_value(expected))
        call = f"{truth['fn_name']}(*map(_argument, json.loads({arguments!r})))"
        tests.append(f"assert _is_right({call}, _argument(json.loads({result!r})))")
    return _PRELUDE, tuple(tests)


def arguments_of(given: Any) -> list[Any]:
    """Raises ValueError for a text that is no JSON, an argument to a line, and for what is no list."""
    if isinstance(given, str):
        return [json.loads(line) for line in given.split("\n") if line.strip()]
    if not isinstance(given, list | tuple):
        raise ValueError("no list of arguments")  # noqa: TRY004  a fault of the row, like the others
    return list(given)


def _value(expected: Any) -> Any:
    """LiveCodeBench's outputs are texts of JSON; one that is none stands for itself."""
    if not isinstance(expected, str):
        return expected
    try:
        return json.loads(expected)
    except ValueError:
        return expected
