"""From a verifier's name to the object that judges. Imported by every verifier process: keep it light."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verifiers.one_answer import with_one_answer
from verifiers.types import CRASHED, STATUSES, Problem, Trial, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where a verifier of ours is, and how its process must treat it."""

    path: str
    """package.module:attribute of a function, or of a class that is built once in every process."""
    settings: str | None = None
    """The class of its section of settings; None: it has none."""
    keeps_time: bool = False
    """Ends a candidate that takes too long by itself, so that its process need not be killed for it."""
    warm_spare: bool = False
    """Starts slowly: a second process waits, so that killing the first costs no more than the time limit."""
    one_answer: bool = False
    """Compares with one text or number, also where the truth's `answer` is published as a list."""
    memory_mib: int | None = None
    """Address space its process may have: a candidate that makes it want more is refused. None: no limit."""


# Paths, not modules: a process imports the one verifier it runs, and `judge` lies right of here, beside the engine.
VERIFIERS = {
    "countdown": Row(path="verifiers.countdown.puzzles:verify"),
    "countdown_steps": Row(path="verifiers.countdown.steps:verify"),
    "exact_match": Row(path="verifiers.exact_match:verify", one_answer=True),
    "math": Row(
        path="verifiers.math.verifier:MathVerifier",
        settings="verifiers.math.config:MathConfig",
        one_answer=True,
        warm_spare=True,
        memory_mib=2048,
    ),
    "python_tests": Row(
        path="verifiers.programs.python_tests:PythonTests",
        settings="verifiers.programs.config:PythonTestsConfig",
        keeps_time=True,
    ),
    "reward_model": Row(
        path="verifiers.models.reward_model:RewardModel",
        settings="verifiers.models.reward_model_config:RewardModelConfig",
    ),
    "judge": Row(path="actors.judge:Judge", settings="verifiers.models.judge_config:JudgeConfig"),
    "format": Row(path="verifiers.shape:Format", settings="verifiers.shape_config:FormatConfig"),
    "length": Row(path="verifiers.shape:Length", settings="verifiers.shape_config:LengthConfig"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """One way to judge: candidate by candidate, or a group at once. Exactly one of the two is there."""

    row: Row
    verify: Callable[[Problem, str], Verdict] | None = None
    verify_batch: Callable[[Problem, Sequence[str]], list[Verdict]] | None = None


def resolve(
    name: str,
    *,
    settings: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    timeout_s: float = math.inf,
) -> Verifier:
    """The verifier of that name in VERIFIERS, or the user's own function or class `package.module:name`.

    A user's function takes (Problem, str); a class is built with `options` as keyword arguments, and its
    instances are called like that function, or have a method `verify_batch(problem, completions)`. Either
    returns a Verdict, or a number that is score and reward, for each candidate; only in a Verdict can it
    name an `answer`, without which there is no majority vote.
    """
    row = VERIFIERS.get(name)
    if row is not None:
        target = _load(name, row.path)
        if isinstance(target, type):
            arguments = () if row.settings is None else (_load(name, row.settings)(**(settings or {})),)
            judge = target(*arguments, timeout_s=timeout_s)
            verify, verify_batch = getattr(judge, "verify", None), getattr(judge, "verify_batch", None)
        else:
            verify, verify_batch = target, None
        if row.one_answer and verify is not None:
            verify = _with_one_answer(verify)
        return Verifier(row=row, verify=verify, verify_batch=verify_batch)
    row = Row(path=name)
    judge = _load(name, row.path)
    if isinstance(judge, type):
        judge = _build(name, judge, options or {})
    elif options:
        raise ValueError(
            f"verifier.options.{name!r} has no effect: {name!r} is a function, and only a class takes options"
        )
    if callable(getattr(judge, "verify_batch", None)):

        def judge_batch(problem: Problem, completions: Sequence[str]) -> list[Verdict]:
            verdicts = [_to_verdict(result) for result in judge.verify_batch(problem, completions)]
            if len(verdicts) != len(completions):
                raise ValueError(
                    f"the verifier returned {len(verdicts)} verdicts on {len(completions)} candidates"
                )
            return verdicts

        return Verifier(row=row, verify_batch=judge_batch)
    if not callable(judge):
        raise ValueError(  # noqa: TRY004  a fault of the configuration, like the others
            f"verifier {name!r}: its instances cannot be called and have no method verify_batch: "
            "define __call__(self, problem, completion)"
        )

    return Verifier(row=row, verify=lambda problem, completion: _to_verdict(judge(problem, completion)))


def import_verifier(name: str) -> None:
    """Import the module that has it, and nothing more. Raises ValueError where there is none such."""
    _load(name, VERIFIERS.get(name, Row(path=name)).path)


def problem_check(name: str) -> Callable[[Problem], None] | None:
    """`check_problem` of the verifier's module: raises ValueError for a problem that `verify` could not judge."""
    row = VERIFIERS.get(name, Row(path=name))
    _load(name, row.path)
    check = getattr(importlib.import_module(row.path.partition(":")[0]), "check_problem", None)
    if check is None or not row.one_answer:
        return check
    return lambda problem: check(with_one_answer(problem))


def _with_one_answer(verify: Callable[[Problem, str], Verdict]) -> Callable[[Problem, str], Verdict]:
    return lambda problem, completion: verify(with_one_answer(problem), completion)


def trials_of(name: str) -> Callable[[Problem], Sequence[Trial]] | None:
    """`trials` of the verifier's module: completions of a problem by which it is tried before a run."""
    row = VERIFIERS.get(name, Row(path=name))
    _load(name, row.path)
    trials = getattr(importlib.import_module(row.path.partition(":")[0]), "trials", None)
    if trials is None or not row.one_answer:
        return trials
    return lambda problem: trials(with_one_answer(problem))


def _load(name: str, path: str) -> Any:
    """What `package.module:attribute` names; `name` is what the user called it."""
    module_name, colon, attribute = path.partition(":")
    if not (colon and module_name and attribute):
        from verifiers.section_config import did_you_mean  # pydantic, which no process that judges needs

        known = ", ".join(VERIFIERS)
        raise ValueError(
            f"verifier {name!r} is unknown{did_you_mean(name, VERIFIERS)}: choose one of {known}, or name a function or class of your own "
            "as package.module:name"
        )
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise ValueError(
            f"verifier {name!r}: {module_name!r} is no module's full name, or {attribute!r} no name in one: write "
            "package.module:name, as after import in Python"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError, ValueError) as error:  # ValueError: a null byte in the source, say
        raise ValueError(
            f"verifier {name!r}: cannot import {module_name!r} ({error}): "
            "add the folder that holds it to PYTHONPATH"
        ) from error
    target = getattr(module, attribute, None)
    if not callable(target):
        raise ValueError(  # noqa: TRY004  a fault of the configuration, like the others
            f"verifier {name!r}: {module.__file__ or module_name} has no function or class {attribute!r}: "
            "correct the part after the colon"
        )
    return target


def _build(name: str, target: type, options: Mapping[str, Any]) -> Any:
    try:
        return target(**options)
    except TypeError as error:
        raise ValueError(f"verifier {name!r}: {error}: correct [verifier.options.{name!r}]") from error


def _to_verdict(result: object) -> Verdict:
    """What a user's verifier returned, as a legal verdict; anything else is the verifier's fault."""
    if isinstance(result, Verdict):
        verdict = result
    else:
        try:
            value = float(result)  # type: ignore[arg-type]  # bool, int, float, numpy scalars
        except (TypeError, ValueError):
            raise TypeError(f"the verifier returned {result!r}, not a Verdict or a number") from None
        verdict = Verdict(score=value, reward=value)
    if verdict.status not in STATUSES:
        raise ValueError(f"the verifier returned status {verdict.status!r}, not one of {', '.join(STATUSES)}")
    if verdict.status == "crashed":
        return CRASHED
    if not isinstance(verdict.answer, str | None):
        raise TypeError(f"the verifier returned answer {verdict.answer!r}, not a text or None")
    score, reward = float(verdict.score), float(verdict.reward)  # numpy's, say, cannot be sent
    if not math.isfinite(reward):
        raise ValueError(f"the verifier returned reward {reward}, which is not finite")
    if math.isnan(score) or score == math.inf:
        raise ValueError(f"the verifier returned score {score}, neither finite nor -inf")
    return Verdict(score=score, reward=reward, status=verdict.status, answer=verdict.answer)
