"""Training of a verifier: batches of problems, AdamW, the step of the lowest validation loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from learner.schedule import learning_rate_at
from learner.verifier.config import VerifierTrainingConfig
from learner.verifier.losses import LOSSES, LossRow
from learner.verifier.model import EncodedProblem, Verifier, logits

BETAS = (0.9, 0.98)
FLOOR = 0.05
"""Share of the learning rate that the cosine ends with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierProgress:
    """A validation, after `step` of `steps`; losses in nats."""

    step: int
    steps: int
    training_loss: float
    """Mean over the steps since the last validation."""
    validation_loss: float
    elapsed_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the training went; the model holds the weights of `best_step`."""

    history: tuple[VerifierProgress, ...]
    best_step: int


def train(
    verifier: Verifier,
    training: Sequence[EncodedProblem],
    validation: Sequence[EncodedProblem],
    config: VerifierTrainingConfig,
    *,
    on_step: Callable[[int, VerifierProgress | None], None] = lambda step, validated: None,
) -> Training:
    """Train the verifier's model in place, and leave it at the step of the lowest validation loss.

    Every problem counts the same in the loss, whatever its number of samples. On the CPU the same arguments give
    the same weights. `on_step` is called after every step, with its number and the newest validation; what it
    raises ends the training.

    Raises:
        ValueError: no problem to learn from, or none to validate on.
        ArithmeticError: a loss or a gradient that is not finite.
    """
    row = LOSSES[config.loss]
    training = _usable(training, row, "training")
    validation = _usable(validation, row, "validation")
    rng, started = np.random.default_rng(config.seed), time.perf_counter()
    validation_parts = list(_micro_batches(validation, row, config, rng))
    model = verifier.model
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=BETAS, weight_decay=config.weight_decay, fused=True
    )
    history: list[VerifierProgress] = []
    best_weights: dict[str, Tensor] = {}
    best_step, losses = 0, []
    batches = _batches(training, config.problems_per_step, rng)
    for step in range(1, config.steps + 1):
        losses.append(_update(verifier, next(batches), optimizer, step, config, rng))
        if step % config.validate_every == 0 or step == config.steps:
            with torch.no_grad():
                validation_loss = sum(_loss(verifier, part, row, config).item() for part in validation_parts)
            validated = VerifierProgress(
                step=step,
                steps=config.steps,
                training_loss=float(np.mean(losses)),
                validation_loss=validation_loss / len(validation),
                elapsed_s=time.perf_counter() - started,
            )
            if all(validated.validation_loss < earlier.validation_loss for earlier in history):
                best_step = step
                best_weights = {name: one.detach().cpu().clone() for name, one in model.named_parameters()}
            history.append(validated)
            losses = []
        on_step(step, history[-1] if history else None)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(best_weights[name])
    return Training(history=tuple(history), best_step=best_step)


def _update(
    verifier: Verifier,
    problems: Sequence[EncodedProblem],
    optimizer: torch.optim.Optimizer,
    step: int,
    config: VerifierTrainingConfig,
    rng: np.random.Generator,
) -> float:
    """One step of the optimizer; returns the loss before it."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(
            step - 1,
            schedule="cosine",
            peak=config.learning_rate,
            warmup_steps=config.warmup_steps,
            steps=config.steps,
            floor=FLOOR,
        )
    row, loss = LOSSES[config.loss], 0.0
    optimizer.zero_grad()
    for part in _micro_batches(problems, row, config, rng):
        part_loss = _loss(verifier, part, row, config) / len(problems)
        part_loss.backward()
        loss += part_loss.item()
    norm = torch.nn.utils.clip_grad_norm_(verifier.model.parameters(), config.max_grad_norm).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise ArithmeticError(
            f"loss is {loss} and the norm of its gradient {norm} at step {step}: "
            f"lower learning_rate = {config.learning_rate}"
        )
    optimizer.step()
    return loss


def _batches(
    problems: Sequence[EncodedProblem], size: int, rng: np.random.Generator
) -> Iterator[list[EncodedProblem]]:
    """Without end: the problems in random order, then in another one."""
    order: list[int] = []
    while True:
        while len(order) < size:
            order += rng.permutation(len(problems)).tolist()
        yield [problems[number] for number in order[:size]]
        del order[:size]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _MicroBatch:
    """Whole problems: a pair must not be torn apart."""

    token_ids: list[np.ndarray]  # S
    labels: list[float]  # S
    problems: list[int]  # S, from 0


def _usable(problems: Sequence[EncodedProblem], row: LossRow, part: str) -> list[EncodedProblem]:
    usable = [
        problem
        for problem in problems
        if len(problem.labels_C)
        and (not row.needs_both_labels or problem.labels_C.min() <= 0.5 < problem.labels_C.max())
    ]
    if not usable:
        what = "a correct and a wrong candidate" if row.needs_both_labels else "a candidate"
        raise ValueError(
            f"none of the {len(problems)} {part} problems has {what} within max_length: "
            "name more sources, or raise max_length"
        )
    return usable


def _micro_batches(
    problems: Sequence[EncodedProblem], row: LossRow, config: VerifierTrainingConfig, rng: np.random.Generator
) -> Iterator[_MicroBatch]:
    """Candidates drawn of each problem; problems in their order, as many at a time as fit, one at least."""
    chosen: list[tuple[EncodedProblem, np.ndarray]] = []
    size = width = 0
    for problem in problems:
        drawn = row.draw(problem.labels_C, config.samples_per_problem, rng)
        widest = max(width, *(len(problem.token_ids[c]) for c in drawn))
        if chosen and (size + len(drawn)) * widest > config.micro_batch_tokens:
            yield _collate(chosen)
            chosen, size = [], 0
            widest = max(len(problem.token_ids[c]) for c in drawn)
        chosen.append((problem, drawn))
        size, width = size + len(drawn), widest
    yield _collate(chosen)


def _collate(chosen: Sequence[tuple[EncodedProblem, np.ndarray]]) -> _MicroBatch:
    return _MicroBatch(
        token_ids=[problem.token_ids[c] for problem, drawn in chosen for c in drawn],
        labels=[float(problem.labels_C[c]) for problem, drawn in chosen for c in drawn],
        problems=[number for number, (_, drawn) in enumerate(chosen) for _ in drawn],
    )


def _loss(verifier: Verifier, part: _MicroBatch, row: LossRow, config: VerifierTrainingConfig) -> Tensor:
    device = verifier.model.device
    with torch.autocast(device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
        logits_S = logits(verifier, part.token_ids)
    labels_S = torch.tensor(part.labels, device=device)
    return row.loss(logits_S, labels_S, torch.tensor(part.problems, device=device))
