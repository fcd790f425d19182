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
from cluster.run_directory.fingerprint import fingerprint
from verifiers.types import Problem

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
    """Who judges: the verifier's settings other than defaults, by dotted name, and its models as they are now, wherever they
    are.
    """
    verifier = config.verifier
    settings = verifier.model_dump(mode="json", exclude_defaults=True, exclude=WITHOUT_EFFECT_ON_VERDICTS)
    weights = {}
    for name, section in verifier.model_sections.items():
        if Path(section.model).is_dir():
            weights[f"weights of verifier.{name}"] = fingerprint(Path(section.model))
            del settings[name]["model"]
    return {
        "verifier.reward": verifier.reward,
        **{f"verifier.{name}": value for name, value in settings.items()},
        **weights,
    }


def problems_identity(problems: Sequence[Problem]) -> str:
    """How many problems, and a hash of what each asks and of its truth."""
    asked = json.dumps([[p.id, p.prompt, dict(p.truth), *p.turns] for p in problems], sort_keys=True)
    return f"{len(problems)} problems, sha256 {hashlib.sha256(asked.encode()).hexdigest()[:16]}"
