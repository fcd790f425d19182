"""A model laid out over the ranks of a gang by FSDP2, and its tensors as a whole and in parts.

Each rank holds a slice of the first dimension of every parameter, of its gradient and of AdamW's
averages. A block's parameters are whole only while it computes. Every function that says so is
collective: all ranks must call it, with the same tensors in the same order.
"""

from __future__ import annotations

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from learner.gang import Gang
from learner.model.logprobs import TokenLogprobs, blocks


def shard(module: TokenLogprobs, gang: Gang, device: torch.device) -> FSDPModule:
    """Shard the model block by block, in place; its parameters become DTensors on `device`.

    What is in no block (embeddings, head) is one more; so is all of a model that names no blocks.

    A gradient is the sum of the ranks' gradients, not FSDP2's mean: each rank computes its sequences'
    terms of one loss, whose denominators count the whole step.
    """
    mesh = init_device_mesh(device.type, (gang.size,))
    for part in blocks(module.policy):
        fully_shard(part, mesh=mesh)
    # The wrapper, not the policy: its forward uses the head's weight itself, and the policy keeps its class.
    root = fully_shard(module, mesh=mesh)
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.set_gradient_divide_factor(1.0)
            # As a plain sum: the scaled one that it would use otherwise exists in NCCL only.
            part.set_force_sum_reduction_for_comms(True)
    return root


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A sharded tensor put together, which is collective; any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this rank holds of a sharded tensor, in the same memory; any other one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def laid_out_as(tensor: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """A whole tensor, which every rank has, on the device and over the ranks as `model` is."""
    if isinstance(model, DTensor):
        # Without a source rank nothing is sent.
        return distribute_tensor(
            tensor.to(model.device), model.device_mesh, model.placements, src_data_rank=None
        )
    return tensor.to(model.device)
