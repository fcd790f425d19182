"""A model in training: its weights, its optimizer, the learning rate of each step, its checkpoints.

What a learner from scored groups and one from demonstrations have in common. Which loss is
descended is theirs: they add gradients to the parameters, then `update` makes a step of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch

from learner.config import LearnerConfig
from learner.gang import Gang
from learner.model import checkpoint, memory
from learner.model.causal_lm import load_model, resolve_model
from learner.model.optimizer import make_optimizer
from learner.model.packing import choose_packing
from learner.model.policy import Policy, ShardedPolicy
from learner.model.sharding import own_part
from learner.schedule import learning_rate_at
from learner.step.batch import PackedBatch, Sequences
from learner.step.parity import ParityTurns
from learner.step.shares import share_of_rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """One step of the optimizer."""

    learning_rate: float
    grad_norm: float
    """Before it was clipped."""
    is_clipped: bool


class Trainer:
    """One rank's part of a model in training, or all of it; with `learner.lora` its adapters are what is trained.

    In a gang every call is made on all ranks alike.
    """

    def __init__(
        self, model_path: str, config: LearnerConfig, temperature: float, seed: int, gang: Gang
    ) -> None:
        """`temperature`: of the distribution whose log-probs the policy gives. Sets torch's global seed."""
        if config.decays and config.schedule_steps is None:
            raise ValueError(
                f"learner.schedule = {config.schedule!r} decays over a number of steps that is not given: "
                "set learner.schedule_steps"
            )
        torch.manual_seed(seed)
        self._config = config
        self._gang = gang
        self._base_directory = resolve_model(model_path)
        self._device = torch.device("cuda" if config.num_gpus > 0 else "cpu")
        if 0 < config.num_gpus < 1:  # an engine has the rest, and what is not torch's counts too
            total = torch.cuda.mem_get_info()[1]
            torch.cuda.set_per_process_memory_fraction(config.num_gpus - memory.CUDA_BYTES / total)
        settings: dict[str, Any] = {"bfloat16": config.dtype == "bfloat16", "recompute": self._recomputes}
        # What is sharded or rounded below need not fit on one device as it is loaded.
        is_whole_there = gang.size == 1 and config.weights_dtype == "float32"
        model = load_model(str(self._base_directory), str(self._device) if is_whole_there else "cpu")
        self.packing = choose_packing(model, model_path, share_prompts=config.share_prompts)
        own_parameters = list(model.parameters())
        self._adapters = None
        if config.lora is not None:
            from learner.model.lora import attach  # it imports peft

            served = config.publish_dtype or "float32"
            self._adapters = attach(model, config.lora, served, model_name=model_path)
        # Buffers stay float32, as in the engines: frequencies of positions, a router's bias. So do adapters.
        for parameter in own_parameters:
            parameter.data = parameter.data.to(getattr(torch, config.weights_dtype))
        if gang.size == 1:
            model.to(self._device)
        num_parameters = sum(parameter.numel() for parameter in own_parameters)
        num_adapter_parameters = sum(one.numel() for one in model.parameters()) - num_parameters
        settings["adapters"] = self._adapters
        if gang.size == 1:
            self.policy = Policy(model, self._device, temperature, **settings)
        else:
            self.policy = ShardedPolicy(model, self._device, temperature, **settings, gang=gang)
        self._parameters = self.policy.parameters
        self.shape = memory.ModelShape.read(self._base_directory, num_parameters, num_adapter_parameters)
        self._free_bytes = self._left_for_a_pass()
        self.optimizer = make_optimizer(
            list(self._parameters.values()),
            learning_rate=config.learning_rate,
            betas=config.betas,
            eps=config.eps,
            weight_decay=config.weight_decay,
            seed=seed,
        )
        self.num_steps = 0

    def share(self, sequences: Sequences, chosen: np.ndarray) -> list[PackedBatch]:
        """This rank's micro-batches of the chosen sequences."""
        return share_of_rank(
            sequences,
            chosen,
            max_tokens=self._config.micro_batch_tokens,
            packing=self.packing,
            gang=self._gang,
        )

    def forget_gradients(self) -> None:
        self.optimizer.zero_grad()

    def update(self) -> Update:
        """Clip the gradients that were added up, step, forget them.

        Raises ArithmeticError, parameters untouched, where their norm is not finite.
        """
        gradients = []
        for parameter in self._parameters.values():
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(own_part(parameter.grad))
        own_norm = torch.nn.utils.get_total_norm(gradients)
        norm = self._gang.norm(float(own_norm))
        torch.nn.utils.clip_grads_with_norm_(
            self._parameters.values(), self._config.max_grad_norm, own_norm.new_tensor(norm)
        )
        if not math.isfinite(norm):
            raise ArithmeticError(f"gradient norm is {norm}")
        rate = learning_rate_at(
            self.num_steps,
            schedule=self._config.schedule,
            peak=self._config.learning_rate,
            warmup_steps=self._config.warmup_steps,
            steps=self._config.schedule_steps,
            floor=self._config.schedule_floor,
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.policy.synchronize()
        self.num_steps += 1
        return Update(learning_rate=rate, grad_norm=norm, is_clipped=norm > self._config.max_grad_norm)

    def save(
        self, directory: Path, *, version: int, settings: Mapping[str, Any], parity: ParityTurns
    ) -> None:
        """Write a checkpoint into `directory`; the caller renames it into place."""
        checkpoint.save(
            directory,
            model=self.policy.model,
            optimizer=self.optimizer,
            state=checkpoint.LearnerState(
                version=version, num_steps=self.num_steps, settings=dict(settings), parity=parity
            ),
            base_directory=self._base_directory,
            adapters=self._adapters,
            writes=self._gang.rank == 0,
        )

    def load(self, directory: Path, settings: Mapping[str, Any]) -> checkpoint.LearnerState:
        """Become what wrote `directory`. Raises ValueError, nothing changed, for one of other settings or a damaged one."""
        state = checkpoint.load(
            directory,
            model=self.policy.model,
            optimizer=self.optimizer,
            settings=settings,
            adapters=self._adapters,
        )
        self.num_steps = state.num_steps
        return state

    def _recomputes(self, batch: PackedBatch) -> bool:
        needed = memory.activation_bytes(
            self.shape,
            positions=batch.input_ids.numel(),
            completion_tokens=len(batch.target_ids),
            bfloat16=self._config.dtype == "bfloat16",
            recompute=False,
            cast=memory.num_cast(self.shape, self._config),
        )
        return memory.recomputes(self._config, needed, self._free_bytes)

    def _left_for_a_pass(self) -> float:
        """Bytes of this rank, beside what it holds and will hold: of a GPU its share, of the machine its part of a share."""
        loaded = sum(parameter.nbytes for parameter in self.policy.all_parameters.values())
        yet_to_come = (memory.fixed_bytes(self.shape, self._config) - loaded) / self._gang.size
        if self._device.type == "cpu":
            free = psutil.virtual_memory().available / self._gang.num_here()
            return free * memory.SHARE_OF_MACHINE - yet_to_come
        free, total = torch.cuda.mem_get_info(self._device)
        share = min(self._config.num_gpus, 1.0) * total
        # Others may have taken more of it than they were given.
        really_left = free * memory.SHARE_OF_GPU - yet_to_come
        return min(memory.left_for_a_pass(self.shape, self._config, share), really_left)
