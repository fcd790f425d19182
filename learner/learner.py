"""Scored groups in, a new policy version out. No Ray: the whole of training runs under plain pytest.

A step: objective -> weight of each sample -> forward and backward, micro-batch by micro-batch ->
clip -> AdamW -> publish. On the way, the log-probs the engines reported are compared with the
learner's own under the very weights they were sampled with.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch

from actors.types import ScoredGroup
from actors.weights.fingerprint import add_fingerprints, tensor_fingerprint
from learner.config import WITHOUT_EFFECT_ON_RESULT, LearnerConfig
from learner.gang import ALONE, Gang
from learner.model.publish import Buckets, make_manifest
from learner.objectives.calibration import read_base_scores
from learner.objectives.config import ObjectiveConfig
from learner.parity_check import ParityCheck
from learner.passes import Passes
from learner.step.facts import batch_facts, win_rates
from learner.step.part import Part
from learner.trainer import Trainer
from learner.trajectories import write_trajectories
from learner.types import PublishedWeights, StepResult


class Learner:
    """The policy being trained. A fresh one serves `version`: the weights on disk.

    `model_path` is the run's model before training, also when a checkpoint is loaded afterwards: its
    weights are the reference that `kl_coefficient` anchors to, and those that adapters (`learner.lora`) adapt. Where the
    learning rate decays, `config` says over how many steps; without a run to fill them in, `loss_normaliser` None is 1,
    `publish_dtype` None is float32 and `parity_versions` None is 4.

    In a gang every rank has a learner. Each call is made on all of them with the same arguments; each
    computes its share of the sequences and returns the same, but only rank 0 has buckets to hand out.

    `engines_keep_kv`: engines do not compute their KV cache again when weights change, so that log-probs of a
    sequence sampled across an update are those of no weights at hand: it is left out of the parity check.

    `base_scores`: the file of them, for an objective that asks for ranks among them.
    """

    def __init__(
        self,
        model_path: str,
        config: LearnerConfig,
        objective: ObjectiveConfig,
        temperature: float,
        seed: int,
        version: int = 0,
        gang: Gang = ALONE,
        *,
        engines_keep_kv: bool = False,
        base_scores: str | Path | None = None,
    ) -> None:
        """Raises ValueError, in one line, for base scores that cannot be read."""
        assert (base_scores is not None) == objective.needs_base_scores
        self._config = config
        self._objective = objective
        self._temperature = temperature
        self._gang = gang
        self._trainer = Trainer(model_path, config, temperature, seed, gang)
        self._policy = self._trainer.policy
        self.packing = self._trainer.packing
        self.version = version
        self.manifest = make_manifest(self._policy.layout, config.publish_dtype or "float32")
        self._parity = ParityCheck(
            self._policy, num_versions=config.parity_versions or 4, engines_keep_kv=engines_keep_kv
        )
        reference = self._policy.copy_weights() if config.kl_coefficient > 0 else None
        self._base_scores = None if base_scores is None else read_base_scores(base_scores)
        self._passes = Passes(self._trainer, config, gang, self._parity, reference, self._base_scores)
        self._begun: list[Part] = []
        """What of the next step is done."""
        self._newest: tuple[list[ScoredGroup], np.ndarray] | None = None
        """Groups of the newest step, and their samples' weights, until they are written; on rank 0."""
        self._buckets: dict[int, Buckets] = {}
        self.published = self._publish()

    def begin_step(self, groups: Sequence[ScoredGroup], num_groups: int) -> None:
        """Pass over some of the next step's `num_groups` groups, while others are not at hand yet.

        Raises what `train_step` does. The step is forgotten then, as it is when `load` follows.
        """
        begun, self._begun = self._begun, []
        self._begun = [*begun, self._pass_over(groups, num_groups, is_first=not begun)]

    def train_step(self, groups: Sequence[ScoredGroup]) -> StepResult:
        """One optimizer step, of these groups and those it was begun with; the same whatever the order in which the
        groups of a part arrived.

        Raises ArithmeticError, parameters and version untouched, when loss or gradient is not finite;
        ValueError for groups of different sizes, or without the demonstration or the base scores that the objective asks for.
        """
        started = time.perf_counter()
        begun, self._begun = self._begun, []
        objective = self._objective_of_step
        assert groups
        num_groups = len(groups) + sum(len(part.groups) for part in begun)
        part = self._pass_over(groups, num_groups, is_first=not begun)
        whole = Part.whole([*begun, part])
        seconds = {"forward_s": whole.forward_s, "backward_s": whole.backward_s}
        groups, weights_BN, sequences = whole.groups, whole.weights_BN, whole.sequences
        facts = whole.facts.over(self._gang)
        if not math.isfinite(facts.loss):
            self._refuse(f"loss is {facts.loss}")
        clock = time.perf_counter()
        trained = self._passes.trained(weights_BN, sequences)
        untrained, num_parity_positions = self._parity.of_others(
            sequences,
            trained,
            budget=self._config.parity_share * self._passes.positions_of_all_ranks(sequences, trained),
            step=self._trainer.num_steps,
            version=self.version,
            divide=self._trainer.share,
        )
        parity = (whole.parity + untrained).over(self._gang)
        self._parity.turns.note(parity, sequences.worker_names, self._trainer.num_steps)
        seconds["parity_s"] = time.perf_counter() - clock
        clock = time.perf_counter()
        try:
            update = self._trainer.update()
        except ArithmeticError as error:
            self._refuse(str(error))
        seconds["optimizer_s"] = time.perf_counter() - clock
        seconds["stepped_at_s"] = time.time()
        clock = time.perf_counter()
        self.version += 1
        self._newest = (groups, weights_BN) if self._gang.rank == 0 else None
        self.published = self._publish()
        seconds["publish_s"] = time.perf_counter() - clock
        ahead_s = sum(one.forward_s + one.backward_s for one in begun)
        seconds["step_s"] = time.perf_counter() - started + ahead_s

        slowest = self._gang.largest(np.array(list(seconds.values())))
        return StepResult(
            groups_B=np.array([group.samples.group for group in groups], np.int64),
            weights_BN=weights_BN,
            version=self.version,
            fingerprint=self.published.fingerprint,
            facts={
                **batch_facts(groups, objective, version=self.version - 1),
                **(win_rates(groups, objective, self._base_scores) if self._base_scores is not None else {}),
                "grad_norm": update.grad_norm,
                "clipped": float(update.is_clipped),
                "learning_rate": update.learning_rate,
                "num_groups": float(len(groups)),
                "num_samples": float(weights_BN.size),
                "positions": whole.positions,
                "prompt_sharing": int(sequences.num_positions_S[trained].sum()) / max(1.0, whole.positions),
                **facts.means(objective.num_selected, self._parity.turns.rounding_kl),
                **({"demonstration_logprob": facts.demonstration_logprob} if whole.demonstrations else {}),
                **parity.facts(),
                "parity_positions": float(num_parity_positions),
                **dict(zip(seconds, slowest.tolist(), strict=True)),
            },
            parity_by_worker=parity.by_worker(sequences.worker_names),
        )

    def write_trajectories(self, path: str | Path) -> None:
        """Write what the newest step was trained on, once, on rank 0. Raises OSError; a part may be left."""
        assert self._newest is not None
        groups, weights_BN = self._newest
        write_trajectories(path, self.version, groups, weights_BN)
        self._newest = None

    def save(self, directory: str | Path) -> None:
        """Write a checkpoint into `directory`; the caller renames it into place."""
        self._trainer.save(
            Path(directory), version=self.version, settings=self._settings(), parity=self._parity.turns
        )

    def load(self, directory: str | Path) -> None:
        """Become the learner that wrote `directory`. Versions published before are forgotten."""
        state = self._trainer.load(Path(directory), self._settings())
        self.version = state.version
        self._begun, self._newest = [], None
        self._parity.turns = state.parity
        self._parity.forget()
        self.published = self._publish()

    def _pass_over(self, groups: Sequence[ScoredGroup], num_groups: int, *, is_first: bool) -> Part:
        if is_first:
            self._trainer.forget_gradients()
        try:
            return self._passes.over(
                groups, self._objective_of_step, num_groups=num_groups, version=self.version
            )
        except ArithmeticError as error:
            self._refuse(str(error))

    def _refuse(self, what: str) -> NoReturn:
        raise ArithmeticError(
            f"{what} in step {self._trainer.num_steps + 1} at version {self.version}; the parameters were left "
            "as they were. Look at rewards and log-probs of this batch, or lower learner.learning_rate"
        )

    def _publish(self) -> PublishedWeights:
        """The current version as it is served; it is also kept, to compare with what engines will sample under it."""
        sums: list[Future[int]] = []
        with ThreadPoolExecutor(1) as beside:

            def add(packed: torch.Tensor) -> None:  # while the next one is packed
                sums.append(beside.submit(tensor_fingerprint, packed))

            weights, buckets = self._policy.publish(self.manifest, self._spare_buckets(), add)
        self._parity.keep(self.version, weights)
        self._buckets[self.version] = buckets
        own_fingerprint = add_fingerprints(one.result() for one in sums)
        if self._gang.rank == 0:
            own_fingerprint = self._policy.fingerprint_of(self.manifest, buckets, own_fingerprint)
        return PublishedWeights(
            version=self.version,
            fingerprint=int(self._gang.gather(np.array(own_fingerprint))[0]),
            buckets=buckets,
        )

    def _spare_buckets(self) -> Buckets | None:
        """Those of a version that nobody looks at any more: one that is not the newest, nor kept for parity as it is."""
        are_kept = self._gang.size == 1 and self._policy.publishes_views
        looked_at = {max(self._buckets, default=0), *(self._parity.versions if are_kept else ())}
        gone = sorted(self._buckets.keys() - looked_at)
        return self._buckets.pop(gone[0]) if gone else None

    @property
    def _objective_of_step(self) -> ObjectiveConfig:
        """Of the next step: a function of the steps made, so that a run that is resumed goes on with the same."""
        return self._objective.at(self._trainer.num_steps)

    def _settings(self) -> dict[str, Any]:
        learner = self._config.model_dump(mode="json", exclude=set(WITHOUT_EFFECT_ON_RESULT))
        objective = self._objective.model_dump(mode="json")
        return {
            **{f"learner.{name}": value for name, value in learner.items()},
            **{f"objective.{name}": value for name, value in objective.items()},
            "temperature": self._temperature,
        }
