"""The learner's passes on one GPU: how much of its arithmetic they use, by which kernel, and how exact they are.

    .venv/bin/python -m benchmarks.learner_gpu > benchmarks/results/learner_gpu.json     # under 8 minutes
    .venv/bin/python -m benchmarks.learner_gpu --tiny                                    # on a CPU, to try the script

Imports neither Ray nor vLLM. The model is a random Llama of 1.2 billion parameters in float32 with bfloat16
autocast. mfu: model FLOPs (6 a parameter and token, and attention's) over seconds and `--peak-tflops`, at
4,096 and 16,384 positions, as one sequence and as four, blocks kept and recomputed. kernels: attention
alone, forward and backward, by varlen, flex and a dense mask. sharing: 16 samples of 512 tokens on a prompt
of 1,024, with its prompt once and with a prompt for each. parity: log-probs in bfloat16 autocast against the
same weights in float64, a shorter model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.random_samples import random_samples
from learner.model import attention
from learner.model.gpu_attention import by_flex, by_varlen
from learner.model.logprobs import token_logprobs
from learner.model.tiled_attention import Settings
from learner.step.batch import PackedBatch, collect, micro_batches
from learner.step.layout import NONE, Layout
from learner.types import Packing


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large everything is."""

    device: str
    layers: int
    hidden: int
    heads: int
    positions: tuple[int, ...]
    prompt: int
    completion: int
    vocabulary: int


FULL = Scale(
    device="cuda",
    layers=16,
    hidden=2048,
    heads=32,
    positions=(4096, 16384),
    prompt=1024,
    completion=512,
    vocabulary=128_000,
)
TINY = Scale(
    device="cpu",
    layers=2,
    hidden=128,
    heads=4,
    positions=(128, 256),
    prompt=64,
    completion=16,
    vocabulary=512,
)


def make_model(scale: Scale, layers: int | None = None) -> Any:
    torch.manual_seed(0)
    with torch.device(scale.device):
        policy = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=scale.vocabulary,
                hidden_size=scale.hidden,
                intermediate_size=4 * scale.hidden,
                num_hidden_layers=layers or scale.layers,
                num_attention_heads=scale.heads,
                num_key_value_heads=scale.heads // 4,
                max_position_embeddings=65536,
                tie_word_embeddings=True,
            )
        )
    policy.set_attn_implementation(attention.NAME)
    return policy.eval()


def batch_of(scale: Scale, samples: int, prompt: int, completion: int, packing: Packing) -> PackedBatch:
    """One micro-batch of a group of random tokens."""
    group = random_samples(
        0, samples=samples, prompt=prompt, completion=completion, vocabulary=scale.vocabulary
    )
    (batch,) = micro_batches(collect([group]), np.arange(samples), 2**30, packing)
    return batch.to(torch.device(scale.device))


def seconds_of(call: Callable[[], Any], device: str, rounds: int = 5) -> float:
    """Median, after one call that compiles."""
    found = []
    for _ in range(rounds + 1):
        if device == "cuda":
            torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return float(np.median(found[1:]))


def a_pass(policy: Any, batch: PackedBatch, device: str, recompute: bool = False) -> Callable[[], None]:
    def call() -> None:
        with torch.autocast(device, torch.bfloat16):
            logprobs_T = token_logprobs(policy, batch, 1.0, recompute=recompute)
        logprobs_T.sum().backward()
        policy.zero_grad()

    return call


def mfu(scale: Scale, peak_tflops: float) -> Iterator[dict[str, Any]]:
    policy = make_model(scale)
    num_parameters = sum(parameter.numel() for parameter in policy.parameters())
    for positions in scale.positions:
        for sequences in (1, 4):
            length = positions // sequences
            batch = batch_of(scale, sequences, 16, length - 15, "packed")
            attended = sequences * length**2 / 2
            flops = 6 * num_parameters * positions + 12 * scale.layers * scale.hidden * attended
            for recompute in (False, True):
                if scale.device == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                seconds = seconds_of(a_pass(policy, batch, scale.device, recompute), scale.device, rounds=3)
                yield {
                    "positions": positions,
                    "sequences": sequences,
                    "recompute": recompute,
                    "seconds": seconds,
                    "positions_per_s": positions / seconds,
                    "mfu": flops / seconds / (peak_tflops * 1e12),
                    "peak_bytes": torch.cuda.max_memory_allocated() if scale.device == "cuda" else None,
                }


def dense(lines: list[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    query, key, value = (line.transpose(0, 1)[None] for line in lines)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, enable_gqa=True
    )


def there_and_back(forward: Callable[[], torch.Tensor]) -> None:
    forward().sum().backward()


def kernels(scale: Scale) -> Iterator[dict[str, Any]]:
    device = scale.device
    width = scale.hidden // scale.heads
    settings = Settings(scale=width**-0.5, window=None, softcap=None)
    for positions in scale.positions:
        lengths = np.full(4, positions // 4)
        layout = Layout(
            starts_G=np.cumsum(lengths) - lengths,
            lengths_G=lengths,
            prefixes_G=np.full(4, NONE),
            num_positions=positions,
        )
        lines = [
            torch.randn(positions, heads, width, device=device, dtype=torch.bfloat16, requires_grad=True)
            for heads in (scale.heads, scale.heads // 4, scale.heads // 4)
        ]
        owner_X = torch.arange(positions, device=device) // (positions // 4)
        mask = (owner_X[:, None] == owner_X).tril()

        ways: dict[str, Callable[[], torch.Tensor]] = {"dense": partial(dense, lines, mask)}
        if device == "cuda":
            ways["varlen"] = partial(by_varlen, lines, layout, settings)
            ways["flex"] = partial(by_flex, lines, None, layout, settings)
        row: dict[str, Any] = {"positions": positions, "sequences": 4}
        for name, forward in ways.items():
            row[f"{name}_s"] = seconds_of(partial(there_and_back, forward), device)
        yield row


def sharing(scale: Scale) -> Iterator[dict[str, Any]]:
    policy = make_model(scale)
    row: dict[str, Any] = {"samples": 16, "prompt": scale.prompt, "completion": scale.completion}
    for packing in ("shared", "packed"):
        batch = batch_of(scale, 16, scale.prompt, scale.completion, packing)
        row[f"{packing}_s"] = seconds_of(a_pass(policy, batch, scale.device, True), scale.device, rounds=3)
        row[f"{packing}_positions"] = batch.input_ids.numel()
    yield {**row, "times_faster": row["packed_s"] / row["shared_s"]}


@torch.no_grad()
def parity(scale: Scale) -> Iterator[dict[str, Any]]:
    policy = make_model(scale, layers=min(4, scale.layers))
    batch = batch_of(scale, 4, scale.prompt // 4, scale.completion // 4, "shared")
    with torch.autocast(scale.device, torch.bfloat16):
        rounded_T = token_logprobs(policy, batch, 1.0).double().cpu()
    exact_T = token_logprobs(policy.cpu().double(), batch.to(torch.device("cpu")), 1.0)
    difference_T = (rounded_T - exact_T).abs()
    yield {
        "tokens": len(exact_T),
        "mean_difference": float(difference_T.mean()),
        "largest_difference": float(difference_T.max()),
        "spread_of_logprobs": float(exact_T.std()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a small size on the CPU")
    parser.add_argument(
        "--peak-tflops", type=float, default=989.0, help="bfloat16, dense; an H200's by default"
    )
    arguments = parser.parse_args()
    scale = TINY if arguments.tiny else FULL
    if scale.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch finds no GPU here: run it on a machine with one, or with --tiny")
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if scale.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }
    parts: dict[str, Callable[[], Iterator[dict[str, Any]]]] = {
        "mfu": lambda: mfu(scale, arguments.peak_tflops),
        "kernels": lambda: kernels(scale),
        "sharing": lambda: sharing(scale),
        "parity": lambda: parity(scale),
    }
    for name, part in parts.items():
        started = time.perf_counter()
        found[name] = []
        try:
            for row in part():
                found[name].append(row)
        except RuntimeError as error:  # a kernel that fails leaves the other parts to be measured
            found[name].append({"failed": str(error).splitlines()[0]})
        print(f"{name}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
