"""What the learner's passes cost on a real model: time, sharing of prompts, parity, memory.

    .venv/bin/python -m benchmarks.learner MODEL > benchmarks/results/learner.json
    .venv/bin/python -m benchmarks.learner MODEL lengths sharing      # some of its parts

MODEL is a checkpoint with a Llama's usual sizes, such as SmolLM2-135M (`make real-model`, runs/smollm2). Everything is in
bfloat16 autocast as `examples/gsm8k_cpu.toml` has it; ratios are of alternating calls in one process.

lengths: positions/s of forward and backward over packed sequences of 512, 2,048 and 8,192 tokens, against
transformers' own causal attention (sdpa) over the same sequences, one at a time. sharing: a group of 16
samples of 100 tokens on a prompt of 300, with its prompt once and with a prompt for each. parity: its share
of the seconds and positions of a step in which 2 of 128 samples have a weight. memory: peak of the resident
set that a pass of 8,192 positions adds, blocks kept and recomputed. estimate: peak of a learner's process
over two steps against what `--dry-run` says of it, for three models. About 25 minutes on two cores.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from actors.heap import return_large_blocks
from actors.types import ScoredGroup
from benchmarks.demo_run import machine
from benchmarks.random_samples import judged_by, random_samples

VOCABULARY = 49_000
THREADS = 2


def group(
    number: int, samples: int, prompt: int, completion: int, *, weighted: int | None = None
) -> ScoredGroup:
    """Random tokens; `weighted` of the samples have a reward of one."""
    samples_of_group = random_samples(
        number, samples=samples, prompt=prompt, completion=completion, vocabulary=VOCABULARY
    )
    rewards = np.random.default_rng(number).random(samples)
    if weighted is not None:
        rewards = (np.arange(samples) < weighted).astype(float)
    return ScoredGroup.of(samples_of_group, judged_by(rewards))


class Passes:
    """Forward and backward passes of one model, by the learner and by transformers alone."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        from learner.model.causal_lm import load_model

        torch.set_num_threads(THREADS)
        self._torch = torch
        self.ours = load_model(model)
        self.theirs = AutoModelForCausalLM.from_pretrained(
            model, dtype=torch.float32, attn_implementation="sdpa"
        ).eval()

    def learner(self, groups: list[ScoredGroup], packing: str, *, recompute: bool = False) -> float:
        """Seconds."""
        from learner.model.logprobs import token_logprobs
        from learner.step.batch import collect, micro_batches

        sequences = collect([group.samples for group in groups])
        every = np.arange(sequences.num_samples)
        batches = list(micro_batches(sequences, every, 8192, packing))  # type: ignore[arg-type]
        started = time.perf_counter()
        for batch in batches:
            with self._autocast():
                logprobs_T = token_logprobs(self.ours, batch, 1.0, recompute=recompute)
            logprobs_T.sum().backward()
        seconds = time.perf_counter() - started
        self.ours.zero_grad()
        return seconds

    def transformers(self, groups: list[ScoredGroup]) -> float:
        """Seconds; the head on completion positions only, as the learner has it."""
        torch = self._torch
        started = time.perf_counter()
        for samples in (group.samples for group in groups):
            prompt = torch.from_numpy(samples.prompt_token_ids.astype(np.int64))
            for start, end in zip(samples.offsets[:-1], samples.offsets[1:], strict=True):
                completion = torch.from_numpy(samples.token_ids[start:end].astype(np.int64))
                ids = torch.cat([prompt, completion])[None, :-1]
                with self._autocast():
                    hidden = self.theirs.base_model(input_ids=ids, use_cache=False).last_hidden_state
                    logits = self.theirs.lm_head(hidden[0, len(prompt) - 1 :])
                    loss = torch.nn.functional.cross_entropy(logits.float(), completion, reduction="sum")
                loss.backward()
        seconds = time.perf_counter() - started
        self.theirs.zero_grad()
        return seconds

    def _autocast(self) -> Any:
        return self._torch.autocast("cpu", self._torch.bfloat16)


def alternating(rounds: int, calls: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Median seconds of each call."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call())
    return {name: statistics.median(values) for name, values in seconds.items()}


def lengths(model: str) -> Iterator[dict[str, Any]]:
    passes = Passes(model)
    for length in (512, 2048, 8192):
        groups = [group(number, 1, 12, length - 11) for number in range(max(1, 4096 // length))]
        passes.learner(groups, "packed")
        seconds = alternating(
            3,
            {
                "learner": partial(passes.learner, groups, "packed"),
                "transformers": partial(passes.transformers, groups),
            },
        )
        positions = len(groups) * length
        yield {
            "length": length,
            "sequences": len(groups),
            "learner_positions_per_s": positions / seconds["learner"],
            "transformers_positions_per_s": positions / seconds["transformers"],
            "ratio": seconds["transformers"] / seconds["learner"],
        }


def sharing(model: str) -> Iterator[dict[str, Any]]:
    passes = Passes(model)
    groups = [group(0, 16, 300, 100)]
    passes.learner(groups, "shared")
    seconds = alternating(
        5,
        {
            "shared": lambda: passes.learner(groups, "shared"),
            "packed": lambda: passes.learner(groups, "packed"),
            "transformers": lambda: passes.transformers(groups),
        },
    )
    yield {
        "samples": 16,
        "prompt": 300,
        "completion": 100,
        "seconds": seconds,
        "times_faster_than_unshared": seconds["packed"] / seconds["shared"],
        "times_faster_than_transformers": seconds["transformers"] / seconds["shared"],
        "positions_ratio": 16 * 399 / (300 + 16 * 99),
    }


def parity(model: str) -> Iterator[dict[str, Any]]:
    import torch

    from learner.config import LearnerConfig
    from learner.learner import Learner
    from learner.objectives.config import ObjectiveConfig

    torch.set_num_threads(THREADS)
    learner = Learner(
        model, LearnerConfig(dtype="bfloat16", learning_rate=1e-6), ObjectiveConfig(name="rft"), 1.0, seed=0
    )
    for step in range(5):
        groups = [group(8 * step + g, 16, 100, 200, weighted=2 if g == 0 else 0) for g in range(8)]
        facts = learner.train_step(groups).facts
        yield {
            "step": step,
            "parity_share_of_seconds": facts["parity_s"] / facts["step_s"],
            "parity_tokens": facts["parity_tokens"],
            "positions": facts["positions"],
            "step_s": facts["step_s"],
        }


def in_a_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns in a fresh process, whose memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def peak_bytes() -> int:
    """Largest resident set of this process, which `getrusage` would mix with its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024  # type: ignore[union-attr]


def peak_of_a_pass(model: str, positions: int, recompute: bool) -> int:
    """What a pass adds to a process that has made a short one."""
    return_large_blocks()  # as the learner's worker does
    passes = Passes(model)
    passes.theirs = None
    passes.learner([group(0, 1, 12, 20)], "packed")
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_bytes()
    passes.learner([group(0, 1, 12, positions - 11)], "packed", recompute=recompute)
    return peak_bytes() - before


def memory(model: str) -> Iterator[dict[str, Any]]:
    kept, recomputed = (in_a_process(peak_of_a_pass, model, 8192, recompute) for recompute in (False, True))
    yield {"positions": 8192, "kept_bytes": kept, "recomputed_bytes": recomputed, "ratio": recomputed / kept}


SIZES: dict[str, dict[str, Any]] = {
    "10M": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 8},
    "360M": {
        "hidden_size": 960,
        "intermediate_size": 2560,
        "num_hidden_layers": 32,
        "num_attention_heads": 15,
    },
}


def make_model(name: str, directory: Path) -> str:
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary = 8192 if name == "10M" else VOCABULARY
    sizes: dict[str, Any] = {
        **SIZES[name],
        "num_key_value_heads": SIZES[name]["num_attention_heads"] // 4 or 1,
    }
    if name == "360M":
        sizes["num_key_value_heads"] = 5
    config = LlamaConfig(
        vocab_size=vocabulary, max_position_embeddings=8192, tie_word_embeddings=True, **sizes
    )
    LlamaForCausalLM(config).save_pretrained(directory)
    return str(directory)


def run_config(model: str, dtype: str, micro_batch_tokens: int) -> Any:
    from cluster.config.schema import RunConfig

    return RunConfig.model_validate(
        {
            "model": model,
            "rollout": {"samples_per_prompt": 16, "max_model_len": 512, "max_tokens": 400, "dtype": dtype},
            "learner": {"dtype": dtype, "publish_dtype": dtype, "micro_batch_tokens": micro_batch_tokens},
            "objective": {"name": "rloo"},
            "train": {"groups_per_step": 1},
        }
    )


def peak_of_a_learner(model: str, dtype: str, micro_batch_tokens: int) -> int:
    """Peak of a process that makes a learner and takes two steps."""
    import torch

    from learner.learner import Learner

    torch.set_num_threads(THREADS)
    return_large_blocks()
    config = run_config(model, dtype, micro_batch_tokens)
    learner = Learner(model, config.learner, config.objective, 1.0, seed=0)
    vocabulary = learner._trainer.shape.vocabulary
    for step in range(2):  # AdamW's averages are there from the second on
        one = group(step, 16, 112, 400)
        one.samples.token_ids[:] %= vocabulary
        one.samples.prompt_token_ids[:] %= vocabulary
        learner.train_step([one])
    return peak_bytes()


def estimate(model: str) -> Iterator[dict[str, Any]]:
    from cluster.fleet.needs import largest_pass, learner_memory

    cases = [("10M", "float32", 8192), ("given", "bfloat16", 4096), ("360M", "bfloat16", 2048)]
    for name, dtype, micro_batch_tokens in cases:
        with tempfile.TemporaryDirectory() as directory:
            path = model if name == "given" else make_model(name, Path(directory))
            measured = in_a_process(peak_of_a_learner, path, dtype, micro_batch_tokens)
            config = run_config(path, dtype, micro_batch_tokens)
            estimated = learner_memory(config)
            yield {
                "model": name,
                "dtype": dtype,
                "micro_batch_tokens": micro_batch_tokens,
                "pass_estimated_bytes": largest_pass(config)[0],
                "measured_bytes": measured,
                "estimated_bytes": estimated,
                "ratio": estimated / measured,
            }


PARTS = {"lengths": lengths, "sharing": sharing, "parity": parity, "memory": memory, "estimate": estimate}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=[])
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(THREADS)
    found: dict[str, list[dict[str, Any]]] = {}
    for name in arguments.parts or PARTS:
        found[name] = []
        for row in PARTS[name](arguments.model):
            print(name, row, file=sys.stderr, flush=True)
            found[name].append(row)
    print(json.dumps({"machine": machine(), "threads": THREADS, **found}, indent=1))


if __name__ == "__main__":
    main()
