"""What the parity check sees of a real model: sound runs, and faults made on purpose, by precision.

A real chat model answers real GSM8K prompts (its chat template, T = 1, up to 200 tokens); the learner computes the
log-probs of the same tokens again. Policies further on are made by real optimizer steps. The faults: an engine that
still serves older weights than it says, that keeps its KV cache over an update, that samples at another temperature,
or in which one layer was not updated. Beside them, what `staleness_ratio` should read: the total variation of two
policies by float32 and what is left of it in bfloat16.

OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.parity MODEL GSM8K.jsonl > benchmarks/results/parity.json

MODEL is a checkpoint directory, GSM8K.jsonl the data set's own rows. About 20 minutes on 2 idle cores, 8 GB.

Shapes: `T` tokens of all samples of one case, end to end.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from actors.config import RolloutConfig
from actors.environment import engine_environment
from actors.types import Lease, Piece, SampleGroup, ScoredGroup
from benchmarks.random_samples import judged_by

PRECISIONS: tuple[Literal["bfloat16", "float32"], ...] = ("bfloat16", "float32")
NUM_PROMPTS, NUM_SAMPLES, MAX_TOKENS = 8, 4, 200
WINDOW = 256
STEPS: dict[str, dict[str, tuple[int, ...]]] = {
    "bfloat16": {"1e-6": (1, 4), "1e-5": (1, 4), "5e-5": (4,)},
    "float32": {"1e-6": (1,), "1e-5": (4,)},  # where the least of them shows
}
"""Learning rate -> after how many optimizer steps the policy is looked at; one group of samples a step."""
FAULTS_AFTER = ("1e-5", "5e-5")
TIMEOUT_S = 1200.0


class Bench:
    """One precision: an engine and learners of the same model, in this process."""

    def __init__(
        self, model: str, rows: list[dict[str, str]], precision: Literal["bfloat16", "float32"]
    ) -> None:
        from actors.engine import Engine
        from actors.tokens import load_tokenizer, stop_token_ids

        self.model, self.precision = model, precision
        self.config = RolloutConfig(
            samples_per_prompt=NUM_SAMPLES, max_tokens=MAX_TOKENS, max_model_len=512, max_num_seqs=64,
            kv_cache_mib=768, dtype=precision,
        )  # fmt: skip
        tokenizer = load_tokenizer(model)
        self.prompts = [
            tuple(
                tokenizer(
                    tokenizer.apply_chat_template(
                        [{"role": "user", "content": row["question"]}],
                        add_generation_prompt=True,
                        tokenize=False,
                    ),
                    add_special_tokens=False,
                ).input_ids
            )
            for row in rows
        ]
        self.engine = Engine(model, self.config, stop_token_ids=stop_token_ids(model, tokenizer))
        self.num_groups = 0
        self.cases: dict[str, dict[str, np.ndarray]] = {}

    @cached_property
    def exact(self) -> Any:
        """Computes in float32, whatever the weights are rounded to."""
        import torch

        from learner.model.causal_lm import load_model
        from learner.model.policy import Policy

        return Policy(
            load_model(self.model), torch.device("cpu"), 1.0, bfloat16=False, recompute=lambda _: False
        )

    def learner(self, rate: float, version: int) -> Any:
        from learner.config import LearnerConfig
        from learner.learner import Learner
        from learner.objectives.config import ObjectiveConfig

        config = LearnerConfig(
            learning_rate=rate, warmup_steps=0, dtype=self.precision, publish_dtype=self.precision,
            micro_batch_tokens=2048, parity_share=0.0, parity_versions=1,
        )  # fmt: skip
        return Learner(self.model, config, ObjectiveConfig(name="rloo"), 1.0, seed=0, version=version)

    def leases(self, prompts: int = NUM_PROMPTS, temperature: float | None = None) -> list[Lease]:
        leases = []
        for prompt in range(prompts):
            leases.append(
                Lease(
                    piece=Piece(self.num_groups, 0, NUM_SAMPLES), problem_id=str(prompt), prompt_token_ids=self.prompts[prompt],
                    seed=1000 * self.num_groups, temperature=temperature,
                )
            )  # fmt: skip
            self.num_groups += 1
        return leases

    def sample(self, leases: list[Lease], meanwhile: Callable[[], None] = lambda: None) -> list[SampleGroup]:
        """Groups whose `versions` are the engine's own count of updates."""
        futures = self.engine.sample(leases)
        meanwhile()
        groups = []
        for lease, future in zip(leases, futures, strict=True):
            completions = future.result(TIMEOUT_S)
            lengths = [len(one.token_ids) for one in completions]
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
            versions = np.zeros(offsets[-1], np.int32)
            for start, one in zip(offsets[:-1], completions, strict=True):
                for span in one.weight_versions:
                    versions[start + span.start : start + span.end] = int(span.version)
            groups.append(
                SampleGroup(
                    group=lease.piece.group, problem_id=lease.problem_id, seed=lease.seed,
                    workers=("engine",) * len(completions),
                    prompt_token_ids=np.array(lease.prompt_token_ids, np.int32), offsets=offsets,
                    token_ids=np.concatenate([one.token_ids for one in completions]).astype(np.int32),
                    logprobs=np.concatenate([one.logprobs.logprobs for one in completions]).astype(np.float32),
                    versions=versions, texts=tuple("" for _ in completions),
                    finish_reasons=tuple(one.finish_reason for one in completions),
                )
            )  # fmt: skip
        return groups

    def serve(self, weights: Weights, *, reset_cache: bool = True) -> int:
        """Have the engine load weights; without `reset_cache`, keep the KV of the weights before."""
        llm: Any = self.engine._llm
        version = self.engine.version + 1
        reset = llm.reset_prefix_cache
        if not reset_cache:
            llm.reset_prefix_cache = lambda **_: True
        try:
            self.engine.update_weights(version, weights.manifest, weights.buckets).result(TIMEOUT_S)
        finally:
            llm.reset_prefix_cache = reset
        return version

    def compare(
        self, case: str, learner: Any, groups: list[SampleGroup], weights: Weights, *,
        version: int | None = None, before: Weights | None = None,
    ) -> None:  # fmt: skip
        """Keep, under the case's name, log-probs of the learner with `weights` and of the engine: of one of the
        engine's versions, or all tokens. With `before`, also those of both weights in float32."""
        from learner.step.batch import collect

        sequences = collect(groups)
        batches = learner._trainer.share(sequences, np.arange(sequences.num_samples))
        ours = {"ours_T": learner._policy.logprobs_under(weights.named(), batches)}
        if before is not None:
            ours["exact_T"] = self.exact.logprobs_under(weights.named(), batches)
            ours["exact_before_T"] = self.exact.logprobs_under(before.named(), batches)
        pieces: dict[str, list[np.ndarray]] = {}
        for number, batch in enumerate(batches):
            kept = slice(None) if version is None else (batch.versions == version)
            of_batch = {name: logprobs[number] for name, logprobs in ours.items()}
            of_batch |= {"theirs_T": batch.behaviour_logprobs, "sequences_T": batch.sequence_ids}
            for name, values in of_batch.items():
                pieces.setdefault(name, []).append(values.numpy()[kept])
        self.cases[case] = {name: np.concatenate(arrays) for name, arrays in pieces.items()}
        print(f"{self.precision} {case}: {statistics(self.cases[case])}", file=sys.stderr, flush=True)


class Weights:
    """A published version, kept."""

    def __init__(self, manifest: Any, buckets: Sequence[np.ndarray]) -> None:
        self.manifest, self.buckets = manifest, tuple(bucket.copy() for bucket in buckets)

    @classmethod
    def of(cls, learner: Any) -> Weights:
        return cls(learner.manifest, learner.published.buckets)

    def named(self) -> dict[str, Any]:
        from actors.weights.manifest import views

        return dict(views(self.manifest, self.buckets))

    def without(self, other: Weights, part: str) -> Weights:
        """These, but with the other's tensors where the name has `part`."""
        mixed, theirs = Weights(self.manifest, self.buckets), other.named()
        for name, view in mixed.named().items():
            if part in name:
                view.copy_(theirs[name])
        return mixed


def scored(groups: list[SampleGroup]) -> list[ScoredGroup]:
    """Rewarded for being short: a reward that every group has some of, so that every step has a gradient."""
    scored_groups = []
    for group in groups:
        rewards = -np.diff(group.offsets) / MAX_TOKENS + 0.01 * np.arange(group.num_samples)
        scored_groups.append(ScoredGroup.of(group, judged_by(rewards)))
    return scored_groups


def statistics(case: dict[str, np.ndarray]) -> dict[str, float]:
    """What a parity check could judge by."""
    log_ratios_T = case["ours_T"].astype(np.float64) - case["theirs_T"]
    return {
        "tokens": len(log_ratios_T),
        "mean": float(np.abs(log_ratios_T).mean()),
        "k3_kl": float(k3(log_ratios_T).mean()),
        "max": float(np.abs(log_ratios_T).max()),
        "mean_of_worst_window": worst(np.abs(log_ratios_T)),
        "k3_kl_of_worst_window": worst(k3(log_ratios_T)),
    }


def k3(log_ratios_T: np.ndarray) -> np.ndarray:
    return np.expm1(log_ratios_T) - log_ratios_T


def worst(values_T: np.ndarray) -> float:
    """Largest mean of WINDOW tokens one after the other."""
    return float(np.convolve(values_T, np.ones(WINDOW) / WINDOW, "valid").max())


def dependence(case: dict[str, np.ndarray]) -> dict[str, float]:
    """Whether rounding of tokens adds up within a sequence: 1 and 0 where it does not."""
    sequences_T, deviations_T = (
        case["sequences_T"],
        np.expm1(case["ours_T"].astype(np.float64) - case["theirs_T"]),
    )
    sums = np.bincount(sequences_T, weights=deviations_T)
    same = sequences_T[1:] == sequences_T[:-1]
    return {
        "variance_of_sum_over_sum_of_variances": float((sums**2).sum() / (deviations_T**2).sum()),
        "correlation_of_neighbours": float(
            np.corrcoef(deviations_T[1:][same], deviations_T[:-1][same])[0, 1]
        ),
    }


def shift(case: dict[str, np.ndarray], sound: dict[str, np.ndarray]) -> dict[str, float]:
    """How far the policy has moved from the one that sampled, by float32 and as bfloat16 shows it."""
    exact_T = case["exact_T"].astype(np.float64) - case["exact_before_T"]
    both_T = case["ours_T"].astype(np.float64) - case["theirs_T"]
    rounding = k3(sound["ours_T"].astype(np.float64) - sound["theirs_T"]).mean()
    num_sequences = len(np.unique(case["sequences_T"]))

    def of_normal(kl: float) -> float:
        return math.erf(math.sqrt(max(0.0, kl)) / 2)

    def sampled(log_ratios_T: np.ndarray) -> float:
        sums = np.bincount(case["sequences_T"], weights=log_ratios_T)
        return float(np.abs(np.expm1(np.minimum(sums, 20))).sum() / num_sequences / 2)

    tokens = len(exact_T) / num_sequences
    return {
        "total_variation": sampled(exact_T),
        "of_normal_log_ratios": of_normal(tokens * k3(exact_T).mean()),
        "in_bfloat16": of_normal(tokens * (k3(both_T).mean() - rounding)),
        "in_bfloat16_with_rounding": of_normal(tokens * k3(both_T).mean()),
        "sampled_in_bfloat16_with_rounding": sampled(both_T),
    }


def measure(model: str, data: str, precision: Literal["bfloat16", "float32"], out: str) -> None:
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()[: 2 * NUM_PROMPTS]]
    bench = Bench(model, rows, precision)
    learner = bench.learner(1e-6, version=0)
    base = Weights.of(learner)
    samples = bench.sample(bench.leases(2 * NUM_PROMPTS))
    # Policies are trained on the first half: on samples they were trained on they say other things than on others.
    learned_from, others = samples[:NUM_PROMPTS], samples[NUM_PROMPTS:]
    bench.compare("sound", learner, others, base)
    for temperature in (0.9, 0.95):
        groups = bench.sample(bench.leases(temperature=temperature))
        bench.compare(f"temperature {temperature} taken for 1", learner, groups, base)
    for number, (rate, counts) in enumerate(STEPS[precision].items()):
        del learner
        gc.collect()  # two learners at a time are gigabytes
        learner = bench.learner(float(rate), version=100 * number)
        for step in range(1, max(counts) + 1):
            learner.train_step(scored(learned_from[step - 1 : step]))
            if step not in counts:
                continue
            name, weights = f"{step} x {rate}", Weights.of(learner)
            before = base if precision == "bfloat16" else None
            bench.compare(f"stale weights, {name}", learner, others, weights, before=before)
        bench.serve(weights)
        bench.compare(f"sound after {name}", learner, bench.sample(bench.leases()), weights)
        if rate not in FAULTS_AFTER:
            continue
        bench.serve(weights.without(base, ".layers.15."))
        bench.compare(f"layer 15 not updated, {name}", learner, bench.sample(bench.leases()), weights)
        bench.serve(base)
        bench.sample(bench.leases())
        bench.serve(weights, reset_cache=False)
        bench.compare(f"KV of prompts kept, {name}", learner, bench.sample(bench.leases()), weights)
        bench.serve(base)
        updated: list[int] = []

        def update(weights: Weights = weights, updated: list[int] = updated) -> None:
            """In the midst of sampling."""
            begun_s = bench.engine.clock.busy_s
            while bench.engine.clock.busy_s < begun_s + 5:
                time.sleep(0.01)
            updated.append(bench.serve(weights, reset_cache=False))

        groups = bench.sample(bench.leases(), update)
        bench.compare(f"KV in flight kept, {name}", learner, groups, weights, version=updated[0])
    bench.engine.shutdown()
    cases = bench.cases
    result: dict[str, Any] = {"cases": {case: statistics(arrays) for case, arrays in cases.items()}}
    result["dependence"] = {case: dependence(arrays) for case, arrays in cases.items() if "sound" in case}
    shifts = {case: shift(arrays, cases["sound"]) for case, arrays in cases.items() if "exact_T" in arrays}
    if shifts:
        result["shift_of_sequences"] = shifts
    Path(out).write_text(json.dumps(result))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", help="checkpoint directory")
    parser.add_argument("data", help="GSM8K's rows as JSON lines")
    arguments = parser.parse_args()
    context = multiprocessing.get_context("spawn")  # an engine a process
    results: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.processor()}",
        "prompts": NUM_PROMPTS,
    }
    with tempfile.TemporaryDirectory() as folder:
        for precision in PRECISIONS:
            out = f"{folder}/{precision}.json"
            process = context.Process(target=measure, args=(arguments.model, arguments.data, precision, out))
            process.start()
            process.join()
            results[precision] = json.loads(Path(out).read_text())
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    os.environ.update(engine_environment(RolloutConfig()))
    main()
