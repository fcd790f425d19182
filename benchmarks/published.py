"""Published data sets judged whole: how many canonical answers are right, in how many spellings, and how fast.

    python -m benchmarks.published gsm8k=gsm8k_train.jsonl humaneval=HumanEval.jsonl.gz \\
        "svamp=svamp.jsonl prompt_template={prompt}\\n{Question} prompt_field=Body truth_fields.answer=Answer"

Each argument is NAME=PATH, a format's name or any, and settings of [problems] for rows of another layout. Of numbers
and formulae the truth is spelled in every way of SPELLINGS and put where an answer may stand; of programs the canonical
solution is fenced and unfenced, and three programs that solve nothing are counted as false accepts.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from benchmarks.demo_run import machine
from verifiers.config import VerifierConfig
from verifiers.problems.config import ProblemsConfig
from verifiers.problems.formats import FORMATS
from verifiers.problems.loading import load_problems
from verifiers.process.killable import VerifierProcess
from verifiers.types import Problem

Spell = Callable[[Problem], str | None]
"""A completion; None where the problem cannot be spelled so."""


def _answer(problem: Problem) -> str:
    return str(problem.truth["answer"])


def _number(write: Callable[[Fraction], str]) -> Spell:
    """Of whole numbers only."""

    def spell(problem: Problem) -> str | None:
        try:
            value = Fraction(_answer(problem).replace(",", ""))
        except ValueError:
            return None
        return write(value) if value.denominator == 1 else None

    return spell


ANSWERS: Mapping[str, Spell] = {
    "the data set's own solution": lambda problem: problem.demonstration,
    "in a box": lambda problem: rf"So it is \boxed{{{_answer(problem)}}}.",
    "behind ####": _number(lambda value: f"Step by step.\n#### {value}"),
    "in a sentence": _number(lambda value: f"Therefore the answer is {value}."),
    "bold": _number(lambda value: f"**Answer:** {value}"),
    "in <answer>": _number(lambda value: f"<think>2 + 2</think><answer>{value}</answer>"),
    "in dollars": _number(lambda value: rf"\boxed{{\${value}}}"),
    "with .00": _number(lambda value: rf"\boxed{{{value}.00}}"),
    "with thousands": _number(lambda value: rf"\boxed{{{int(value):,}}}"),
}
WRONG_ANSWERS: Mapping[str, Spell] = {
    "one more": _number(lambda value: rf"\boxed{{{value + 1}}}"),
    "a digit more": _number(lambda value: rf"\boxed{{{value}7}}"),
    "nothing": lambda problem: "I do not know.",
}


def _whole(problem: Problem) -> str | None:
    """A whole program: of HumanEval the prompt is its beginning."""
    code = problem.demonstration
    return None if code is None else str(problem.truth.get("prompt", "")) + code


def _around(before: str, after: str) -> Spell:
    def spell(problem: Problem) -> str | None:
        code = _whole(problem)
        return None if code is None else f"{before}{code}{after}"

    return spell


PROGRAMS: Mapping[str, Spell] = {
    "the data set's own solution": lambda problem: problem.demonstration,
    "whole": _whole,
    "fenced": _around("Here it is:\n```python\n", "\n```\nIt works as follows.\n"),
    "only a closing fence": _around("", "\n```\n"),
    "with CRLF": lambda problem: (code := _whole(problem)) and code.replace("\n", "\r\n"),
}
WRONG_PROGRAMS: Mapping[str, Spell] = {
    "empty": lambda problem: "",
    "pass": lambda problem: "    pass\n",
    "return None": lambda problem: "    return None\n",
}


def rows(name: str, settings: Mapping[str, Any], verifier: str) -> dict[str, Any]:
    """Counts of one data set."""
    kind = name if name in FORMATS else "rows"
    problems = load_problems(
        ProblemsConfig.model_validate({"source": "files", "format": kind, **settings}), "train"
    )
    is_program = verifier == "python_tests"
    right = counts(problems, PROGRAMS if is_program else ANSWERS, verifier)
    wrong = counts(problems, WRONG_PROGRAMS if is_program else WRONG_ANSWERS, verifier)
    return {"name": name, "verifier": verifier, "problems": len(problems), "right": right, "wrong": wrong}


def counts(problems: Sequence[Problem], spellings: Mapping[str, Spell], verifier: str) -> dict[str, Any]:
    """By spelling: how many were judged, how many got 1, verdicts a second, and the first that got the other."""
    process = VerifierProcess(VerifierConfig(reward=verifier, timeout_s=10.0), verifier)
    found = {}
    try:
        for name, spell in spellings.items():
            spelled = [(problem, text) for problem in problems if (text := spell(problem)) is not None]
            started = time.perf_counter()
            verdicts = [process.judge(problem, [text])[0] for problem, text in spelled]
            seconds = time.perf_counter() - started
            others = [
                p.id for (p, _), verdict in zip(spelled, verdicts, strict=True) if verdict.reward != 1.0
            ]
            found[name] = {
                "judged": len(verdicts),
                "accepted": len(verdicts) - len(others),
                "verdicts_per_s": round(len(verdicts) / seconds, 1) if seconds else None,
                "not_accepted": others[:10] if spellings in (ANSWERS, PROGRAMS) else [],
            }
    finally:
        process.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="NAME=PATH [SETTING=VALUE ...]")
    parser.add_argument("--verifier", default=None, help="None: python_tests for programs, else math")
    arguments = parser.parse_args()
    found = []
    for text in arguments.data:
        first, *others = text.split(" ")
        name, _, path = first.partition("=")
        settings: dict[str, Any] = {"train_path": path}
        for other in others:
            key, _, value = other.partition("=")
            section, dot, field = key.partition(".")
            if dot:
                settings.setdefault(section, {})[field] = value
            else:
                settings[key] = value.encode().decode("unicode_escape")
        is_program = name in ("humaneval", "mbpp", "apps", "livecodebench", "code_contests")
        verifier = arguments.verifier or ("python_tests" if is_program else "math")
        found.append(rows(name, settings, verifier))
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    print(json.dumps({"machine": machine(), "data": found}, indent=1))


if __name__ == "__main__":
    main()
