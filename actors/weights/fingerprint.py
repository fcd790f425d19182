"""An exact checksum of a set of weights that survives fusing and reordering."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
SLICE = 2**24
"""Elements that torch adds up at a time, on a GPU: it copies them to int64 first, eight bytes each."""


def param_fingerprint(named_tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> int:
    """Sum of every element's raw bits, read as integers, modulo 2**64 (as a signed 64-bit integer).

    Addition is exact and commutative, so learner and engine agree to the last bit although vLLM
    concatenates q, k and v, packs experts in another order, or pads the vocabulary with zeros. A bfloat16
    counts as the float32 of its value, because some of what is sent so is kept as float32. One changed
    element always changes it; two changes cancel only if their bit patterns do; a permutation of elements
    goes unseen. Tied tensors (same memory) count once.
    """
    pairs = named_tensors.items() if isinstance(named_tensors, Mapping) else named_tensors
    parts: list[torch.Tensor] = []
    seen: set[tuple[int, int]] = set()
    for _, tensor in pairs:
        identity = (tensor.data_ptr(), tensor.numel())
        if tensor.numel() == 0 or identity in seen:
            continue
        seen.add(identity)
        parts.append(tensor)
    on_cpu = all(tensor.device.type == "cpu" for tensor in parts)
    with ThreadPoolExecutor(torch.get_num_threads() if on_cpu else 1) as pool:
        return add_fingerprints(pool.map(tensor_fingerprint, parts))


def tensor_fingerprint(tensor: torch.Tensor) -> int:
    """Of one tensor, not yet modulo 2**64. On the CPU by numpy, which adds narrow integers ten times as fast as torch does."""
    bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
    total = int(bits.numpy().sum(dtype=np.int64)) if bits.device.type == "cpu" else sum_by_torch(bits)
    return total << (16 if tensor.dtype == torch.bfloat16 else 0)


def sum_by_torch(bits: torch.Tensor) -> int:
    """Of integers, modulo 2**64."""
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for part in bits.flatten().split(SLICE):
        total += part.sum(dtype=torch.int64)
    return int(total)


def add_fingerprints(fingerprints: Iterable[int]) -> int:
    """The fingerprint of several sets of weights together, which share no memory."""
    return (sum(fingerprints) + 2**63) % 2**64 - 2**63
