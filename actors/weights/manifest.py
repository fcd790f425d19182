"""How a set of weights lies in flat buckets of bytes: what the learner sends and an engine reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the controller hands manifests on, and needs no torch
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One tensor: its name in the checkpoint, and where its bytes are."""

    name: str
    dtype: str
    """As torch spells it, without the `torch.`: float32, bfloat16."""
    shape: tuple[int, ...]
    bucket: int
    offset_bytes: int

    @property
    def size_bytes(self) -> int:
        import torch

        return math.prod(self.shape) * getattr(torch, self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightManifest:
    """The layout of every version of one model's weights."""

    entries: tuple[TensorEntry, ...]
    bucket_sizes: tuple[int, ...]
    """Bytes of each bucket."""


def views(manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor as a view of its bucket, nothing copied. Read-only buckets give tensors not to be written."""
    import torch

    flats = flat_tensors(manifest, buckets)
    return (
        (
            entry.name,
            flats[entry.bucket][entry.offset_bytes : entry.offset_bytes + entry.size_bytes]
            .view(getattr(torch, entry.dtype))
            .view(entry.shape),
        )
        for entry in manifest.entries
    )


def flat_tensors(manifest: WeightManifest, buckets: Sequence[np.ndarray]) -> list[torch.Tensor]:
    """Each bucket as a tensor of bytes, nothing copied. Raises ValueError where they are not the manifest's."""
    import torch

    sizes = tuple(bucket.nbytes for bucket in buckets)
    if sizes != manifest.bucket_sizes:
        raise ValueError(f"weight buckets hold {sizes} bytes, their manifest says {manifest.bucket_sizes}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writ")
        return [torch.from_numpy(bucket) for bucket in buckets]
