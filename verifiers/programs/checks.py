"""Whether a problem can be judged by running programs: its fields, and that its tests can fail."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Sequence
from typing import Any

from verifiers.programs.cases import arguments_of
from verifiers.programs.test_code import as_program, wanted_names, why_not_run
from verifiers.sandbox.outputs import COMPARISONS
from verifiers.types import Problem

_ENTRY = re.compile(r"(?:[A-Za-z_]\w*\(\)\.)?[A-Za-z_]\w*")


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the truth has the fields of a HumanEval, an MBPP or an APPS problem, and they parse."""
    truth = problem.truth
    if "inputs" in truth or "outputs" in truth:
        _check_cases(problem)
    elif "entry_point" in truth or "test" in truth:
        _check_entry(problem)
    else:
        _check_list(problem)


def _check_cases(problem: Problem) -> None:
    truth = problem.truth
    inputs, outputs, name = truth.get("inputs"), truth.get("outputs"), truth.get("fn_name")
    for field, values in (("inputs", inputs), ("outputs", outputs)):
        _require(
            problem, field, isinstance(values, list | tuple) and bool(values), "a list that is not empty"
        )
    assert inputs is not None and outputs is not None
    _require(problem, "outputs", len(outputs) == len(inputs), f"as many as there are inputs, {len(inputs)},")
    if name:
        is_name = isinstance(name, str) and name.isidentifier()
        _require(problem, "fn_name", is_name, "the name of a function")
        for given in inputs:
            try:
                arguments_of(given)
            except ValueError as error:
                _require(problem, "inputs", False, f"lists of arguments ({error})")
        return
    compare = truth.get("compare") or "lines"
    _require(problem, "compare", compare in COMPARISONS, " or ".join(COMPARISONS))
    for field, values in (("inputs", inputs), ("outputs", outputs)):
        texts = all(isinstance(value, str) or _is_lines(value) for value in values)
        _require(problem, field, texts, "texts, or fn_name where they are arguments and results,")


def _is_lines(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(line, str | int | float) for line in value)


def _check_entry(problem: Problem) -> None:
    truth = problem.truth
    for name in ("prompt", "entry_point", "test"):
        _require(problem, name, isinstance(truth.get(name), str), "a text")
    is_entry = _ENTRY.fullmatch(truth["entry_point"]) is not None
    _require(problem, "entry_point", is_entry, "the name of a function, or Solution().name,")
    _require_code(problem, "prompt", as_program(truth["prompt"]))
    _require_code(problem, "test", truth["test"])
    checks = [
        node
        for node in ast.parse(truth["test"]).body
        if isinstance(node, ast.FunctionDef) and node.name == "check"
    ]
    _require(problem, "test", bool(checks), "code that defines check(candidate)")
    names = {arg.arg for arg in checks[-1].args.args} | {truth["entry_point"].partition("(")[0]}
    reads = any(isinstance(node, ast.Name) and node.id in names for node in ast.walk(checks[-1]))
    _require(problem, "test", reads, "a check(candidate) that calls the candidate")
    _require_run(problem, "test", [f"{truth['test']}\n\ncheck(0)\n"])


def _check_list(problem: Problem) -> None:
    truth = problem.truth
    for name in ("test_list", "test_imports", "challenge_test_list"):
        lines = truth.get(name) or []
        well_formed = isinstance(lines, list | tuple) and all(isinstance(line, str) for line in lines)
        _require(problem, name, well_formed, "a list of lines of code")
        _require_code(problem, name, "\n".join(lines))
    _require(problem, "test_list", bool(truth.get("test_list")), "a list of assert statements")
    setup = truth.get("test_setup_code") or ""
    _require(problem, "test_setup_code", isinstance(setup, str), "a text")
    _require_code(problem, "test_setup_code", setup)
    sources = (setup, *truth["test_list"], *(truth.get("challenge_test_list") or ()))
    for source in sources:
        _require_code(problem, "test_list", source)
    _require_run(problem, "test_list", sources)
    wanted = wanted_names(sources, "\n".join(truth.get("test_imports") or ()))
    _require(problem, "test_list", bool(wanted), "tests that call something of the candidate's")


def _require_run(problem: Problem, name: str, sources: Sequence[str]) -> None:
    why = why_not_run(sources)
    _require(problem, name, why is None, f"tests that are all run ({why})")


def _require(problem: Problem, name: str, condition: bool, needed: str) -> None:
    if not condition:
        value = repr(problem.truth.get(name))
        shown = value if len(value) <= 80 else f"{value[:80]} ..."
        raise ValueError(
            f"problem {problem.id!r}: truth {name!r} is {shown}, verifier 'python_tests' needs {needed} there "
            "(the fields of HumanEval, MBPP or APPS): correct the problem or choose another verifier"
        )


def _require_code(problem: Problem, name: str, code: str) -> None:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError) as error:
        _require(problem, name, False, f"Python that parses ({error})")
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=aliases):
                modules = [alias.name for alias in aliases]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case _:
                modules = []
        for module in modules:
            known = module.split(".")[0] in sys.stdlib_module_names
            _require(problem, name, known, f"the standard library only, not the module {module},")
