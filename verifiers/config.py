"""Settings of the verifiers that judge candidates."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import Field, model_validator

from verifiers.math.config import MathConfig
from verifiers.models.judge_config import JudgeConfig
from verifiers.models.reward_model_config import RewardModelConfig
from verifiers.number_config import Finite, Reserved, Seconds, not_finite
from verifiers.programs.config import PythonTestsConfig
from verifiers.resources_config import CustomResources
from verifiers.section_config import DependentSettings
from verifiers.shape_config import FormatConfig, LengthConfig

Name = Annotated[str, Field(min_length=1)]
Weights = Annotated[dict[Name, Finite], Field(min_length=1)]

SECTIONS = ("math", "python_tests", "reward_model", "judge", "format", "length")
"""Verifiers with settings of their own, in the section of their name."""

NAMING_ANSWERS = ("countdown", "countdown_steps", "exact_match", "math", "python_tests")
"""Verifiers of ours whose verdicts say what a candidate answers, so that equal answers can vote together."""


class VerifierConfig(DependentSettings):
    """Who judges the candidates, with how many workers, and within which limits.

    Settings of a verifier that neither `reward` nor `score` names would have no effect, so they are an error.
    """

    reward: Name | Weights = Field(
        "countdown",
        description="What we want to be true: countdown, countdown_steps, exact_match, math, python_tests, reward_model, judge, format, "
        "length, or package.module:name for a function or class of your own; or several with their weights in a sum, "
        "{ math = 1.0, format = 0.1 }.",
    )
    score: Name | Weights | None = Field(
        None, description="What selects among N, named like reward; None: the scores of reward's verifiers."
    )
    workers: int = Field(1, ge=1, description="Verifier workers to start with.")
    num_cpus: Reserved = Field(
        0.0, ge=0, description="CPUs that Ray reserves for each worker; 0 reserves none."
    )
    num_gpus: Reserved = Field(
        0.0,
        ge=0,
        description="GPUs that Ray reserves for each worker and that its models may use; 0 hides them.",
    )
    resources: CustomResources = Field({})
    timeout_s: Seconds = Field(
        2.0,
        gt=0,
        description="Seconds of wall time one candidate may take before it is a timeout.",
    )
    batch_timeout_s: Seconds = Field(
        300.0,
        gt=0,
        description="Seconds a verifier that judges a whole group at once (a model) may take for it.",
    )
    startup_timeout_s: Seconds = Field(
        300.0,
        gt=0,
        description="Seconds a verifier may take to start: imports, loading a model.",
    )
    max_candidate_chars: int = Field(
        1_000_000,
        ge=1,
        description="Characters above which a candidate is refused without being judged; more than rollout.max_tokens "
        "makes.",
    )
    retries: int = Field(
        2, ge=0, description="Times a candidate is judged again after the verifier's process died on it."
    )
    heartbeat_timeout_s: Seconds = Field(
        20.0,
        gt=1,
        description="Seconds without a sign of life after which a worker is replaced.",
    )
    suspect_after_s: Seconds = Field(
        3.0,
        gt=0,
        description="Seconds that a sign of life, due every second, may be late before others are given a worker's "
        "groups too, and another is started where there is room. It goes on if it answers within heartbeat_timeout_s.",
    )
    options: dict[Name, dict[str, Any]] = Field(
        {}, description="Keyword arguments of classes of your own, by their package.module:name."
    )
    math: MathConfig = MathConfig()
    python_tests: PythonTestsConfig = PythonTestsConfig()
    reward_model: RewardModelConfig | None = Field(None, description="Needed where `reward_model` judges.")
    judge: JudgeConfig | None = Field(None, description="Needed where `judge` judges.")
    format: FormatConfig = FormatConfig()
    length: LengthConfig = LengthConfig()

    @property
    def reward_weights(self) -> dict[str, float]:
        return _weights(self.reward)

    @property
    def score_weights(self) -> dict[str, float] | None:
        return None if self.score is None else _weights(self.score)

    @property
    def names(self) -> tuple[str, ...]:
        """All verifiers in use, the reward's first."""
        return tuple(dict.fromkeys([*self.reward_weights, *(self.score_weights or {})]))

    @property
    def model_sections(self) -> dict[str, RewardModelConfig | JudgeConfig]:
        """Settings of the verifiers that are models, by the name of their section, as far as there are any."""
        sections = {"reward_model": self.reward_model, "judge": self.judge}
        return {name: section for name, section in sections.items() if section is not None}

    @property
    def may_name_answers(self) -> bool:
        """Whether verdicts may have answers; those of a function of the user's own may."""
        return any(name in NAMING_ANSWERS or ":" in name for name in self.names)

    @property
    def label(self) -> str:
        """The verifiers in use, for messages."""
        return " + ".join(map(repr, self.names))

    @model_validator(mode="after")
    def _check(self) -> VerifierConfig:
        names = ", ".join(map(repr, self.names))
        faults = [
            f"{section} has no effect: verifier.reward and verifier.score name only {names}; remove the section, "
            f"or name {section!r}"
            for section in SECTIONS
            if section in self.model_fields_set and section in self._without_effect()
        ]
        faults += [
            f"{name} names no model: set verifier.{name}.model to a directory or hub id"
            for name in self.names
            if name in SECTIONS and getattr(self, name) is None
        ]
        faults += [
            f"options.{name!r} has no effect: verifier.reward and verifier.score name only {names}; "
            "options are for classes of your own"
            for name in self.options
            if name not in self.names or ":" not in name
        ]
        for name, options in self.options.items():
            try:
                json.dumps(options)
            except TypeError as error:
                faults.append(
                    f"options.{name!r} cannot be sent to the verifier's process ({error}): use only JSON's types"
                )
            if place := not_finite(options):
                faults.append(
                    f"options.{name!r}: {place} is not finite: give a large number, or leave it out"
                )
        for setting, weights in (("reward", self.reward_weights), ("score", self.score_weights or {})):
            faults += [
                f"{setting} gives {name!r} the weight 0: remove it, or give it one"
                for name, weight in weights.items()
                if weight == 0
            ]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _without_effect(self) -> set[str]:
        unused = set(SECTIONS) - set(self.names)
        return unused | (set() if self.options else {"options"})


def _weights(named: str | dict[str, float]) -> dict[str, float]:
    return {named: 1.0} if isinstance(named, str) else dict(named)
