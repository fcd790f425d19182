"""Verdicts per second of the verifiers that ask a model, and how far a batch moves a score.

OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.reward_model > benchmarks/results/reward_model.json

The models have random weights, 3.5 million of them: only their sizes matter. Groups of 32 candidates of 16 to 128
tokens; a judgement has 32 tokens.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from actors.judge import Judge
from learner.sft import VOCABULARY, build_tokenizer
from verifiers.models.judge_config import JudgeConfig
from verifiers.models.reward_model import RewardModel
from verifiers.models.reward_model_config import RewardModelConfig
from verifiers.types import Problem, Verdict

GROUPS, SAMPLES, MIN_TOKENS, MAX_TOKENS = 8, 32, 16, 128
VOTES, JUDGEMENT_TOKENS = 4, 32
SIZE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.1,
}
PROBLEM = Problem(id="p", prompt="1 2 3 : 4 =")
TEMPLATE = "{prompt} {completion}"

Judging = Callable[[Problem, Sequence[str]], list[Verdict]]


def groups() -> list[list[str]]:
    rng = random.Random(0)
    return [
        [" ".join(rng.choices(VOCABULARY[2:], k=rng.randint(MIN_TOKENS, MAX_TOKENS))) for _ in range(SAMPLES)]
        for _ in range(GROUPS)
    ]


def time_groups(judge: Judging) -> dict[str, float]:
    """The first group warms up and is not counted."""
    first, *others = groups()
    judge(PROBLEM, first)
    seconds = []
    cpu_started = time.process_time()
    for group in others:
        started = time.perf_counter()
        judge(PROBLEM, group)
        seconds.append(time.perf_counter() - started)
    cpu_s = time.process_time() - cpu_started
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "verdicts_per_s": SAMPLES * len(seconds) / sum(seconds),
        "verdicts_per_cpu_s": SAMPLES * len(seconds) / cpu_s,
        "group_p50_s": cuts[49],
        "group_p95_s": cuts[94],
        "group_p99_s": cuts[98],
    }


def reward_model(path: str, **settings: Any) -> RewardModel:
    config = RewardModelConfig(model=path, input="text", template=TEMPLATE, output="logit", **settings)
    return RewardModel(config, timeout_s=1.0)


def logits(path: str, **settings: Any) -> list[float]:
    (group, *_) = groups()
    return [verdict.score for verdict in reward_model(path, **settings).verify_batch(PROBLEM, group)]


def largest_difference(ours: list[float], others: list[float]) -> float:
    return max(abs(x - y) for x, y in zip(ours, others, strict=True))


def write(model: Any, path: Path) -> str:
    model.save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return str(path)


def main() -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        classifier = write(
            LlamaForSequenceClassification(LlamaConfig(**(SIZE | {"num_labels": 1}))),
            Path(directory, "classifier"),
        )
        language_model = write(LlamaForCausalLM(LlamaConfig(**SIZE)), Path(directory, "language_model"))
        judge = Judge(
            JudgeConfig(
                model=language_model,
                votes=VOTES,
                max_tokens=JUDGEMENT_TOKENS,
                max_model_len=256,
                prompt_template=TEMPLATE,
                accept=r"\d",
                reject=r"[-+*/]",
            ),
            timeout_s=1.0,
        )
        judged = time_groups(judge.verify_batch)
        judge.close()
        by_batch = {
            str(batch_tokens): time_groups(reward_model(classifier, batch_tokens=batch_tokens).verify_batch)
            for batch_tokens in (1, 1024, 8192)
        }
        alone = logits(classifier, batch_tokens=1)
        together = logits(classifier)
        half = logits(classifier, dtype="bfloat16")
        half_alone = logits(classifier, dtype="bfloat16", batch_tokens=1)
    result = {
        "machine": f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS')} threads, torch {torch.__version__}",
        "load_average": os.getloadavg()[0],
        "reward_model_by_batch_tokens": by_batch,
        f"judge_{VOTES}_votes": judged | {"votes_per_s": VOTES * judged["verdicts_per_s"]},
        "largest_difference_of_a_logit": {
            "range_of_logits": [min(alone), max(alone)],
            "batch of 8192 positions against alone, float32": largest_difference(together, alone),
            "bfloat16 against float32": largest_difference(half, together),
            "bfloat16, batch against alone": largest_difference(half, half_alone),
        },
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
