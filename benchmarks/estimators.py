"""Time of the weights of Best-of-N and of the majority vote, on one core, against a step of the demo's learner.

The majority vote's are timed on all cores, too.

    .venv/bin/python -m benchmarks.estimators runs/countdown-base > benchmarks/results/estimators.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from actors.types import SampleGroup, ScoredGroup
from benchmarks.random_samples import judged_by
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from learner.objectives.estimators import bon_weights
from learner.objectives.vote import majority_weights

GROUPS, SAMPLES, PROMPT_TOKENS, COMPLETION_TOKENS = 32, 32, 7, 9


def median_ms(function: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(1e3 * (time.perf_counter() - started))
    return statistics.median(times)


def drawn_answers(num_prompts: int, num_samples: int, num_answers: int, concentration: float) -> torch.Tensor:
    """[B, N] answers of prompts with shares from a Dirichlet distribution, one of twenty samples without any."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(num_prompts):
        shares = random.dirichlet(np.full(num_answers, concentration))
        drawn = random.choice(num_answers, num_samples, p=shares)
        _, numbers = np.unique(drawn, return_inverse=True)
        rows.append(np.where(random.random(num_samples) < 0.05, -1, numbers))
    return torch.from_numpy(np.stack(rows))


def groups_with(success_rate: float, seed: int) -> list[ScoredGroup]:
    """A batch of the demo's size with random tokens; behaviour log-probs only have to be plausible."""
    random = np.random.default_rng(seed)
    batch = []
    for number in range(GROUPS):
        num_tokens = SAMPLES * COMPLETION_TOKENS
        samples = SampleGroup(
            group=number,
            problem_id=str(number),
            workers=("none",) * SAMPLES,
            seed=0,
            prompt_token_ids=random.integers(10, 100, PROMPT_TOKENS).astype(np.int32),
            offsets=np.arange(0, num_tokens + 1, COMPLETION_TOKENS, dtype=np.int32),
            token_ids=random.integers(10, 100, num_tokens).astype(np.int32),
            logprobs=np.full(num_tokens, -4.6, np.float32),
            versions=np.zeros(num_tokens, np.int32),
            texts=("",) * SAMPLES,
            finish_reasons=("stop",) * SAMPLES,
        )
        rewards = (random.random(SAMPLES) < success_rate).astype(np.float64)
        batch.append(ScoredGroup.of(samples, judged_by(rewards)))
    return batch


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="the demo's base model, e.g. runs/countdown-base")
    arguments = parser.parse_args()
    all_cores = torch.get_num_threads()
    torch.set_num_threads(1)

    def weights(num_prompts: int, num_samples: int) -> float:
        scores = torch.rand(num_prompts, num_samples, dtype=torch.float64)
        return median_ms(lambda: bon_weights(scores, scores, 16), repeats=30)

    def vote_weights(num_samples: int, k: int, answers: tuple[int, float]) -> list[float]:
        """With one thread, and with all."""
        answers_BN = drawn_answers(1024, num_samples, *answers)
        rewards_BN = (answers_BN == 0).double()
        majority_weights(answers_BN, rewards_BN, k)  # compiles its loops
        times = []
        for num_threads in (1, all_cores):
            torch.set_num_threads(num_threads)
            times.append(median_ms(lambda: majority_weights(answers_BN, rewards_BN, k), repeats=15))
        torch.set_num_threads(1)
        return times

    objective = ObjectiveConfig(name="bon", num_select=16)
    learner = Learner(arguments.model, LearnerConfig(), objective, temperature=1.0, seed=0)
    batch = groups_with(0.14, seed=0)
    result = {
        "machine": f"{platform.machine()}, {all_cores} cores, torch {torch.__version__}",
        "threads": {"majority_weights_ms": [1, all_cores], "others": 1},
        "bon_weights_ms": {
            "B=1024, n=64": weights(1024, 64),
            "B=32, n=32 (the demo)": weights(GROUPS, SAMPLES),
        },
        "majority_weights_ms": {
            f"B=1024, n={n}, k={k}, {kind} answers": vote_weights(n, k, answers)
            for kind, answers in (
                ("about 5", (5, 1.0)),
                ("about 12", (20, 0.3)),
                ("about 57", (200, 0.3)),
                ("about 108", (1000, 1.0)),
            )
            for n, k in ((16, 8), (32, 16), (128, 8), (128, 16), (128, 64))
        },
        "learner_step_ms": {
            "demo batch, 14 % successes": median_ms(lambda: learner.train_step(batch), repeats=10)
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
