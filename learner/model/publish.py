"""The sending side of the weight broadcast: a model's parameters as flat buckets of bytes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from actors.weights.manifest import TensorEntry, WeightManifest, views
from learner.model.sharding import whole

ALIGNMENT_BYTES = 64
BUCKET_BYTES = 256 << 20


def make_manifest(model: torch.nn.Module, dtype: str, bucket_bytes: int = BUCKET_BYTES) -> WeightManifest:
    """Lay the parameters out in order, each at a multiple of 64 bytes and within one bucket.

    Tied parameters appear once. A tensor larger than `bucket_bytes` gets a bucket of its own.
    """
    entries: list[TensorEntry] = []
    bucket_sizes = [0]
    for name, parameter in model.named_parameters():
        size = parameter.numel() * getattr(torch, dtype).itemsize
        if bucket_sizes[-1] and bucket_sizes[-1] + size > bucket_bytes:
            bucket_sizes.append(0)
        entries.append(
            TensorEntry(
                name=name,
                dtype=dtype,
                shape=tuple(parameter.shape),
                bucket=len(bucket_sizes) - 1,
                offset_bytes=bucket_sizes[-1],
            )
        )
        bucket_sizes[-1] += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return WeightManifest(entries=tuple(entries), bucket_sizes=tuple(bucket_sizes))


@torch.no_grad()
def pack(parameters: Mapping[str, torch.Tensor], manifest: WeightManifest) -> list[np.ndarray]:
    """Copies of the named tensors as the manifest lays them out, rounded to its dtypes.

    Sharded ones are put together one at a time, for which every rank must call `whole` in this order.
    """
    buckets = [np.zeros(size, np.uint8) for size in manifest.bucket_sizes]
    for name, view in views(manifest, buckets):
        view.copy_(whole(parameters[name]))
    return buckets
