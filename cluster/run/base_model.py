"""The base model of a run with an [sft] section: made once, then reused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster.config.schema import RunConfig
from cluster.run_directory.record import write_atomically

STAMP = "bonfire_sft.json"


def base_is_there(config: RunConfig) -> bool:
    """Whether the base model exists as this config would make it.

    Raises ValueError when something else is in its place.
    """
    model = Path(config.model)
    if not model.exists():
        return False
    stamp = model / STAMP
    if not stamp.exists():
        raise ValueError(
            f"model = {config.model!r} exists and was not made by this config's [sft]: "
            "remove the [sft] section to train from it, or set model to another directory"
        )
    made, wanted = json.loads(stamp.read_text()), _settings(config)
    for name, value in wanted.items():
        if made.get(name) != value:
            raise ValueError(
                f"model = {config.model!r} was made with sft.{name} = {made.get(name)!r}, the config says {value!r}: "
                "delete that directory to make it again, or set model to another one"
            )
    return True


def make_base(
    config: RunConfig, on_progress: Callable[[Any], None], on_demonstrations: Callable[[int], None]
) -> None:
    """Train the base model from scratch; the directory appears whole or not at all."""
    assert config.sft is not None
    import torch

    from learner.sft import train_base

    torch.set_num_threads(os.cpu_count() or 1)
    model = Path(config.model)
    making = model.with_name(model.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        train_base(config.sft, making, on_progress, on_demonstrations)
        write_atomically(making / STAMP, json.dumps(_settings(config), indent=1))
        os.replace(making, model)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _settings(config: RunConfig) -> dict[str, Any]:
    assert config.sft is not None
    return config.sft.model_dump(mode="json")
