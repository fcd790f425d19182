"""The whole run as one typed config, with the checks across roles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from actors.config import RolloutConfig
from cluster.config.evaluation import EvalConfig, k_of
from cluster.config.scaling import ScalingConfig
from cluster.config.tracking import TrackingConfig
from learner.config import LearnerConfig
from learner.objectives.config import ObjectiveConfig
from learner.supervised.config import SftConfig
from verifiers.config import NAMING_ANSWERS, VerifierConfig
from verifiers.number_config import Finite, Seconds
from verifiers.problems.config import ProblemsConfig


class TrainConfig(BaseModel):
    """The loop: how many steps, how far off-policy, what is kept."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(100, ge=1, description="Optimizer steps; each consumes groups_per_step groups.")
    groups_per_step: int = Field(32, ge=1, description="Groups (prompts) in one step's batch.")
    max_staleness: int = Field(
        1, ge=0, description="Policy versions a group may be behind when it is trained; 0: synchronous."
    )
    parts_per_step: int = Field(
        4,
        ge=1,
        description="Parts of a batch, about equal, over which the learner passes as they come, while the rest is "
        "sampled; 1: it waits for the whole batch.",
    )
    seed: int = Field(0, ge=0, lt=2**31, description="Seed of prompt order, sampling and learner.")
    checkpoint_every: int = Field(
        50, ge=1, description="Steps between checkpoints; the last step always has one."
    )
    keep_checkpoints: int = Field(2, ge=1, description="Newest checkpoints kept.")
    keep_best: str | None = Field(
        None,
        description="Also keep the checkpoint that the evaluations while it trains (evaluation.every) find best, by "
        "'pass@K', 'best_of@K', 'majority@K' or 'reward'; RUN_DIR/best leads to it.",
    )
    stop_when_worse_for: int | None = Field(
        None,
        ge=1,
        description="Evaluations in a row that are no better than the best before them, by keep_best, after which the run "
        "ends; None: it goes on.",
    )
    max_parity_mean: Finite | None = Field(
        None,
        gt=0,
        description="Mean |log-prob| difference, in nats, of an engine and the learner on the same tokens and weights, "
        "above which the run stops; None: 5e-4 with float32 engines and learner, 0.1 when either is bfloat16.",
    )
    max_parity_kl: Finite | None = Field(
        None,
        gt=0,
        description="The same for the KL divergence from engine to learner (k3, nats a token); None: 1e-6 with "
        "float32 engines and learner, 0.005 when either is bfloat16.",
    )
    max_consecutive_failures: int = Field(
        5,
        ge=1,
        description="Workers that fail in a row, without a finished group between, or problems in a row on which a "
        "verifier fails, before the run stops.",
    )
    max_unjudged_problems: int = Field(
        10,
        ge=0,
        description="Problems on which the verifier fails again and again that may be set aside, while the run goes on "
        "with the others.",
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
    stop_when_nothing_learned_for: int | None = Field(
        None,
        ge=1,
        description="Steps in a row in which no sample has a weight, after which the run stops with a checkpoint; None: "
        "it only says so.",
    )
    step_timeout_s: Seconds = Field(
        600.0, gt=0, description="Seconds one learner step or broadcast may take."
    )

    @field_validator("keep_best")
    @classmethod
    def _is_a_criterion(cls, keep_best: str | None) -> str | None:
        if keep_best is not None:
            k_of(keep_best)
        return keep_best


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

    @field_validator("host")
    @classmethod
    def _is_a_name_of_hosts(cls, host: str) -> str:
        try:
            host.encode("idna")
            is_one = not ("\0" in host or any(letter.isspace() for letter in host))
        except UnicodeError:
            is_one = False
        if not is_one:
            raise ValueError(
                f"= {host!r} is no name of a host: give an address of this machine, such as 127.0.0.1"
            )
        return host


Section = TypeVar("Section", bound=BaseModel)


def _with_what_follows(section: Section, following: Mapping[str, Any]) -> Section:
    """The section with values for what is None in it, which still count as not given."""
    missing = {name: value for name, value in following.items() if getattr(section, name) is None}
    if not missing:
        return section
    filled = section.model_copy(update=missing)
    filled.model_fields_set.difference_update(missing)
    return filled


class RunConfig(BaseModel):
    """Everything a run is made of. Sections are owned by the roles they configure."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        min_length=1,
        description="Checkpoint directory or hub id to start from. With an [sft] section: where the base model that it makes "
        "is kept.",
    )
    run_dir: str = Field("", description="Directory of this run; empty: runs/<config name>-<time>.")
    gpu_memory_gib: Finite | None = Field(
        None,
        gt=0,
        le=1024,
        description="GiB that one GPU has, by which it is checked that what is on it fits; None: of the smallest of this "
        "machine, where it has one.",
    )
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
        None,
        description="Make the model first, if it is missing: by fine-tuning another one, or from scratch.",
    )
    metrics: MetricsConfig = MetricsConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def during_ks(self) -> tuple[int, ...]:
        """k of what an evaluation while it trains estimates; none without one."""
        if not self.evaluates_during:
            return ()
        assert self.evaluation is not None
        ks = {k for k in self.evaluation.ks if k <= self.evaluation.during_samples} | {1}
        kept = k_of(self.train.keep_best) if self.train.keep_best else None
        return tuple(sorted(ks | ({kept} if kept else set())))

    @property
    def during_shown(self) -> tuple[str, ...]:
        """Names of the estimates that the console shows of an evaluation while it trains."""
        largest = f"pass@{max(self.during_ks, default=1)}"
        return tuple(dict.fromkeys(["pass@1", self.train.keep_best or largest]))

    @property
    def evaluates_during(self) -> bool:
        """Whether there are evaluations while it trains."""
        return self.evaluation is not None and self.evaluation.every > 0

    @property
    def most_workers(self) -> tuple[int, int]:
        """Rollout and verifier workers at most, as far as the run itself decides it."""
        if self.scaling:
            return self.scaling.max_rollout, self.scaling.max_verifier
        return self.rollout.workers, self.verifier.workers

    @property
    def parity_limits(self) -> tuple[float, float]:
        """`train.max_parity_mean` and `train.max_parity_kl`, or what the precision in use allows.

        From `benchmarks/parity.py`: 2.5 to 3 times what a sound bfloat16 run of a real model shows, 90 times
        and more in float32.
        """
        is_exact = self.rollout.dtype == self.learner.dtype == "float32"
        mean, kl = (5e-4, 1e-6) if is_exact else (0.1, 0.005)
        train = self.train
        return train.max_parity_mean or mean, train.max_parity_kl or kl

    @model_validator(mode="after")
    def _fill_in_what_follows(self) -> RunConfig:
        """Settings that follow from other sections where they are not given."""
        learner = self.learner
        following: dict[str, Any] = {
            "publish_dtype": self.rollout.dtype,
            "loss_normaliser": float(self.rollout.max_tokens),
            "parity_versions": self.train.max_staleness + 1,
            **({"schedule_steps": self.train.steps} if learner.decays else {}),
        }
        return self.model_copy(
            update={
                "learner": _with_what_follows(learner, following),
                "rollout": _with_what_follows(self.rollout, {"adapter_rank": learner.rank_apart}),
            }
        )

    @model_serializer(mode="wrap")
    def _omit_what_is_to_follow_anew(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What a run keeps is written; what must agree with the other sections follows when it is read."""
        written: dict[str, Any] = serialize(self)
        for name in {"publish_dtype", "parity_versions"} - self.learner.model_fields_set:
            del written["learner"][name]
        if "adapter_rank" not in self.rollout.model_fields_set:
            written["rollout"].pop("adapter_rank", None)
        return written

    @model_validator(mode="after")
    def _sft_has_a_base_and_a_place(self) -> RunConfig:
        if self.sft is None:
            return self
        problems = self.problems
        may_be_puzzles = problems.source == "countdown" or (problems.source, problems.format) == (
            "files",
            "rows",
        )
        if self.sft.base_model is None and not may_be_puzzles:
            raise ValueError(
                f"sft.base_model is not set: without it [sft] makes a countdown model, and problems.format = "
                f"{problems.format!r} has no countdown puzzles; name the model that it is to fine-tune on the problems' "
                "demonstrations"
            )
        if (
            self.sft.base_model is not None
            and Path(self.sft.base_model).absolute() == Path(self.model).absolute()
        ):
            raise ValueError(
                f"model = {self.model!r} is sft.base_model too: name another directory for what [sft] makes of it"
            )
        return self

    @model_validator(mode="after")
    def _roles_agree(self) -> RunConfig:
        n, needed = self.rollout.samples_per_prompt, self.objective.num_samples_needed
        if n < needed:
            objective = self.objective
            if objective.has_effect("baseline"):
                why = f"objective.num_select = {objective.largest_num_select} with its baseline has an unbiased gradient only"
                remedy = "raise the first or lower the second"
            else:
                why = f"objective.name = {objective.name!r} has a gradient only"
                remedy = "raise it"
            raise ValueError(
                f"rollout.samples_per_prompt = {n} is too few: {why} from {needed} samples on; {remedy}"
            )
        if self.objective.needs_answers and not self.verifier.may_name_answers:
            raise ValueError(
                f"objective.name = {self.objective.name!r} counts answers, and verifier {self.verifier.label} names none: "
                f"use one of {', '.join(NAMING_ANSWERS)}, or a function of your own whose Verdict has an answer, or "
                "choose another objective"
            )
        if (self.learner.parity_versions or 0) <= self.train.max_staleness:
            raise ValueError(
                f"learner.parity_versions = {self.learner.parity_versions} must exceed train.max_staleness = "
                f"{self.train.max_staleness}: the weights a group was sampled under are needed to check its log-probs"
            )
        if self.learner.publish_dtype != self.rollout.dtype:
            raise ValueError(
                f"learner.publish_dtype = {self.learner.publish_dtype!r} differs from rollout.dtype = "
                f"{self.rollout.dtype!r}: the engines must hold exactly what is published; "
                "leave the first out"
            )
        if self.rollout.adapter_rank != self.learner.rank_apart:
            raise ValueError(
                f"rollout.adapter_rank = {self.rollout.adapter_rank} is not what the learner publishes (learner.lora.rank with "
                f"learner.lora.publish = 'adapter': {self.learner.rank_apart}): leave it out"
            )
        dtypes = (self.learner.weights_dtype, self.rollout.dtype)
        if self.learner.lora is not None and dtypes == ("bfloat16", "float32"):
            raise ValueError(
                "learner.weights_dtype = 'bfloat16' with [learner.lora] and rollout.dtype = 'float32': the frozen weights would "
                "be served in more digits than they are trained beside; set learner.weights_dtype = 'float32', or rollout.dtype "
                "= 'bfloat16'"
            )
        if self.rollout.adapter_rank and self.rollout.tensor_parallel > 1:
            raise ValueError(
                f"rollout.tensor_parallel = {self.rollout.tensor_parallel} with learner.lora.publish = 'adapter': adapters are "
                "served by engines of one part; set learner.lora.publish = 'merged', or rollout.tensor_parallel = 1"
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
        self._check_keep_best()
        if self.evaluation is None and self.problems.held_out_settings:
            raise ValueError(
                "\n".join(
                    f"problems.{name} = {value!r} has no effect without an [evaluation] section: add one, or remove it"
                    for name, value in self.problems.held_out_settings.items()
                )
            )
        return self

    def _check_keep_best(self) -> None:
        train, evaluation = self.train, self.evaluation
        if train.stop_when_worse_for is not None and train.keep_best is None:
            raise ValueError(
                f"train.stop_when_worse_for = {train.stop_when_worse_for} has nothing to go by: set train.keep_best, such as "
                "'pass@16', or remove it"
            )
        if train.keep_best is None:
            return
        if evaluation is None or not evaluation.every:
            raise ValueError(
                f"train.keep_best = {train.keep_best!r} needs evaluations while it trains: set evaluation.every, such as 25, "
                "or remove it"
            )
        if (k := k_of(train.keep_best)) and k > evaluation.during_samples:
            raise ValueError(
                f"train.keep_best = {train.keep_best!r} cannot be estimated from evaluation.during_samples = "
                f"{evaluation.during_samples}: raise that to {k} or more, or choose a smaller k"
            )
