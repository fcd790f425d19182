"""From a verifier's name to its functions. Imported by every verifier process: keep it light."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass

from verifiers import countdown, exact_match
from verifiers.types import CRASHED, STATUSES, Problem, Verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """One way to judge a candidate, and to say beforehand whether a problem can be judged at all."""

    verify: Callable[[Problem, str], Verdict]
    check_problem: Callable[[Problem], None] | None = None
    """Raises ValueError for a problem whose truth lacks what `verify` needs."""


VERIFIERS = {
    "countdown": Verifier(verify=countdown.verify, check_problem=countdown.check_problem),
    "exact_match": Verifier(verify=exact_match.verify, check_problem=exact_match.check_problem),
}


def resolve(name: str) -> Verifier:
    """The verifier of that name in VERIFIERS, or a function of the user's own as `package.module:function`.

    The function takes (Problem, str) and returns a Verdict, or a number that is score and reward; only
    in a Verdict can it name an `answer`, without which there is no majority vote.
    If its module has a function `check_problem`, that one vets the problems before a run.
    """
    if name in VERIFIERS:
        return VERIFIERS[name]
    module_name, colon, function_name = name.partition(":")
    if not (colon and module_name and function_name):
        known = ", ".join(VERIFIERS)
        raise ValueError(
            f"verifier.name = {name!r} is unknown: choose one of {known}, or name a function of your own "
            "as package.module:function"
        )
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ValueError(
            f"verifier.name = {name!r}: cannot import {module_name!r} ({error}): "
            "add the folder that holds it to PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(  # noqa: TRY004  a fault of the configuration, like the others
            f"verifier.name = {name!r}: {module.__file__ or module_name} has no function {function_name!r}: "
            "correct the part after the colon"
        )

    def verify(problem: Problem, completion: str) -> Verdict:
        return _to_verdict(function(problem, completion))

    return Verifier(verify=verify, check_problem=getattr(module, "check_problem", None))


def _to_verdict(result: object) -> Verdict:
    """What a user's function returned, as a legal verdict; anything else is the function's fault."""
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
