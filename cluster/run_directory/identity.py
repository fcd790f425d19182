"""What makes two runs the same: a checkpoint is gone on from only by the run that wrote it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from learner.config import WITHOUT_EFFECT_ON_RESULT
from verifiers.types import Problem


def identity(config: RunConfig, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a resumed run must have in common with its checkpoint: what is asked, and how it is learned."""
    content = hashlib.sha256()
    for problem in problems:
        asked: tuple[Any, ...] = (problem.id, problem.prompt, sorted(problem.truth.items()), *problem.turns)
        if config.objective.needs_demonstrations:
            asked += (problem.demonstration,)
        content.update(repr(asked).encode())
    learner = config.learner.model_dump(mode="json", exclude=set(WITHOUT_EFFECT_ON_RESULT))
    objective = config.objective.model_dump(mode="json")
    is_directory = Path(config.model).is_dir()  # a resumed run may name it from another working directory
    model = str(Path(config.model).absolute()) if is_directory else config.model
    needs_base = config.learner.kl_coefficient > 0 or config.learner.lora is not None
    anchor = {"model": model} if needs_base else {}
    return {
        **anchor,
        "train.seed": config.train.seed,
        "train.groups_per_step": config.train.groups_per_step,
        "rollout.samples_per_prompt": config.rollout.samples_per_prompt,
        "rollout.temperature": config.rollout.temperature,
        "rollout.max_tokens": config.rollout.max_tokens,
        "rollout.chat": config.rollout.chat.model_dump(mode="json"),
        "verifier.reward": config.verifier.reward,
        "verifier.score": config.verifier.score,
        "problems": f"{len(problems)} problems, sha256 {content.hexdigest()[:16]}",
        **{f"learner.{name}": value for name, value in learner.items()},
        **{f"objective.{name}": value for name, value in objective.items()},
    }
