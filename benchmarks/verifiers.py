"""Every verifier as a run has it, behind its killable process: verdicts/s and latency of one worker and of two.

.venv/bin/python -m benchmarks.verifiers > benchmarks/results/verifiers.json

A worker is a process with a `Panel`, as the Ray actor is; two of them work side by side on groups of 32 candidates
of their own. Candidates: `countdown` and `countdown_steps` expressions of the demo's kind, a third of them right;
`exact_match` short texts; `math` completions of about 700 characters, two samples of a problem giving the same
answer more often than not; `python_tests` four programs of HumanEval's size, again and again; `reward_model` and
`judge` a Llama of 3.5 million random weights on 16 to 128 tokens, 4 votes of 32 tokens each. The first group of a
worker warms it up and is not counted.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import os
import platform
import random
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from benchmarks import math_answers, reward_model, sandbox
from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.countdown.puzzles import demonstrations, generate_problems
from verifiers.countdown.steps import SPELLINGS
from verifiers.types import Problem

SAMPLES = 32
SECONDS = 6.0
GROUPS_PER_ROUND = 20

Group = tuple[Problem, list[str]]


def countdown_groups(notation: str) -> list[Group]:
    """Demonstrations of other problems, and some of each problem's own."""
    problems = generate_problems(GROUPS_PER_ROUND, 0, held_out=False, spell=SPELLINGS[notation])
    others = [text for _, text in itertools.islice(demonstrations(1000, 0, spell=SPELLINGS[notation]), 1000)]
    rng = random.Random(0)
    groups = []
    for problem in problems:
        own = problem.demonstration
        assert own is not None
        groups.append(
            (problem, [own if rng.random() < 1 / 3 else rng.choice(others) for _ in range(SAMPLES)])
        )
    return groups


def exact_match_groups() -> list[Group]:
    rng = random.Random(0)
    answers = [str(rng.randint(0, 9)) for _ in range(GROUPS_PER_ROUND)]
    return [
        (
            Problem(id=str(index), prompt="", truth={"answer": answer}),
            [f" {rng.randint(0, 9)}\n" for _ in range(SAMPLES)],
        )
        for index, answer in enumerate(answers)
    ]


def math_groups() -> list[Group]:
    judgements = math_answers.groups(random.Random(0), SAMPLES, math_answers.BOXED, 0.60, 0.15)
    return [
        (judgements[start][0], [text for _, text in judgements[start : start + SAMPLES]])
        for start in range(0, len(judgements), SAMPLES)
    ]


def python_groups() -> list[Group]:
    programs = list(itertools.islice(itertools.cycle(sandbox.CANDIDATES), SAMPLES))
    return [(sandbox.PROBLEM, programs)]


def model_groups() -> list[Group]:
    return [(reward_model.PROBLEM, texts) for texts in reward_model.groups()]


def work(settings: dict[str, Any], groups: Sequence[Group], start: Any, results: Any) -> None:
    """Judge for SECONDS, once everybody is ready; puts verdicts/s, group seconds and candidate seconds."""
    group_s: list[float] = []
    candidate_s: list[float] = []
    with Panel(VerifierConfig.model_validate(settings)) as panel:
        first, texts = groups[0]
        statuses = {verdict.status for verdict in panel.judge(first, texts)}
        assert "crashed" not in statuses, panel.last_error
        start.wait()
        began = time.monotonic()
        for problem, candidates in itertools.cycle(groups):
            before = time.monotonic()
            verdicts = panel.judge(problem, candidates)
            group_s.append(time.monotonic() - before)
            candidate_s += [verdict.latency_s for verdict in verdicts]
            if time.monotonic() - began > SECONDS:
                break
        elapsed_s = time.monotonic() - began
    results.put((len(candidate_s) / elapsed_s, group_s, candidate_s))


def measure(settings: dict[str, Any], groups: Sequence[Group], num_workers: int) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(num_workers), context.Queue()
    workers = [
        context.Process(target=work, args=(settings, groups, start, results)) for _ in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    threading.Thread(target=_abort_with_the_first_that_dies, args=(workers, start), daemon=True).start()
    parts = [results.get(timeout=300) for _ in workers]
    for worker in workers:
        worker.join()
    return {
        "verdicts_per_s": round(sum(rate for rate, _, _ in parts), 1),
        "group_ms": _percentiles([seconds for _, group_s, _ in parts for seconds in group_s]),
        "candidate_ms": _percentiles([seconds for _, _, candidate_s in parts for seconds in candidate_s]),
    }


def _abort_with_the_first_that_dies(workers: Sequence[Any], start: Any) -> None:
    while any(worker.is_alive() for worker in workers):
        if any(worker.exitcode for worker in workers):
            start.abort()
        time.sleep(0.2)


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    return {f"p{percent}": float(f"{1e3 * np.percentile(seconds, percent):.3g}") for percent in (50, 95, 99)}


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # what Ray gives a worker that reserves no CPU
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        size = LlamaConfig(**reward_model.SIZE)
        causal = reward_model.write(LlamaForCausalLM(size), Path(directory, "causal"))
        size.num_labels = 1
        classifier = reward_model.write(LlamaForSequenceClassification(size), Path(directory, "classifier"))
        text = {"template": reward_model.TEMPLATE, "input": "text"}
        judge = {
            "model": causal,
            "votes": reward_model.VOTES,
            "max_tokens": reward_model.JUDGEMENT_TOKENS,
            "max_model_len": 256,
            "prompt_template": reward_model.TEMPLATE,
            "accept": r"\d",
            "reject": r"[-+*/]",
        }
        cases: dict[str, tuple[dict[str, Any], list[Group]]] = {
            "countdown": ({}, countdown_groups("expression")),
            "countdown_steps": ({}, countdown_groups("steps")),
            "exact_match": ({}, exact_match_groups()),
            "math": ({}, math_groups()),
            "python_tests": ({}, python_groups()),
            "reward_model": ({"reward_model": {"model": classifier, **text}}, model_groups()),
            "judge": ({"judge": judge}, model_groups()),
        }
        load = os.getloadavg()[0]
        measured = {
            name: {
                f"{num_workers}_workers": measure(
                    {"reward": name, "timeout_s": 30.0, **settings}, groups, num_workers
                )
                for num_workers in (1, 2)
            }
            for name, (settings, groups) in cases.items()
        }
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"1 thread a model, load {load:.1f} at the start",
        "samples_per_group": SAMPLES,
        **measured,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
