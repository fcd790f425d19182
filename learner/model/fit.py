"""Whether a checkpoint's files fit its config.json, by names and shapes alone: nothing is loaded."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from actors.model_files import StoredShape
from learner.model.names import StoredLayout

SHARE_TO_COMPARE = 0.5
"""Of the stored names that must be expected ones: with fewer the files use others, which only loading can tell."""


def check_architecture(directory: Path, model: str) -> Any:
    """The model's config, of a class that has a causal language model. Raises ValueError in one line."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    try:
        config = AutoConfig.from_pretrained(directory, trust_remote_code=False)
    except Exception as error:  # checks of transformers' own, of each architecture's, and no end of types
        raise ValueError(
            f"model = {model!r}: transformers cannot read its config.json ({_why(error)}): take the config.json that came with "
            "the model, or a model of an architecture that this transformers has"
        ) from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ValueError(
            f"model = {model!r}: config.json has model_type {config.model_type!r}, of which transformers has no causal language "
            "model: take a model that writes text"
        )
    return config


def check_weights(config: Any, stored: Mapping[str, StoredShape], directory: Path) -> None:
    """Raises ValueError for the first tensor that the config asks for and the files have not, or in another shape.

    Says nothing of files in another naming, nor where the model cannot be laid out without its weights.
    """
    expected, tied, ignored = _expected(config)
    there = {name for name in expected if name in stored}
    for name in sorted(there):
        if stored[name].shape != expected[name]:
            raise ValueError(
                f"{directory}: {name!r} has the shape {list(stored[name].shape)}, config.json asks for "
                f"{list(expected[name])}: they belong to two models; take both from one"
            )
    missing = sorted(expected.keys() - there - tied)
    if missing and len(there) > SHARE_TO_COMPARE * len(stored):
        raise ValueError(
            f"{directory}: {missing[0]!r} is not among its stored weights ({len(missing)} such names), and config.json asks "
            "for it: copy or download the model again, or take the config.json that belongs to it"
        )
    last: dict[str, int] = {}
    for stack, number in map(_layer, expected):
        last[stack] = max(number, last.get(stack, -1))
    beyond = [name for name in stored if _layer(name)[1] > last.get(_layer(name)[0], sys.maxsize)]
    beyond = [name for name in beyond if not any(re.search(pattern, name) for pattern in ignored)]
    if beyond and not missing and not hasattr(config, "num_nextn_predict_layers"):
        first = min(beyond, key=_layer)
        raise ValueError(
            f"{directory}: {first!r} is stored, and config.json asks for {last[_layer(first)[0]] + 1} layers: take the "
            "config.json that belongs to the weights"
        )


def _layer(name: str) -> tuple[str, int]:
    """What stacks the block that a tensor belongs to, and the block's number; -1: it belongs to none."""
    found = re.match(r"(.*?\b(?:layers|h|blocks))\.(\d+)\.", name)
    return (found[1], int(found[2])) if found else ("", -1)


def on_meta(config: Any) -> Any:
    """The model of a transformers config, without memory for its weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def _expected(config: Any) -> tuple[dict[str, tuple[int, ...]], set[str], list[str]]:
    """Shapes of all parameters by their names on disk, names of those that are tied to another, and patterns of names
    that may be on disk besides.
    """
    try:
        model = on_meta(config)
        layout = StoredLayout(model)
    except Exception:  # noqa: BLE001  the learner will say it when it loads the model
        return {}, set(), []
    tied = dict(getattr(model, "all_tied_weights_keys", None) or {})
    shapes = {tensor.name: tensor.shape for tensor in layout if not tensor.is_buffer}
    return shapes, {*tied, *tied.values()}, list(model._keys_to_ignore_on_load_unexpected or [])


def _why(error: BaseException) -> str:
    """The last line that says something: transformers' checks put the cause there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return repr(error)
    # The advice that follows an unknown model_type is longer than what is wrong.
    cause = lines[-1] if "alidation error" in lines[0] else lines[0]
    return cause[:300]
