"""An engine and a learner of the same model, and the ways in which the engine can be wrong while it says it is right."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from actors.config import RolloutConfig
from actors.engine import Engine
from actors.types import Lease, Piece, SampleGroup
from actors.weights.manifest import views
from cluster.config.parse import parse_config
from cluster.config.schema import RunConfig
from cluster.run.health import Health
from learner.learner import Learner
from learner.objectives.config import ObjectiveConfig
from learner.types import StepResult
from tests.shared.engine import ENGINE, TIMEOUT_S
from tests.shared.tiny_model import score

PROMPTS = [tuple((start + 7 * place) % 44 + 10 for place in range(45)) for start in range(8)]
"""Longer than one KV block of 32 tokens."""
LAYER = ".layers.1."


class Pair:
    """A learner that has taken some steps, and an engine that serves whatever it is given."""

    def __init__(self, engine: Engine, model: str, precision: str, **learner: Any) -> None:
        """`learner`: more settings of it."""
        self.engine = engine
        self.precision = precision
        self._config: RunConfig = parse_config(
            {
                "model": model,
                "rollout": {"dtype": precision, "temperature": ENGINE.temperature},
                "learner": {
                    "dtype": precision, "publish_dtype": precision, "learning_rate": 2e-4, "warmup_steps": 0,
                    **learner,
                },
                "objective": {"name": "rloo"},
            }
        )  # fmt: skip
        config = self._config.learner
        self.learner = Learner(
            model, config, ObjectiveConfig(name="rloo"), ENGINE.temperature, 0, engine.version + 1
        )
        self._groups = itertools.count(1000)

    @property
    def version(self) -> int:
        return self.learner.version

    def weights(self) -> tuple[np.ndarray, ...]:
        return tuple(bucket.copy() for bucket in self.learner.published.buckets)

    def serve(self, buckets: tuple[np.ndarray, ...], version: int) -> None:
        self.engine.update_weights(version, self.learner.manifest, list(buckets)).result(TIMEOUT_S)

    @contextmanager
    def kept_cache(self) -> Iterator[None]:
        """Updates leave the KV of the weights before in the cache."""
        core: Any = self.engine._llm.engine_core
        scheduler = core.engine_core.scheduler
        scheduler.reset_prefix_cache = lambda **_: True
        try:
            yield
        finally:
            del scheduler.reset_prefix_cache

    def sample(
        self, meanwhile: Callable[[], None] = lambda: None, temperature: float | None = None
    ) -> list[SampleGroup]:
        leases = [
            Lease(
                piece=Piece(number, 0, ENGINE.samples_per_prompt),
                problem_id="p",
                prompt_token_ids=prompt,
                seed=8 * number,
                temperature=temperature,
            )
            for number, prompt in zip(self._groups, PROMPTS)
        ]
        futures = self.engine.sample(leases)
        meanwhile()
        return [
            as_group(lease, future.result(TIMEOUT_S)) for lease, future in zip(leases, futures, strict=True)
        ]

    def step_of(self, groups: list[SampleGroup]) -> StepResult:
        """Train on the groups, with rewards that teach nothing: the policy moves, but does not collapse."""
        rewards = [np.random.default_rng(group.seed).random(group.num_samples) for group in groups]
        return self.learner.train_step([score(*scored) for scored in zip(groups, rewards, strict=True)])

    def judge(self, result: StepResult) -> None:
        """What the controller does with a step: raises Halt."""
        Health(self._config).check_parity(result.version, result.parity_by_worker)

    def after_steps(self, num_steps: int) -> tuple[np.ndarray, ...]:
        """Take steps in which the engine is right; the weights before them."""
        before = self.weights()
        for _ in range(num_steps):
            self.serve(self.weights(), self.version)
            self.judge(self.step_of(self.sample()))
        return before

    def mixed(self, old: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        """The newest weights, but one layer is of the old ones."""
        new = self.weights()
        theirs = dict(views(self.learner.manifest, old))
        for name, view in views(self.learner.manifest, new):
            if LAYER in name:
                view.copy_(theirs[name])
        return new


def as_group(lease: Lease, completions: Sequence[Any]) -> SampleGroup:
    offsets = np.concatenate([[0], np.cumsum([len(one.token_ids) for one in completions])]).astype(np.int32)
    versions = np.zeros(offsets[-1], np.int32)
    for start, one in zip(offsets[:-1], completions, strict=True):
        for span in one.weight_versions:
            versions[start + span.start : start + span.end] = int(span.version)
    return SampleGroup(
        group=lease.piece.group,
        problem_id=lease.problem_id,
        workers=("rollout-0",) * len(completions),
        seed=lease.seed,
        prompt_token_ids=np.array(lease.prompt_token_ids, np.int32),
        offsets=offsets,
        token_ids=np.concatenate([one.token_ids for one in completions]).astype(np.int32),
        logprobs=np.concatenate([one.logprobs.logprobs for one in completions]).astype(np.float32),
        versions=versions,
        texts=("",) * len(completions),
        finish_reasons=tuple(one.finish_reason for one in completions),
    )


def stale_weights(pair: Pair, old: tuple[np.ndarray, ...]) -> list[SampleGroup]:
    """The engine says the newest version and serves an old one."""
    pair.serve(old, pair.version)
    return pair.sample()


def one_layer_stale(pair: Pair, old: tuple[np.ndarray, ...]) -> list[SampleGroup]:
    pair.serve(pair.mixed(old), pair.version)
    return pair.sample()


def another_temperature(pair: Pair, old: tuple[np.ndarray, ...]) -> list[SampleGroup]:
    pair.serve(pair.weights(), pair.version)
    return pair.sample(temperature=0.9 * ENGINE.temperature)


def stale_cache_of_prompts(pair: Pair, old: tuple[np.ndarray, ...]) -> list[SampleGroup]:
    """Prompts were sampled from under old weights, and their KV outlives the update."""
    pair.engine._call(pair.engine._llm.reset_prefix_cache).result(TIMEOUT_S)
    with pair.kept_cache():
        pair.serve(old, pair.version)
        pair.sample()
        pair.serve(pair.weights(), pair.version)
        return pair.sample()


def stale_cache_in_flight(pair: Pair, old: tuple[np.ndarray, ...]) -> list[SampleGroup]:
    """Sequences sampled under a version that the learner has not go on under the newest one."""

    def update() -> None:
        begun_s = pair.engine.clock.busy_s
        while pair.engine.clock.busy_s == begun_s:  # until a step is over
            time.sleep(0.0005)
        with pair.kept_cache():
            pair.serve(pair.weights(), pair.version)

    pair.serve(old, pair.version - 1)
    return pair.sample(update)


FAULTS = (stale_weights, one_layer_stale, another_temperature, stale_cache_of_prompts, stale_cache_in_flight)


def engine_of(model: str, precision: str, **settings: Any) -> Engine:
    config = RolloutConfig(**{**ENGINE.model_dump(), "dtype": precision, **settings})
    return Engine(model, config, stop_token_ids=[1])
