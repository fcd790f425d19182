"""Groups of random tokens, for benchmarks in which only their lengths matter, and verdicts on groups. Imports neither
Ray nor vLLM.
"""

from __future__ import annotations

import numpy as np

from actors.types import Judgement, SampleGroup


def random_samples(
    number: int, *, samples: int, prompt: int, completion: int, vocabulary: int
) -> SampleGroup:
    """`samples` completions of one length on one prompt, of version 0, each token with a log-prob of -10."""
    rng = np.random.default_rng(number)
    num_tokens = samples * completion
    return SampleGroup(
        group=number,
        problem_id=str(number),
        workers=("rollout-0",) * samples,
        seed=number,
        prompt_token_ids=rng.integers(0, vocabulary, prompt).astype(np.int32),
        offsets=(np.arange(samples + 1) * completion).astype(np.int32),
        token_ids=rng.integers(0, vocabulary, num_tokens).astype(np.int32),
        logprobs=np.full(num_tokens, -10.0, np.float32),
        versions=np.zeros(num_tokens, np.int32),
        texts=("",) * samples,
        finish_reasons=("length",) * samples,
    )


def judged_by(rewards: np.ndarray) -> Judgement:
    """A verifier's verdicts whose scores are the rewards [n]; no answers, and no time taken."""
    n = len(rewards)
    return Judgement(
        scores=rewards,
        rewards=rewards,
        statuses=("ok",) * n,
        answers=(None,) * n,
        latencies_s=np.zeros(n, np.float32),
    )
