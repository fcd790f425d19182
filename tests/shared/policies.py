"""Policies for the shared engine to serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from actors.weights.fingerprint import param_fingerprint
from actors.weights.manifest import WeightManifest, views
from learner.model.names import StoredLayout, stored_buffers
from learner.model.publish import BUCKET_BYTES, make_manifest, pack
from tests.shared.engine import TIMEOUT_S

if TYPE_CHECKING:
    from actors.engine import Engine


def make_policy(tiny_model: Path, seed: int | None = None) -> Any:
    """The tiny model, or one with other weights in every tensor."""
    policy = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    if seed is not None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in policy.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(0.5 * parameter.square().mean().sqrt() * noise)
    return policy


def publish(policy: Any, bucket_bytes: int = BUCKET_BYTES) -> tuple[WeightManifest, list[np.ndarray], int]:
    layout = StoredLayout(policy)
    manifest = make_manifest(layout, "float32", bucket_bytes)
    buckets = pack(layout, {**dict(policy.named_parameters()), **stored_buffers(policy)}, manifest)
    return manifest, buckets, param_fingerprint(views(manifest, buckets))


def load(engine: Engine, policy: Any) -> int:
    """Have the engine serve the policy; returns the version, a new one."""
    return update(engine, *publish(policy))


def update(engine: Engine, manifest: WeightManifest, buckets: list[np.ndarray], fingerprint: int) -> int:
    """Have the engine serve what `publish` made; returns the version, a new one."""
    version = engine.version + 1
    assert engine.update_weights(version, manifest, buckets).result(TIMEOUT_S) == fingerprint
    assert engine.version == version
    return version
