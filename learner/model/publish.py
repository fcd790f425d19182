"""The sending side of the weight broadcast: a model's parameters as flat buckets of bytes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch

from actors.weights.manifest import TensorEntry, WeightManifest, views
from learner.model.names import StoredLayout
from learner.model.sharding import whole

if TYPE_CHECKING:  # it imports peft
    from learner.model.served_adapter import AdapterLayout

ALIGNMENT_BYTES = 64
BUCKET_BYTES = 256 << 20
Buckets = tuple[np.ndarray, ...]
"""One version of the weights as bytes."""


def make_manifest(
    layout: StoredLayout | AdapterLayout, dtype: str, bucket_bytes: int = BUCKET_BYTES
) -> WeightManifest:
    """Lay the tensors of a checkpoint out in order, each at a multiple of 64 bytes and within one bucket.

    They have the names and the cut that they have on disk, because that is what engines load; tied parameters
    appear once. Parameters become `dtype`, buffers stay float32. A tensor larger than `bucket_bytes` gets a
    bucket of its own.
    """
    entries: list[TensorEntry] = []
    bucket_sizes = [0]
    for tensor in layout:
        own_dtype = "float32" if tensor.is_buffer else dtype
        size = math.prod(tensor.shape) * getattr(torch, own_dtype).itemsize
        if bucket_sizes[-1] and bucket_sizes[-1] + size > bucket_bytes:
            bucket_sizes.append(0)
        entries.append(
            TensorEntry(
                name=tensor.name,
                dtype=own_dtype,
                shape=tensor.shape,
                bucket=len(bucket_sizes) - 1,
                offset_bytes=bucket_sizes[-1],
            )
        )
        bucket_sizes[-1] += -(-size // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
    return WeightManifest(entries=tuple(entries), bucket_sizes=tuple(bucket_sizes))


@torch.no_grad()
def pack(
    layout: StoredLayout | AdapterLayout,
    sources: Mapping[str, torch.Tensor],
    manifest: WeightManifest,
    buckets: Buckets | None = None,
    note: Callable[[torch.Tensor], object] | None = None,
) -> Buckets:
    """Copies of a model's parameters and buffers, by their names in it, as the manifest lays them out.

    A source is looked up when its turn comes, and then no more: adapted weights are merged there and then.
    `buckets`: of an earlier version, that are written over. New memory takes longer to be had than to be filled.
    `note` is called with each copy when it is complete.
    Sharded ones are put together one group of the layout at a time, for which every other rank must call
    `take_part`.
    """
    if buckets is None:
        buckets = tuple(np.zeros(size, np.uint8) for size in manifest.bucket_sizes)
    destinations = dict(views(manifest, buckets))
    for group in layout.groups:
        stored = layout.store(group, {name: whole(sources[name].detach()) for name in group.sources})
        for name, tensor in stored.items():
            destinations[name].copy_(tensor)
            if note is not None:
                note(destinations[name])
    return buckets


@torch.no_grad()
def take_part(layout: StoredLayout | AdapterLayout, sources: Mapping[str, torch.Tensor]) -> None:
    """This rank's part of what another one packs."""
    for group in layout.groups:
        for name in group.sources:
            whole(sources[name].detach())
