"""Stored adapters for others than the learner: merged with their base model, or as engines get them apart from it."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from actors.model_files import ADAPTER_CONFIG, base_of_adapter, read_object
from actors.weights.manifest import WeightManifest
from learner.config import LoraConfig
from learner.model.causal_lm import load_model, resolve_model
from learner.model.checkpoint import write_model
from learner.model.lora import Adapters, MergedLinear, attach, facts_of
from learner.model.publish import Buckets, make_manifest, pack


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedApart:
    """What engines of an adapter's base model are given, so that they compute what they did at the end of its training."""

    rank: int
    manifest: WeightManifest
    buckets: Buckets
    fingerprint: int
    """Of base model and adapter, as the engines have them then."""


def serve_apart(adapter: Path, dtype: str) -> ServedApart:
    """The adapter in a directory for engines whose weights are of `dtype`.

    Raises ValueError where the base model is not there or has other weights than it had.
    """
    model, adapters = _load(adapter, "adapter", dtype)
    trained = {name: value for name, value in model.named_parameters() if value.requires_grad}
    layout = adapters.published_layout(trained)
    manifest = make_manifest(layout, dtype)
    buckets = pack(layout, adapters.published(trained, {}), manifest)
    return ServedApart(
        rank=adapters.peft.r,
        manifest=manifest,
        buckets=buckets,
        fingerprint=adapters.fingerprint_of(manifest, buckets),
    )


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
    model, adapters = _load(adapter, "merged", dtype)
    with torch.no_grad():
        _merge(model, adapters)
        for parameter in model.parameters():
            parameter.data = parameter.to(getattr(torch, dtype))
    output.parent.mkdir(parents=True, exist_ok=True)
    making = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        write_model(making, model, dict(model.named_parameters()), resolve_model(base_of_adapter(adapter)))
        making.rename(output)
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return dtype


def _load(adapter: Path, publish: Literal["merged", "adapter"], served: str) -> tuple[Any, Adapters]:
    """The base model with the adapter's weights."""
    base, settings = base_of_adapter(adapter), read_object(adapter / ADAPTER_CONFIG)
    config = LoraConfig(
        rank=settings["r"],
        alpha=settings["lora_alpha"],
        target=settings["target_modules"],
        publish=publish,
    )
    model = load_model(base)
    adapters = attach(model, config, served, model_name=base)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, value in adapters.read(adapter, model).items():
            parameters[name].copy_(value)
    return model, adapters


def _merge(model: Any, adapters: Adapters) -> None:
    """The model is again what it was without adapters, with their weights."""
    merged = adapters.merged(dict(model.named_parameters()), {})
    weights = {known: name for name, known in adapters.names.items()}
    for path, layer in list(model.named_modules()):
        if isinstance(layer, MergedLinear):
            linear: Any = layer.base_layer
            linear.weight.data = merged[weights[f"{path}.base_layer.weight"]]
            model.set_submodule(path, linear)
