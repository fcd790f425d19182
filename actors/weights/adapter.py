"""A low-rank adapter that engines get in place of whole weights: its names, and a checksum of what has an effect.

An adapted layer `model.layers.0.mlp.up_proj` has two tensors, A `[rank, in]` and B `[out, rank]`, by the layer's name and
the endings below. B is already multiplied by alpha / rank: the layer computes x W^T + (x A^T) B^T.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


def adapted_layers(
    tensors: Mapping[str, torch.Tensor],
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of each layer, by its name."""
    return {
        name.removesuffix(UP): (tensors[name.removesuffix(UP) + DOWN], up)
        for name, up in tensors.items()
        if name.endswith(UP)
    }


def adapter_fingerprint(pairs: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Sum of the fingerprints of A and B of all layers, not yet modulo 2**64; to be added to that of the adapted weights.

    A layer whose B is zero counts nothing, whatever its A: it computes what it would without. So an engine that was given no
    adapter yet has the fingerprint of a learner that has made no step.
    """
    from actors.weights.fingerprint import tensor_fingerprint

    total = 0
    for down, up in pairs:
        of_up = tensor_fingerprint(up)
        if of_up or bool(up.count_nonzero()):
            total += tensor_fingerprint(down) + of_up
    return total
