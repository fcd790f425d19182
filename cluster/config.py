"""The whole run as one typed config: TOML file, dotted overrides, checks across roles."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from actors.config import RolloutConfig
from cluster.eval_config import EvalConfig
from cluster.scaling_config import ScalingConfig
from learner.config import LearnerConfig, SftConfig
from learner.objective_config import SETTINGS, ObjectiveConfig
from verifiers.config import VerifierConfig
from verifiers.problems_config import ProblemsConfig
from verifiers.section_config import did_you_mean

Section = TypeVar("Section", bound=BaseModel)


class TrainConfig(BaseModel):
    """The loop: how many steps, how far off-policy, what is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(100, ge=1, description="Optimizer steps; each consumes groups_per_step groups.")
    groups_per_step: int = Field(32, ge=1, description="Groups (prompts) in one step's batch.")
    max_staleness: int = Field(
        1, ge=0, description="Policy versions a group may be behind when it is trained; 0: synchronous."
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of prompt order, sampling and learner.")
    checkpoint_every: int = Field(
        50, ge=1, description="Steps between checkpoints; the last step always has one."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept.")
    max_logprob_difference: float | None = Field(
        None,
        gt=0,
        description="Largest tolerated |log-prob| difference, in nats, of engine and learner on the same tokens "
        "and weights; None: 1e-3 with float32 engines and learner, 0.5 when either computes in bfloat16.",
    )
    max_consecutive_failures: int = Field(
        5, ge=1, description="Workers that fail in a row, without a group between, before the run stops."
    )
    stand_ins: bool = Field(
        True,
        description="Start another worker while one does not answer, where a node has room for what it reserves.",
    )
    max_recoveries: int = Field(
        3,
        ge=0,
        description="Times in a row, without a new checkpoint between, that the run goes on by itself from its newest "
        "checkpoint when its learner or controller died or hangs.",
    )
    step_timeout_s: float = Field(600.0, gt=0, description="Seconds one learner step or broadcast may take.")


class MetricsConfig(BaseModel):
    """The Prometheus endpoint of the controller."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", description="Address the endpoint listens on.")
    port: int = Field(9464, ge=0, le=65535, description="Its port; 0: any free one, shown while training.")

    def unusable(self, error: OSError) -> ValueError:
        """What to tell a user whose metrics port cannot be listened on."""
        return ValueError(
            f"metrics.port = {self.port} on {self.host} cannot be used ({error.strerror}): "
            "choose another, or metrics.port=0 for any free one"
        )


class RunConfig(BaseModel):
    """Everything a run is made of. Sections are owned by the roles they configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        min_length=1,
        description="Checkpoint directory or hub id to start from. With an [sft] section: where the base "
        "model made by it is kept.",
    )
    run_dir: str = Field("", description="Directory of this run; empty: runs/<config name>-<time>.")
    problems: ProblemsConfig = ProblemsConfig()
    verifier: VerifierConfig = VerifierConfig()
    rollout: RolloutConfig = RolloutConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    learner: LearnerConfig = LearnerConfig()
    train: TrainConfig = TrainConfig()
    scaling: ScalingConfig | None = Field(
        None, description="Let the controller add and remove workers while it trains."
    )
    evaluation: EvalConfig | None = Field(None, description="Evaluate base and trained model at the end.")
    sft: SftConfig | None = Field(
        None, description="Make the base model from scratch first, if it is missing."
    )
    metrics: MetricsConfig = MetricsConfig()

    @property
    def shown_k(self) -> int:
        """k of the pass@k shown while training: N, or n where a group is smaller."""
        return min(self.objective.num_select, self.rollout.samples_per_prompt)

    @property
    def most_workers(self) -> tuple[int, int]:
        """Rollout and verifier workers at most, as far as the run itself decides it."""
        if self.scaling:
            return self.scaling.max_rollout, self.scaling.max_verifier
        return self.rollout.workers, self.verifier.workers

    @property
    def logprob_difference_limit(self) -> float:
        """`train.max_logprob_difference`, or what the precision in use allows."""
        if self.train.max_logprob_difference is not None:
            return self.train.max_logprob_difference
        return 1e-3 if self.rollout.dtype == self.learner.dtype == "float32" else 0.5

    @model_validator(mode="after")
    def _roles_agree(self) -> RunConfig:
        n, needed = self.rollout.samples_per_prompt, self.objective.num_samples_needed
        if n < needed:
            objective = self.objective
            if objective.has_effect("baseline"):
                why = f"objective.num_select = {objective.num_select} with its baseline has an unbiased gradient only"
                remedy = "raise the first or lower the second"
            else:
                why = f"objective.name = {objective.name!r} has a gradient only"
                remedy = "raise it"
            raise ValueError(
                f"rollout.samples_per_prompt = {n} is too few: {why} from {needed} samples on; {remedy}"
            )
        if self.learner.parity_versions <= self.train.max_staleness:
            raise ValueError(
                f"learner.parity_versions = {self.learner.parity_versions} must exceed train.max_staleness = "
                f"{self.train.max_staleness}: the weights a group was sampled under are needed to check its log-probs"
            )
        if self.learner.publish_dtype != self.rollout.dtype:
            raise ValueError(
                f"learner.publish_dtype = {self.learner.publish_dtype!r} differs from rollout.dtype = "
                f"{self.rollout.dtype!r}: the engines must hold exactly what is published; set both alike"
            )
        if self.rollout.max_tokens >= self.rollout.max_model_len:
            raise ValueError(
                f"rollout.max_tokens = {self.rollout.max_tokens} leaves no room for a prompt in "
                f"rollout.max_model_len = {self.rollout.max_model_len}: lower the first or raise the second"
            )
        for role, workers in (("rollout", self.rollout.workers), ("verifier", self.verifier.workers)):
            low, high = self.scaling.bounds(role) if self.scaling else (workers, workers)
            if not low <= workers <= high:
                raise ValueError(
                    f"{role}.workers = {workers} is outside of scaling.min_{role} = {low} to scaling.max_{role} = "
                    f"{high}: the run begins with it; change one of them"
                )
        if self.evaluation is None and self.problems.held_out_settings:
            raise ValueError(
                "\n".join(
                    f"problems.{name} = {value!r} has no effect without an [evaluation] section: add one, or remove it"
                    for name, value in self.problems.held_out_settings.items()
                )
            )
        return self


def load_config(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a TOML file and apply `key.path=value` overrides (values in TOML syntax; bare words are strings).

    An override of `objective.name` leaves out what the file sets for its own objective only.
    Raises ValueError, one line per problem, each naming the dotted path, the value and the remedy.
    """
    try:
        settings = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ValueError(f"config {path} does not exist: see examples/ for one to start from") from None
    except OSError as error:
        raise ValueError(f"config {path} cannot be read ({error.strerror}): give a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path} is not valid TOML: {error}") from None
    _make_room_for_objective(settings, overrides)
    for override in overrides:
        _apply_override(settings, override)
    given = [override.partition("=")[0].strip() for override in overrides]
    return parse_config(settings, source=str(path), overridden=given)


def is_override(argument: str) -> bool:
    """Whether a KEY=VALUE names a setting: its key has a dot, and a section of the config before it."""
    section, dot, _ = argument.partition("=")[0].partition(".")
    field = RunConfig.model_fields.get(section)
    return bool(dot) and "=" in argument and field is not None and section_of(field.annotation) is not None


def parse_config(
    settings: dict[str, Any], *, source: str = "config", overridden: Sequence[str] = ()
) -> RunConfig:
    """Validate settings, those `overridden` on the command line and the rest from `source`.

    Raises ValueError, one line per problem.
    """

    def located(line: str) -> str:
        # A line begins with the path at fault; an override may have set all of a section.
        path = line.partition(" ")[0]
        given = any(path == key or path.startswith(f"{key}.") for key in overridden)
        return f"{'command line' if given else source}: {line}"

    try:
        return RunConfig.model_validate(settings)
    except ValidationError as error:
        lines = [located(line) for problem in error.errors() for line in _describe(problem)]
        raise ValueError("\n".join(lines)) from None


def parse_section(section: type[Section], overrides: Sequence[str]) -> Section:
    """A section of its own, from `key=value` alone. Raises ValueError, one line per problem."""
    settings: dict[str, Any] = {}
    for override in overrides:
        _apply_override(settings, override)
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        lines = [line for problem in error.errors() for line in _describe(problem, section)]
        raise ValueError("\n".join(lines)) from None


def _make_room_for_objective(settings: dict[str, Any], overrides: Sequence[str]) -> None:
    """Drop from the file's [objective] what has no effect on the objective that an override names."""
    pairs = [override.partition("=") for override in overrides]
    names = [text.strip(" \"'") for key, _, text in pairs if key.strip() == "objective.name"]
    section = settings.get("objective")
    if not names or names[-1] not in SETTINGS or not isinstance(section, dict):
        return
    others = ObjectiveConfig.model_fields.keys() - SETTINGS[names[-1]]
    settings["objective"] = {name: value for name, value in section.items() if name not in others}


def _apply_override(settings: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not all(key.strip().split(".")):
        raise ValueError(f"override {override!r} is not of the form key.path=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, leaf = key.strip().split(".")
    section = settings
    for parent in parents:
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ValueError(  # noqa: TRY004 - the user's text is wrong, not a type
                f"override {override!r}: {parent!r} is a setting, not a section"
            )
    section[leaf] = value


def _describe(problem: Any, model: type[BaseModel] = RunConfig) -> list[str]:
    """One line per fault. A section's own check names its settings first, with their section or without."""
    path = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return [
            f"{path} is not a setting{_suggestion(problem['loc'], model)}; remove it or see `bonfire settings`"
        ]
    if problem["type"] == "missing":
        return [f"{path} is missing: set it in the file or give {path}=... on the command line"]
    if problem["type"] == "value_error":
        section = f"{path}." if path else ""
        return [section + line.removeprefix(section) for line in message.splitlines()]
    if problem["type"] == "literal_error" and isinstance(problem["input"], str):
        choices = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
        message += did_you_mean(problem["input"], choices)
    return [f"{path} = {problem['input']!r}: {message[0].lower()}{message[1:]}"]


def _suggestion(location: tuple[Any, ...], model: Any) -> str:
    for part in location[:-1]:
        field = model.model_fields.get(str(part))
        model = section_of(field.annotation) if field else None
        if model is None:
            return ""
    prefix = ".".join([*map(str, location[:-1]), ""])
    return did_you_mean(str(location[-1]), list(model.model_fields), prefix=prefix)


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field of this type holds, also if it may be left out; None for a plain setting."""
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
