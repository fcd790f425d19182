"""AdamW, also for weights that are kept in bfloat16.

A bfloat16 weight has 8 bits: the nearest other one is 2^-8 of it away or more, and an update of 1e-6 would
be rounded away, always. So weights and averages are rounded at random, up with the probability that makes
the mean exact (stochastic rounding: Gupta et al., arXiv 1502.02551): small updates are made in proportion,
with noise, which costs a little and is no bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.optim.adamw import adamw

from learner.model.sharding import own_part

_AVERAGES = ("exp_avg", "exp_avg_sq")
SLICE = 2**24
"""Elements at a time: in float32 they and what is made of them take some 400 MB."""


def make_optimizer(
    parameters: list[torch.Tensor],
    *,
    learning_rate: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    seed: int,
) -> torch.optim.AdamW:
    """torch's own for float32 parameters, the same with stochastic rounding for bfloat16 ones."""
    settings: dict[str, Any] = {"lr": learning_rate, "betas": betas, "eps": eps, "weight_decay": weight_decay}
    if parameters[0].dtype == torch.bfloat16:
        return RoundingAdamW(parameters, seed=seed, **settings)
    return torch.optim.AdamW(parameters, fused=True, **settings)


class RoundingAdamW(torch.optim.AdamW):
    """A slice of one parameter at a time in float32; parameters and averages stay bfloat16.

    The noise of a step depends on `seed` and the step's number only, so that a resumed run has the same.
    """

    def __init__(self, parameters: list[torch.Tensor], *, seed: int, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self._seed = seed

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            noise: torch.Generator | None = None
            for parameter in group["params"]:
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    for key in _AVERAGES:
                        state[key] = torch.zeros_like(parameter)
                if noise is None:
                    noise = torch.Generator(own_part(parameter).device)
                    # Of a plain sum torch's generator would see the lower 32 bits.
                    entropy = np.random.SeedSequence([self._seed, int(state["step"])])
                    noise.manual_seed(int(entropy.generate_state(1)[0]))
                stored = [own_part(parameter), *(own_part(state[key]) for key in _AVERAGES)]
                for gradient, *parts in zip(*map(_slices, [own_part(parameter.grad), *stored]), strict=True):
                    self._step_slice(group, state["step"], gradient, parts, noise)
                state["step"] += 1

    def _step_slice(
        self,
        group: dict[str, Any],
        num_steps: torch.Tensor,
        gradient: torch.Tensor,
        stored: list[torch.Tensor],
        noise: torch.Generator,
    ) -> None:
        """`stored`: a parameter and its two averages, which are changed in place."""
        exact = [tensor.float() for tensor in stored]
        adamw(
            [exact[0]],
            [gradient.float()],
            [exact[1]],
            [exact[2]],
            [],
            [num_steps.clone()],  # it counts
            foreach=False,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
        for tensor, value in zip(stored, exact, strict=True):
            tensor.copy_(rounded_at_random(value, noise))


def _slices(tensor: torch.Tensor) -> Sequence[torch.Tensor]:
    """Views of about SLICE elements, or of one row where that has more."""
    if tensor.dim() == 0:
        return [tensor]
    return tensor.split(max(1, SLICE // max(1, tensor[:1].numel())))


def rounded_at_random(values: torch.Tensor, noise: torch.Generator) -> torch.Tensor:
    """bfloat16, one of the two neighbours of each finite float32, with the probabilities of which it is the mean.

    The lower 16 bits of a float32 are how far it is from the lower neighbour towards the upper one: a random
    number of 16 bits carries into the others that often.
    """
    bits = values.view(torch.int32)
    random = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device, generator=noise)
    return ((bits + random) & ~0xFFFF).view(torch.float32).bfloat16()
