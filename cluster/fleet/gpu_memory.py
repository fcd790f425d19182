"""Whether an engine and a learner that share a GPU fit into it, by estimate.

`rollout.num_gpus = 0.5` is a place for Ray, and half of the GPU's memory: the learner is kept from taking more than its
share, and an engine takes no more than it is given. What has no share of one is not looked at. The estimates are those of
the learner on a CPU, which were measured, and what vLLM is known to take; none was measured on a GPU.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from actors.environment import batched_tokens
from cluster.config.schema import RunConfig
from cluster.fleet.needs import model_bytes, model_shape, pass_bytes
from learner.model import memory

ENGINE_BYTES = 2.0 * 2**30
"""CUDA's context, captured graphs and the workspace of kernels."""
TINY_SHARE = 0.05
"""No smaller one is proposed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """One role's part of a GPU."""

    role: str
    given: float
    """Of the GPU: `num_gpus`."""
    needed_bytes: float

    def needed(self, gpu_bytes: float) -> float:
        """Of the GPU, rounded up to hundredths."""
        return max(TINY_SHARE, -(-self.needed_bytes * 100 // gpu_bytes) / 100)


def shares(config: RunConfig, gpu_bytes: float) -> list[Share]:
    """Of the roles that have a part of a GPU."""
    found = []
    if 0 < config.rollout.num_gpus < 1:
        needed = engine_bytes(config)
        found.append(Share(role="rollout", given=config.rollout.num_gpus, needed_bytes=needed))
    if 0 < config.learner.num_gpus < 1:
        needed = learner_bytes(config, config.learner.num_gpus * gpu_bytes)
        found.append(Share(role="learner", given=config.learner.num_gpus, needed_bytes=needed))
    return found


def engine_bytes(config: RunConfig) -> float:
    """Weights, KV cache, and the largest step of an engine that has one GPU."""
    rollout, shape = config.rollout, model_shape(config)
    size = memory.bytes_of(rollout.dtype)
    widest = max(block.rounded for block in shape.blocks)
    step = batched_tokens(rollout) * widest * size
    logits = 3 * rollout.max_num_seqs * shape.vocabulary * memory.FLOAT32_BYTES
    weights = model_bytes(config) / memory.FLOAT32_BYTES * size
    return weights + (rollout.kv_cache_mib << 20) + max(step, logits) + ENGINE_BYTES


def learner_bytes(config: RunConfig, share_bytes: float) -> float:
    """Weights, optimizer and the largest pass of a learner of one rank; "auto" recomputes where its share is too small."""
    fixed = memory.fixed_bytes(model_shape(config), config.learner) + memory.CUDA_BYTES
    largest = pass_bytes(config, recompute=False)
    if memory.recomputes(config.learner, largest, share_bytes - fixed):
        largest = pass_bytes(config, recompute=True)
    return fixed + largest


def _proposed(config: RunConfig, found: Sequence[Share], gpu_bytes: float) -> list[float] | None:
    """A share for each that would do; None where all engines, verifiers and the learner then have more than a GPU."""
    num_rollouts, num_verifiers = config.most_workers
    proposed = [share.needed(gpu_bytes) for share in found]
    numbers = {"rollout": num_rollouts, "learner": 1}
    taken = sum(numbers[share.role] * one for share, one in zip(found, proposed, strict=True))
    others = num_verifiers * config.verifier.num_gpus if config.verifier.num_gpus < 1 else 0.0
    return proposed if taken + others <= 1 else None


def check_shares(config: RunConfig, gpu_bytes: float) -> None:
    """Raises ValueError, in one line, where a role needs more than its share; it says which would do, or what to lower."""
    found = shares(config, gpu_bytes)
    if all(share.needed_bytes <= share.given * gpu_bytes for share in found):
        return
    given = " and ".join(f"{share.role}.num_gpus = {share.given:g}" for share in found)
    parts = " and ".join(f"{share.role} about {share.needed_bytes / 2**30:.1f} GiB" for share in found)
    proposed = _proposed(config, found, gpu_bytes)
    if proposed is not None:
        remedy = "set " + " ".join(
            f"{share.role}.num_gpus={one:g}" for share, one in zip(found, proposed, strict=True)
        )
    else:
        lora = "" if config.learner.lora else "add [learner.lora], "
        rounded = "" if config.learner.weights_dtype == "bfloat16" else "set learner.weights_dtype=bfloat16, "
        remedy = f"{lora}{rounded}lower rollout.kv_cache_mib or learner.micro_batch_tokens, take a smaller model, or a GPU each"
    raise ValueError(f"{given} of a GPU of {gpu_bytes / 2**30:.1f} GiB: {parts} are needed: {remedy}")


def gpu_bytes_here() -> float | None:
    """Memory of the smallest GPU of this machine, as its driver says; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True)
        return min(float(line) for line in done.stdout.split("\n") if line.strip()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
