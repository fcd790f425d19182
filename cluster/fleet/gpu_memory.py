"""What engines and the learner take of a GPU, by estimate.

`rollout.num_gpus = 0.5` is a place for Ray, and half of the GPU's memory: the learner is kept from taking more than its
share, and an engine takes no more than it is given. The estimates are those of the learner on a CPU, which were measured,
and what vLLM is known to take; none was measured on a GPU. Verifiers' models are not looked at.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from actors.environment import batched_tokens
from cluster.config.schema import RunConfig
from cluster.fleet.needs import fine_tuning_pass_bytes, model_shape, pass_bytes
from learner.model import memory

ENGINE_BYTES = 2.0 * 2**30
"""CUDA's context, captured graphs and the workspace of kernels."""
TINY_SHARE = 0.05
"""No smaller one is proposed."""

Role = Literal["rollout", "learner"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """Of one GPU, what a part of an engine or a rank of the learner takes, which may have it to itself."""

    role: Role
    given: float
    """Of the GPU: `num_gpus`."""
    needed_bytes: float

    def needed(self, gpu_bytes: float) -> float:
        """Of the GPU, rounded up to hundredths."""
        return max(TINY_SHARE, -(-self.needed_bytes * 100 // gpu_bytes) / 100)


def shares(config: RunConfig, gpu_bytes: float) -> list[Share]:
    """Of the roles that compute on GPUs; infinite `gpu_bytes`: the learner keeps all that it would rather not recompute."""
    found = []
    if config.rollout.num_gpus:
        needed = engine_bytes(config)
        found.append(Share(role="rollout", given=config.rollout.num_gpus, needed_bytes=needed))
    if config.learner.num_gpus:
        needed = learner_bytes(config, config.learner.num_gpus * gpu_bytes)[0]
        found.append(Share(role="learner", given=config.learner.num_gpus, needed_bytes=needed))
    return found


def engine_bytes(config: RunConfig) -> float:
    """Of a part's weights and KV cache, an adapter's place, and the largest step."""
    rollout, shape = config.rollout, model_shape(config)
    size = memory.bytes_of(rollout.dtype)
    widest = max(block.rounded for block in shape.blocks)
    step = batched_tokens(rollout) * widest * size
    logits = 3 * rollout.max_num_seqs * shape.vocabulary * memory.FLOAT32_BYTES
    divided = size * shape.num_parameters + (rollout.kv_cache_mib << 20)
    # vLLM rounds the rank up to one that it has kernels for.
    adapter = 2 * size * shape.num_adapter_parameters if rollout.adapter_rank else 0.0
    return divided / rollout.tensor_parallel + adapter + max(step, logits) + ENGINE_BYTES


def learner_bytes(config: RunConfig, share_bytes: float) -> tuple[float, bool]:
    """Of a rank's weights, optimizer and largest pass, and whether that is recomputed: with "auto" where the share is too
    small.

    Of several ranks each has its part of all but the pass, and of what it has in whole while it computes.
    """
    learner, shape = config.learner, model_shape(config)
    fixed = memory.fixed_bytes(shape, learner) / learner.ranks + memory.CUDA_BYTES
    left = memory.left_for_a_pass(shape, learner, share_bytes)
    recompute = memory.recomputes(learner, _largest_pass(config, recompute=False), left)
    largest = _largest_pass(config, recompute=recompute)
    if learner.lora is None and (learner.parity_versions or 1) > 1:
        # The parity check puts an older version beside the weights, and keeps no blocks.
        older = memory.bytes_of(learner.weights_dtype) * shape.num_parameters / learner.ranks
        largest = max(largest, older + _largest_pass(config, recompute=True))
    return fixed + largest, recompute


def _largest_pass(config: RunConfig, *, recompute: bool) -> float:
    """Of the training, or of the fine-tuning before it."""
    of_training = pass_bytes(config, recompute=recompute)
    if config.sft is None or config.sft.base_model is None or Path(config.model).exists():
        return of_training
    return max(of_training, fine_tuning_pass_bytes(config, recompute=recompute))


def num_gpus_needed(config: RunConfig) -> int:
    """GPUs that hold all workers, as many as there may be."""
    num_rollouts, num_verifiers = config.most_workers
    of_learner = [config.learner.num_gpus] * config.learner.ranks
    of_rollouts = [config.rollout.gpus_of_worker] * num_rollouts
    return num_gpus_for([*of_learner, *of_rollouts, *[config.verifier.num_gpus] * num_verifiers])


def num_gpus_for(wanted: Sequence[float]) -> int:
    """GPUs that hold workers which reserve so much each; of shares as many as fit are put on one."""
    free: list[float] = []
    for share in sorted((one for one in wanted if 0 < one < 1), reverse=True):
        place = next((place for place, left in enumerate(free) if share <= left + 1e-9), None)
        if place is None:
            free.append(1 - share)
        else:
            free[place] -= share
    return int(sum(one for one in wanted if one >= 1)) + len(free)


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
