"""The problems of a run, checked before it starts: every row that cannot be used is named at once.

A row is left out, up to `problems.max_invalid_rows` of a split, where no problem can be made of it, where its prompt
is too long, or where the verifier cannot judge its truth.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from actors.tokens import encode_prompts
from cluster.config.schema import RunConfig
from cluster.run.model_checks import why_beyond
from cluster.run.token_words import naming_unknown_words
from cluster.terminal.counting import counting
from verifiers.problems.loading import find_unjudgeable, read_problems
from verifiers.problems.rows import Split
from verifiers.truths import judge_truths
from verifiers.types import Problem

MAX_SLOW_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """Problems of a split that can be asked and judged, with the token ids of their prompts."""

    problems: list[Problem]
    prompts: list[tuple[int, ...]]


def take_in(config: RunConfig, split: Split, tokenizer: Any | None, *, judges_here: bool) -> Intake:
    """Load, check and encode the problems of a split; `judges_here`: this machine can run the verifiers.

    Without a tokenizer there are no prompts, and their length is not looked at.

    Raises ValueError, a line for each row, where more rows cannot be used than may be.
    """
    problems, invalid = read_problems(config.problems, split)
    faults = find_unjudgeable(problems, config.verifier)
    prompts: dict[str, tuple[int, ...]] = {}
    if tokenizer is not None:
        encoded, unfit = encode(config, problems, tokenizer)
        prompts = dict(zip([problem.id for problem in problems], encoded, strict=True))
        faults = unfit | faults
    if judges_here:
        with counting(f"judging {split} truths", len(problems)) as on_progress:
            judged = judge_truths([p for p in problems if p.id not in faults], config.verifier, on_progress)
        faults |= judged.faults
        tell_slow(list(judged.slow.values()), split)
    for problem in problems:
        if problem.id in faults:
            invalid.add(faults[problem.id])
    invalid.settle()
    fit = [problem for problem in problems if problem.id not in faults]
    if not fit:
        raise ValueError(f"no {split} problem is left of {invalid.num_rows} rows: give some that can be used")
    return Intake(problems=fit, prompts=[prompts[problem.id] for problem in fit] if prompts else [])


def encode(
    config: RunConfig, problems: Sequence[Problem], tokenizer: Any
) -> tuple[list[tuple[int, ...]], dict[str, str]]:
    """Token ids of all prompts, and by id, in one line, why a prompt cannot be asked."""
    with naming_unknown_words("a prompt", config):
        prompts = encode_prompts(tokenizer, problems, config.rollout.chat)
    beyond = why_beyond(config, tokenizer)
    unfit = {}
    for problem, prompt in zip(problems, prompts, strict=True):
        if why := why_prompt_unfit(config, problem, prompt) or beyond("the prompt", problem, prompt):
            unfit[problem.id] = why
    return prompts, unfit


def check_prompts(config: RunConfig, problems: Sequence[Problem], tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of all prompts. Raises ValueError, a line for each that leaves no room for a completion."""
    prompts, unfit = encode(config, problems, tokenizer)
    if unfit:
        raise ValueError("\n".join(unfit.values()))
    return prompts


def why_prompt_unfit(config: RunConfig, problem: Problem, prompt: Sequence[int]) -> str | None:
    """In one line; None where the prompt leaves room for the longest completion."""
    rollout = config.rollout
    room = rollout.max_model_len - rollout.max_tokens
    if 0 < len(prompt) <= room:
        return None
    return (
        f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, rollout.max_model_len = "
        f"{rollout.max_model_len} less rollout.max_tokens = {rollout.max_tokens} leaves {room}: raise the first, lower the "
        "second, or leave the row out with problems.max_invalid_rows"
    )


def tell_slow(slow: Sequence[str], split: str) -> None:
    """On standard error: these are no fault, but a right answer to them may be called a timeout."""
    if slow:
        more = f"\n  and {len(slow) - MAX_SLOW_SHOWN} more" if len(slow) > MAX_SLOW_SHOWN else ""
        print(
            f"bonfire: warning: {len(slow)} {split} truths are slow to judge, right answers to them may be called a "
            "timeout:\n  " + "\n  ".join(slow[:MAX_SLOW_SHOWN]) + more,
            file=sys.stderr,
        )
