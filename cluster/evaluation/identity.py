"""Which samples an evaluation's are: of which problems, models and settings.

Two calls may fill one directory only if these agree; `cluster.evaluation.store` compares them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from verifiers.types import Problem

NUM_HASHED_BLOCKS = 64
BLOCK_BYTES = 64 << 10
MODEL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja")
WITHOUT_EFFECT_ON_VERDICTS = {
    "workers",
    "num_cpus",
    "num_gpus",
    "resources",
    "retries",
    "batch_timeout_s",
    "startup_timeout_s",
    "heartbeat_timeout_s",
    "suspect_after_s",
}


def sampling_identity(config: RunConfig, num_samples: int) -> dict[str, Any]:
    """What the texts depend on beside problem, model and temperature, by dotted name."""
    assert config.evaluation is not None
    return {
        "evaluation.samples_per_problem": num_samples,
        "evaluation.seed": config.evaluation.seed,
        **engine_identity(config),
    }


def engine_identity(config: RunConfig) -> dict[str, Any]:
    """What of the engines' settings texts depend on, by dotted name."""
    return {
        "rollout.max_tokens": config.rollout.max_tokens,
        "rollout.dtype": config.rollout.dtype,
        "rollout.chat": config.rollout.chat.model_dump(mode="json"),
        **({"rollout.engine": config.rollout.engine} if config.rollout.engine else {}),
    }


def verdict_identity(config: RunConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """What was asked and who judges: problems with their truth, the verifier's settings other than defaults."""
    return {"problems": problems_identity(problems), **verifier_identity(config)}


def verifier_identity(config: RunConfig) -> dict[str, Any]:
    """Who judges: the verifier's settings other than defaults, by dotted name."""
    settings = config.verifier.model_dump(
        mode="json", exclude_defaults=True, exclude=WITHOUT_EFFECT_ON_VERDICTS
    )
    return {
        "verifier.reward": config.verifier.reward,
        **{f"verifier.{name}": value for name, value in settings.items()},
    }


def problems_identity(problems: Sequence[Problem]) -> str:
    """How many problems, and a hash of what each asks and of its truth."""
    asked = json.dumps([[p.id, p.prompt, dict(p.truth), *p.turns] for p in problems], sort_keys=True)
    return f"{len(problems)} problems, sha256 {hashlib.sha256(asked.encode()).hexdigest()[:16]}"


def fingerprint(model: Path) -> str:
    """Hash of a checkpoint's contents, the same for a copy elsewhere.

    Of each safetensors file: its size, its header, and 64 blocks of 64 KiB spread evenly over it (all
    of a file below 4 MiB). Training moves every tensor, so this tells checkpoints apart without
    reading gigabytes. Configuration and tokenizer are read whole.
    """
    digest = hashlib.blake2b(digest_size=16)
    for pattern in ("*.safetensors", *MODEL_FILES):
        for path in sorted(model.glob(pattern)):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            if pattern != "*.safetensors" or size <= NUM_HASHED_BLOCKS * BLOCK_BYTES:
                digest.update(path.read_bytes())
                continue
            with path.open("rb") as file:
                header_bytes = int.from_bytes(file.read(8), "little")
                digest.update(file.read(header_bytes))
                for block in range(NUM_HASHED_BLOCKS):
                    file.seek(block * (size - BLOCK_BYTES) // (NUM_HASHED_BLOCKS - 1))
                    digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()
