"""Python programs against their tests, with the semantics of HumanEval and MBPP, in a sandbox.

The problem's truth has the fields of the data set as published:

* HumanEval: `prompt`, `entry_point`, `test` (defines `check(candidate)`). The program is the prompt with the
  completion. As in the official harness all of it runs, what follows the function too: a sampler that wants less sets
  stop sequences.
* MBPP: `test_list` (assert statements), and where the row has them `test_imports`, `test_setup_code` and
  `challenge_test_list`. The program is the completion.

Chat answers are read too: of a text with code fences, the first block that defines the tested function counts, and
a whole definition replaces the one that the prompt begins. What `sandbox.py` covers, this covers.
"""

from __future__ import annotations

import ast
import builtins
import math
import re
import sys
import textwrap

from verifiers.programs.config import PythonTestsConfig
from verifiers.sandbox.kernel import Limits
from verifiers.sandbox.sandbox import Job, Sandbox
from verifiers.types import Problem, Trial, Verdict

_FENCED = re.compile(r"^[ \t]*```[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```", re.MULTILINE)


class PythonTests:
    """Reward 1 if the candidate passes all tests of its problem. Keeps the time limit itself."""

    def __init__(self, config: PythonTestsConfig, *, timeout_s: float) -> None:
        """Raises ValueError, in one line that says what to do, where no sandbox can be had."""
        self._partial = config.partial
        self._timeout_s = timeout_s
        limits = Limits(
            memory_bytes=config.memory_mib << 20,
            max_processes=config.max_processes,
            file_bytes=config.file_mib << 20,
            reply_bytes=config.output_kib << 10,
            cpu_s=config.cpu_s or math.ceil(timeout_s) + 1,
        )
        self._sandbox = Sandbox(limits, trusted=config.trusted_candidates)

    def verify(self, problem: Problem, completion: str) -> Verdict:
        """`wrong_format` if the program does not parse; what does not end in time is a `timeout`.

        The answer is a digest of the program without layout, comments and docstrings. The score is the reward, or
        with `partial` the fraction of tests passed. Raises SandboxError or UnsupportedTestsError for what is no
        fault of the candidate's.
        """
        job = job_of(problem, completion, run_all=self._partial)
        outcome = self._sandbox.run(job, wall_s=self._timeout_s)
        if outcome.kind == "timeout":
            return Verdict(score=-math.inf, reward=0.0, status="timeout")
        if outcome.kind == "wrong_format":
            return Verdict(score=0.0, reward=0.0, status="wrong_format")
        reward = 1.0 if outcome.kind == "passed" else 0.0
        score = outcome.num_passed / len(job.tests) if self._partial else reward
        return Verdict(score=score, reward=reward, answer=outcome.digest)

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()


def job_of(problem: Problem, completion: str, *, run_all: bool = False) -> Job:
    """The program of a completion, with the tests of its problem."""
    truth = problem.truth
    entry = _tested_name(problem)
    if "entry_point" in truth:
        return Job(
            program=_continue_prompt(truth["prompt"], completion, entry),
            prelude=_as_program(truth["prompt"]),
            tests=(f"{truth['test']}\n\ncheck({entry})\n",),
            entry=entry,
            run_all=run_all,
        )
    return Job(
        program=_whole_program(completion, entry),
        prelude="\n".join(truth.get("test_imports") or ()),
        setup=truth.get("test_setup_code") or "",
        tests=(*truth["test_list"], *(truth.get("challenge_test_list") or ())),
        run_all=run_all,
    )


def check_problem(problem: Problem) -> None:
    """Raise ValueError unless the truth has the fields of a HumanEval or of an MBPP problem, and they parse."""
    truth = problem.truth
    if "entry_point" in truth or "test" in truth:
        for name in ("prompt", "entry_point", "test"):
            _require(problem, name, isinstance(truth.get(name), str), "a text")
        _require(problem, "entry_point", truth["entry_point"].isidentifier(), "the name of a function")
        _require_code(problem, "prompt", _as_program(truth["prompt"]))
        _require_code(problem, "test", truth["test"])
        _require(
            problem,
            "test",
            "check" in _defined_functions(truth["test"]),
            "code that defines check(candidate)",
        )
        return
    for name in ("test_list", "test_imports", "challenge_test_list"):
        lines = truth.get(name) or []
        well_formed = isinstance(lines, list | tuple) and all(isinstance(line, str) for line in lines)
        _require(problem, name, well_formed, "a list of lines of code")
        _require_code(problem, name, "\n".join(lines))
    _require(problem, "test_list", bool(truth.get("test_list")), "a list of assert statements")
    setup = truth.get("test_setup_code") or ""
    _require(problem, "test_setup_code", isinstance(setup, str), "a text")
    _require_code(problem, "test_setup_code", setup)


def trials(problem: Problem) -> list[Trial]:
    """The solution that the data set gives, if it gives one; else an empty program, which shows that the tests run."""
    if problem.demonstration is not None:
        return [Trial(completion=problem.demonstration, is_right=True)]
    return [Trial(completion="", is_right=False)]


def _require(problem: Problem, name: str, condition: bool, needed: str) -> None:
    if not condition:
        value = repr(problem.truth.get(name))
        shown = value if len(value) <= 80 else f"{value[:80]} ..."
        raise ValueError(
            f"problem {problem.id!r}: truth {name!r} is {shown}, verifier 'python_tests' needs {needed} there "
            "(the fields of HumanEval or of MBPP): correct the problem or choose another verifier"
        )


def _require_code(problem: Problem, name: str, code: str) -> None:
    try:
        tree = ast.parse(code)
    except SyntaxError as error:
        _require(problem, name, False, f"Python that parses ({error})")
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=[ast.alias(name=module), *_]) | ast.ImportFrom(module=str(module)):
                known = module.split(".")[0] in sys.stdlib_module_names
                _require(problem, name, known, f"the standard library only, not the module {module},")


def _defined_functions(code: str) -> set[str]:
    return {node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def _tested_name(problem: Problem) -> str:
    """HumanEval's entry point; for MBPP the function of the candidate's that the first assert calls."""
    if "entry_point" in problem.truth:
        return problem.truth["entry_point"]
    nodes = ast.walk(ast.parse(problem.truth["test_list"][0]))
    called = [
        node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    return next((name for name in called if not hasattr(builtins, name)), called[0] if called else "")


def _as_program(prompt: str) -> str:
    """The prompt as code that parses: one that stops before the function's body gets an empty one."""
    try:
        ast.parse(prompt)
    except SyntaxError:
        return f"{prompt.rstrip()}\n    pass\n"
    return prompt


def _continue_prompt(prompt: str, completion: str, entry: str) -> str:
    """The program that a completion of a HumanEval prompt makes."""
    if completion.lstrip("\n")[:1].isspace():  # the function's body; a fence closes the one it began in
        return prompt + _FENCE.split(completion, maxsplit=1)[0]
    code = _first_block(completion, entry)
    if _defines(code, entry):
        return f"{_as_program(prompt)}\n\n{code}"
    return prompt + code


def _whole_program(completion: str, entry: str) -> str:
    """The program of an MBPP answer; [BEGIN] and [DONE] are the marks of the benchmark's own prompts."""
    text = completion.partition("[DONE]")[0]
    text = text.partition("[BEGIN]")[2] if "[BEGIN]" in text else text
    return _first_block(text, entry)


def _first_block(text: str, entry: str) -> str:
    """The first fenced block that defines the function, else the first, else the whole text."""
    blocks = _FENCED.findall(text) or [text]
    flush_left = map(textwrap.dedent, blocks)  # one in a list is indented as a whole
    return next((block for block in flush_left if _defines(block, entry)), blocks[0])


def _defines(code: str, entry: str) -> bool:
    return re.search(rf"^(?:async[ \t]+)?def[ \t]+{re.escape(entry)}\b", code, re.MULTILINE) is not None
