"""Adapters and their base model as one model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from actors.model_files import ADAPTER_CONFIG, read_object
from learner.config import LoraConfig
from learner.model.causal_lm import load_model, resolve_model
from learner.model.checkpoint import write_model
from learner.model.lora import Adapters, MergedLinear, attach, facts_of


def export_merged(adapter: Path, output: Path) -> str:
    """Write the model that the adapter in a directory makes of its base model, as transformers stores one, with its
    tokenizer; returns its dtype.

    The weights are bit for bit those that engines were given, in the dtype in which they were; of an adapter that they
    were given apart the sum in float32. `output` appears only when complete. Raises ValueError where it exists, or the
    base model is not there or has other weights than it had.
    """
    if output.exists():
        raise ValueError(f"{output} exists: name a new directory, or remove it")
    dtype = str(facts_of(adapter).get("dtype"))
    settings = read_object(adapter / ADAPTER_CONFIG)
    base = str(settings["base_model_name_or_path"])
    config = LoraConfig(rank=settings["r"], alpha=settings["lora_alpha"], target=settings["target_modules"])
    model = load_model(base)
    adapters = attach(model, config, dtype, model_name=base)
    with torch.no_grad():
        parameters = dict(model.named_parameters())
        for name, value in adapters.read(adapter, model).items():
            parameters[name].copy_(value)
        _merge(model, adapters)
        for parameter in model.parameters():
            parameter.data = parameter.to(getattr(torch, dtype))
    output.parent.mkdir(parents=True, exist_ok=True)
    making = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        write_model(making, model, dict(model.named_parameters()), resolve_model(base))
        making.rename(output)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return dtype


def _merge(model: Any, adapters: Adapters) -> None:
    """The model is again what it was without adapters, with their weights."""
    merged = adapters.merged(dict(model.named_parameters()), {})
    weights = {known: name for name, known in adapters.names.items()}
    for path, layer in list(model.named_modules()):
        if isinstance(layer, MergedLinear):
            linear: Any = layer.base_layer
            linear.weight.data = merged[weights[f"{path}.base_layer.weight"]]
            model.set_submodule(path, linear)
