"""Rows of APPS, LiveCodeBench and CodeContests: inputs and outputs, and a prompt that says how they are given."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]
_PYTHON_3 = 3
"""CodeContests' number of the language."""
_CURE = "correct it, or raise problems.max_invalid_rows"


def asked(question: str, starter: str, function: str | None) -> str:
    """The question with what the program has to be."""
    parts = [question.strip()]
    if starter.strip():
        parts.append(f"Go on from this:\n{starter.rstrip()}")
    if function:
        parts.append(f"Write the function `{function}` in Python.")
    else:
        parts.append(
            "Write a Python program that reads standard input and writes the answer to standard output."
        )
    return "\n\n".join(parts)


def apps_prompt(fields: Fields) -> str:
    starter = fields.get("starter_code") or ""
    return asked(_text(fields, "question"), starter, apps_cases(fields).get("fn_name"))


def apps_cases(fields: Fields) -> dict[str, Any]:
    """`inputs`, `outputs`, and `fn_name` where the row has one, of the text of JSON that APPS and TACO hold."""
    cases = _json(fields, "input_output")
    if not isinstance(cases, dict) or not cases.get("inputs"):
        raise ValueError(f"field 'input_output' has no tests: {_CURE}")
    named = {"fn_name": cases["fn_name"]} if cases.get("fn_name") else {}
    return {"inputs": cases["inputs"], "outputs": cases.get("outputs"), **named}


def livecodebench_prompt(fields: Fields) -> str:
    starter = fields.get("starter_code") or ""
    return asked(_text(fields, "question_content"), starter, livecodebench_cases(fields).get("fn_name"))


def livecodebench_cases(fields: Fields) -> dict[str, Any]:
    """Public and private tests; `fn_name` is the metadata's where they are of a function."""
    tests = [
        case
        for name in ("public_test_cases", "private_test_cases")
        if fields.get(name)
        for case in _json(fields, name)
    ]
    if not tests:
        raise ValueError(f"fields 'public_test_cases' and 'private_test_cases' have no tests: {_CURE}")
    cases: dict[str, Any] = {name: [case[name[:-1]] for case in tests] for name in ("inputs", "outputs")}
    if any(case.get("testtype") == "functional" for case in tests):
        function = _json(fields, "metadata").get("func_name")
        if not function:
            raise ValueError(f"field 'metadata' has no func_name, and its tests are of a function: {_CURE}")
        cases["fn_name"] = function
    return cases


def code_contests_prompt(fields: Fields) -> str:
    return asked(_text(fields, "description"), "", None)


def code_contests_cases(fields: Fields) -> dict[str, Any]:
    """All of public, private and generated tests. Their outputs are compared by tokens."""
    if fields.get("input_file") or fields.get("output_file"):
        raise ValueError(
            "its program reads or writes a file, not standard input and output: raise problems.max_invalid_rows"
        )
    inputs: list[str] = []
    outputs: list[str] = []
    for name in ("public_tests", "private_tests", "generated_tests"):
        tests = fields.get(name) or {}
        inputs += tests.get("input") or []
        outputs += tests.get("output") or []
    if not inputs:
        raise ValueError(
            f"fields 'public_tests', 'private_tests' and 'generated_tests' have no tests: {_CURE}"
        )
    return {"inputs": inputs, "outputs": outputs, "compare": "tokens"}


def first_solution(solutions: Any) -> Any:
    """The first of a list, which APPS holds as JSON; of CodeContests' the first in Python 3. None where there is none.

    What is neither, a text that is no JSON above all, is returned as it is: a solution alone.
    """
    if isinstance(solutions, str):
        try:
            parsed = json.loads(solutions)
        except ValueError:
            return solutions or None
        solutions = parsed if isinstance(parsed, list) else solutions
    if isinstance(solutions, Mapping):
        pairs = zip(solutions.get("language") or (), solutions.get("solution") or (), strict=False)
        solutions = [text for language, text in pairs if language == _PYTHON_3]
    if isinstance(solutions, list):
        return next(iter(solutions), None)
    return solutions


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        known = ", ".join(map(repr, fields))
        raise ValueError(f"field {name!r} is {value!r}; it has {known}: set problems.prompt_field")
    return value


def _json(fields: Fields, name: str) -> Any:
    """A field that is JSON, or its text; LiveCodeBench packs its private tests once more."""
    value = fields.get(name)
    if value is None:
        known = ", ".join(map(repr, fields))
        raise ValueError(f"field {name!r} is missing; it has {known}: set problems.truth_fields")
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        try:
            return json.loads(_TextsOnly(io.BytesIO(zlib.decompress(base64.b64decode(value)))).load())
        except (ValueError, TypeError, EOFError, zlib.error, pickle.UnpicklingError):
            raise ValueError(f"field {name!r} is no JSON ({error}): {_CURE}") from None


class _TextsOnly(pickle.Unpickler):
    """Unpickles texts, numbers and lists; a pickle that names a class could run anything."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"{module}.{name}")
