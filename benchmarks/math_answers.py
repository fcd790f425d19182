r"""The verifier `math`: its errors on the corpus, those of the library math-verify, and its speed.

OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.math_answers > benchmarks/results/math_answers.json

The corpus (tests/fixtures/math_corpus.jsonl) was judged by hand before anything was run on it; docs/math.md says how its
parts came about.

Speed: completions of about 700 characters, in a fresh process with empty caches. `math`: groups of 16 samples
that give at most 4 different answers, half of them right; 60 % of the problems have an integer for an answer,
15 % a fraction, 25 % one drawn from the other kinds of the corpus (an assumption about MATH, which cannot be
loaded here). `math_once`: the same with one sample a problem, so that no cache helps. `gsm8k`: groups with integers
behind "####". `corpus`: each pair once, the hardest mix. Verdicts per second of CPU time depend little on what
else runs here; those of wall time, on 1 and 2 processes, and the latencies depend on it wholly.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import platform
import random
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import math_verify
import numpy as np

from verifiers.math.config import MathConfig
from verifiers.math.verifier import MathVerifier, check_problem
from verifiers.types import Problem

CORPUS_PATH = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "math_corpus.jsonl"
JUDGEMENTS = 3200
BOXED = r"Hence the answer is $\boxed{%s}$."
REASONING = "We look at each case in turn, add what we have found and simplify: $a^2 + b^2 = c^2$.\n" * 8

Judgement = tuple[Problem, str]


def read_corpus() -> list[dict[str, Any]]:
    return [json.loads(line) for line in CORPUS_PATH.read_text().splitlines()]


def problem(answer: str) -> Problem:
    return Problem(id=answer, prompt="", truth={"answer": answer})


def count_errors(is_right: Callable[[str, str], bool]) -> dict[str, Any]:
    """False accepts and false rejects of the corpus by part, and by kind of answer where there are any."""
    counts: dict[str, Any] = {}
    by_kind: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    corpus = read_corpus()
    for part in sorted({pair["part"] for pair in corpus}):
        pairs = [pair for pair in corpus if pair["part"] == part]
        errors = [0, 0]
        for pair in pairs:
            if is_right(pair["gold"], pair["completion"]) != pair["equivalent"]:
                errors[pair["equivalent"]] += 1
                by_kind[pair["kind"]][pair["equivalent"]] += 1
        equivalent = sum(pair["equivalent"] for pair in pairs)
        counts[f"part_{part}"] = {
            "equivalent": equivalent,
            "false_rejects": errors[1],
            "different": len(pairs) - equivalent,
            "false_accepts": errors[0],
        }
    counts["false_accepts_and_rejects_by_kind"] = dict(by_kind)
    return counts


def library_alone(gold: str, completion: str) -> bool:
    """math-verify as its documentation uses it: what takes it more than its own 5 s is wrong.

    Without a limit one of the pairs keeps sympy's `solve` busy for more than ten minutes.
    """
    true, given = (math_verify.parse(text) for text in (rf"\boxed{{{gold}}}", completion))
    return math_verify.verify(true, given)


def groups(
    rng: random.Random, num_samples: int, form: str, share_of_integers: float, share_of_fractions: float
) -> list[Judgement]:
    """JUDGEMENTS in the order of a run, `num_samples` of each problem; `form` has a place for the answer."""
    others: dict[str, list[str]] = defaultdict(list)
    for pair in read_corpus():
        if pair["kind"] not in ("integer", "fraction", "extraction"):
            others[pair["kind"]].append(pair["gold"])
    judgements = []
    for _ in range(JUDGEMENTS // num_samples):
        kind = rng.random()
        if kind < share_of_integers:
            answers = [str(rng.randint(-20, 2000)) for _ in range(4)]
        elif kind < share_of_integers + share_of_fractions:
            answers = [rf"\frac{{{rng.randint(1, 40)}}}{{{rng.randint(2, 40)}}}" for _ in range(4)]
        else:
            same_kind = others[rng.choice(sorted(others))]
            answers = [rng.choice(same_kind) for _ in range(4)]
        truth = problem(answers[0])
        for _ in range(num_samples):
            answer = answers[0] if rng.random() < 0.5 else rng.choice(answers[1:])
            judgements.append((truth, REASONING + form % answer))
    return judgements


def judge_all(judgements: list[Judgement]) -> tuple[float, float, list[float]]:
    """Seconds of wall time and of CPU time for all, start-up aside, and wall seconds of each verdict."""
    verifier = MathVerifier(MathConfig(), timeout_s=2.0)
    latencies = []
    cpu_started = time.process_time()
    started = time.monotonic()
    for truth, completion in judgements:
        before = time.perf_counter()
        verifier.verify(truth, completion)
        latencies.append(time.perf_counter() - before)
    return time.monotonic() - started, time.process_time() - cpu_started, latencies


def speed(judgements: list[Judgement]) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        wall_s, cpu_s, latencies = pool.apply(judge_all, (judgements,))
    with context.Pool(2) as pool:
        both = pool.map(judge_all, [judgements, judgements], chunksize=1)
    p50, p95, p99 = 1e3 * np.percentile(latencies, [50, 95, 99])
    return {
        "verdicts": len(judgements),
        "verdicts_per_cpu_s": len(judgements) / cpu_s,
        "verdicts_per_s_1_process": len(judgements) / wall_s,
        "verdicts_per_s_2_processes": sum(len(judgements) / wall_s for wall_s, _, _ in both),
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
    }


def preflight_s(num_problems: int) -> float:
    """Seconds of CPU time to check so many problems before a run."""
    truths = [problem(pair["gold"]) for pair in read_corpus()]
    started = time.process_time()
    for index in range(num_problems):
        check_problem(truths[index % len(truths)])
    return time.process_time() - started


def main() -> None:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    verifier = MathVerifier(MathConfig(), timeout_s=2.0)
    rng = random.Random(0)
    corpus = [(problem(pair["gold"]), pair["completion"]) for pair in read_corpus()]
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "load_average": os.getloadavg()[0],
        "errors": count_errors(lambda gold, text: bool(verifier.verify(problem(gold), text).reward)),
        "errors_of_the_library_alone": count_errors(library_alone),
        "speed": {
            "math": speed(groups(rng, 16, BOXED, 0.60, 0.15)),
            "math_once": speed(groups(rng, 1, BOXED, 0.60, 0.15)[:400]),
            "gsm8k": speed(groups(rng, 16, "#### %s", 1.0, 0.0)),
            "corpus": speed(corpus),
        },
        "check_of_10000_problems_cpu_s": preflight_s(10_000),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
