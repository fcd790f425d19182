"""Python programs against their tests, with the semantics of HumanEval, MBPP and APPS, in a sandbox.

The problem's truth has the fields of the data set as published:

* HumanEval: `prompt`, `entry_point`, `test` (defines `check(candidate)`). The program is the prompt with the
  completion. As in the official harness all of it runs, what follows the function too: a sampler that wants less sets
  stop sequences. `Solution().f` is an entry point too.
* MBPP: `test_list` (assert statements, test functions or test classes), and where the row has them `test_imports`,
  `test_setup_code` and `challenge_test_list`. The program is the completion.
* APPS, LiveCodeBench, CodeContests: `inputs` and `outputs`. The program reads the one and prints the other; with
  `fn_name` the inputs are a function's arguments (`programs.cases`).

Chat answers are read too (`sandbox.reading`): of a text with code fences, the first block that defines what the tests
call counts, with what it needs of the others. What `sandbox.py` covers, this covers.
"""

from __future__ import annotations

import math

from verifiers.programs.cases import cases_of, function_tests
from verifiers.programs.checks import check_problem
from verifiers.programs.config import PythonTestsConfig
from verifiers.programs.test_code import as_program, wanted_names, with_calls
from verifiers.sandbox.kernel import Limits
from verifiers.sandbox.sandbox import Job, Sandbox
from verifiers.types import Problem, Trial, Verdict

__all__ = ["PythonTests", "check_problem", "job_of", "trials"]


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

        `too_large`: a value of its that does not fit through to its tests, so that nobody knows whether it is right.
        The answer is a digest of the program without layout, comments and docstrings. The score is the reward, or
        with `partial` the fraction of tests passed. Raises SandboxError or UnsupportedTestsError for what is no
        fault of the candidate's.
        """
        job = job_of(problem, completion, run_all=self._partial)
        outcome = self._sandbox.run(job, wall_s=self._timeout_s)
        if outcome.kind in ("timeout", "too_large"):
            return Verdict(score=-math.inf, reward=0.0, status=outcome.kind)
        if outcome.kind == "wrong_format":
            return Verdict(score=0.0, reward=0.0, status="wrong_format")
        reward = 1.0 if outcome.kind == "passed" else 0.0
        score = outcome.num_passed / job.num_tests if self._partial else reward
        return Verdict(score=score, reward=reward, answer=outcome.digest)

    def close(self) -> None:
        """End the sandbox."""
        self._sandbox.close()


def job_of(problem: Problem, completion: str, *, run_all: bool = False) -> Job:
    """The program of a completion, with the tests of its problem."""
    truth = problem.truth
    if "inputs" in truth:
        name = truth.get("fn_name")
        if not name:
            cases, compare = cases_of(truth), truth.get("compare") or "lines"
            return Job(
                program=completion, reading={"kind": "script"}, cases=cases, compare=compare, run_all=run_all
            )
        prelude, tests = function_tests(truth)
        reading = {"kind": "whole", "wanted": [name], "imports": True}
        return Job(
            program=completion, reading=reading, prelude=prelude, tests=tests, entry=name, run_all=run_all
        )
    if "entry_point" in truth:
        prompt, entry = truth["prompt"], truth["entry_point"]
        (test,) = with_calls((f"{truth['test']}\n\ncheck({entry})\n",))
        return Job(
            program=completion,
            reading={"kind": "continue", "wanted": [entry], "prompt": prompt},
            prelude=as_program(prompt),
            tests=(test,),
            entry=entry,
            run_all=run_all,
        )
    prelude = "\n".join(truth.get("test_imports") or ())
    sources = (
        truth.get("test_setup_code") or "",
        *truth["test_list"],
        *(truth.get("challenge_test_list") or ()),
    )
    setup, *run = with_calls(sources)
    return Job(
        program=completion,
        reading={"kind": "whole", "wanted": wanted_names(sources, prelude)},
        prelude=prelude,
        setup=setup,
        tests=tuple(run),
        run_all=run_all,
    )


def trials(problem: Problem) -> list[Trial]:
    """The solution that the data set gives, if it gives one; else an empty program, which shows that the tests run."""
    if problem.demonstration is not None:
        return [Trial(completion=problem.demonstration, is_right=True)]
    return [Trial(completion="", is_right=False)]
