"""Everything that can be known to fail is found before any long work starts.

Each check raises ValueError with one line that names the thing, its value and the remedy.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.engine_config import check_known, known_arguments
from actors.model_files import CONFIG, is_adapter, where_models_are
from actors.tokens import encode_demonstrations, load_tokenizer, stop_token_ids
from cluster.config.schema import MetricsConfig, RunConfig
from cluster.fleet.capacity import GPU, check_private_has, resources_here
from cluster.fleet.gpu_memory import gpu_bytes_here
from cluster.fleet.needs import (
    described_by,
    disk_needed,
    fine_tuning_memory,
    is_from_scratch,
    memory_needed,
    model_directory,
    num_adapter_parameters,
    settings_of_model,
)
from cluster.run.base_model import base_is_there
from cluster.run.gpu_remedies import check_shares
from cluster.run.intake import Intake, take_in
from cluster.run.model_checks import (
    check_adaptable,
    check_divisible,
    check_files,
    check_verifier_models,
    warn_of_slow_dtypes,
    warn_of_unread_arguments,
    why_beyond,
)
from cluster.run.token_words import naming_unknown_words
from cluster.tracking.libraries import check_installed
from verifiers.problems.loading import warn_of_shared_prompts
from verifiers.process.trial import try_imports
from verifiers.types import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the checks loaded on the way."""

    train_problems: list[Problem]
    train_prompts: list[tuple[int, ...]]
    test_problems: list[Problem]
    test_prompts: list[tuple[int, ...]]
    tokenizer: Any


def prepare(
    config: RunConfig, run_dir: Path, *, local: bool, port_patience_s: float | None = 0.0
) -> Prepared:
    """Run all checks that need no model; `local`: the workers will run on this machine.

    `port_patience_s`: how long the metrics port may still be taken; None: it is not looked at.
    """
    if local:
        check_private_has(config)
    check_base(config)
    check_verifier_models(config.verifier)
    check_context(config)
    num_adapter_parameters(config)  # refuses a target that the model has not
    check_engine(config)
    check_gpu_shares(config, local=local)
    check_installed(config.tracking)
    if port_patience_s is not None:
        check_port(config.metrics, port_patience_s)
    tokenizer = tokenizer_of(config)
    try_imports(config.verifier)
    judges_here = local and not config.verifier.num_gpus
    train = take_in(config, "train", tokenizer, judges_here=judges_here)
    nothing = Intake(problems=[], prompts=[])
    test = take_in(config, "test", tokenizer, judges_here=judges_here) if config.evaluation else nothing
    warn_of_shared_prompts(train.problems, test.problems)
    if local:
        warn_of_slow_dtypes(config)
        check_memory(config)
    if local or port_patience_s is not None:
        check_disk(config, run_dir)
    return Prepared(
        train_problems=train.problems,
        train_prompts=train.prompts,
        test_problems=test.problems,
        test_prompts=test.prompts,
        tokenizer=tokenizer,
    )


def check_base(config: RunConfig) -> None:
    """The run's model, or what [sft] makes it of, must be there; and [sft] must be able to put it in its place."""
    if config.sft is None or base_is_there(config):
        check_model(config.model)
    elif config.sft.base_model is not None:
        check_model(config.sft.base_model, "sft.base_model")


def check_model(model: str, setting: str = "model") -> None:
    """A local model must be a directory with a config and safetensors; anything else is a hub id, fetched here.

    Its files must fit together (`cluster.run.model_checks`).
    """
    path = Path(model)
    looks_local = path.exists() or model.startswith((".", "/", "~", "runs/")) or model.count("/") > 1
    if looks_local and not path.is_dir():
        raise ValueError(
            f"{setting} = {model!r} is not a directory: give a checkpoint directory, a hub id, or an [sft] section to make one"
        )
    if is_adapter(path):
        raise ValueError(
            f"{setting} = {model!r} is an adapter, not a model: merge it with its base model first: bonfire export {model} "
            "--merged DIR"
        )
    directory = model_directory(model)
    if not (directory / CONFIG).is_file():
        raise ValueError(
            f"{setting} = {model!r} has no config.json: it is no transformers checkpoint{where_models_are(directory)}"
        )
    if not list(directory.glob("*.safetensors")):
        raise ValueError(
            f"{setting} = {model!r} has no *.safetensors file: other formats are not loaded; convert it with save_pretrained"
        )
    check_files(model, directory)


def check_context(config: RunConfig) -> None:
    """The model must have positions for the longest prompt and completion, the same ones whatever their length."""
    if is_from_scratch(config):
        from learner.sft import MAX_POSITIONS

        positions = MAX_POSITIONS
        assert config.sft is not None
        heads = {"num_attention_heads": config.sft.num_heads}
        check_divisible(config.rollout, heads, described_by(config))
    else:
        settings = settings_of_model(config)
        positions = settings.get("max_position_embeddings") or config.rollout.max_model_len
        _check_frequencies(config, settings)
        check_divisible(config.rollout, settings, described_by(config))
        check_adaptable(config.learner, settings, described_by(config))
    if config.rollout.max_model_len > positions:
        raise ValueError(
            f"rollout.max_model_len = {config.rollout.max_model_len} is longer than the {positions} positions of "
            f"model = {described_by(config)!r}: lower it"
        )


def _check_frequencies(config: RunConfig, settings: Mapping[str, Any]) -> None:
    """transformers takes longer wavelengths where a pass has a position beyond the original ones, vLLM where
    sequences may have one.
    """
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type", parameters.get("type"))
        original = (
            parameters.get("original_max_position_embeddings")
            or settings.get("original_max_position_embeddings")
            or parameters.get("max_trained_positions")
        )
        if kind in ("longrope", "su", "dynamic") and original and config.rollout.max_model_len > original:
            raise ValueError(
                f"rollout.max_model_len = {config.rollout.max_model_len} is beyond the {original} positions that model "
                f"= {config.model!r} was made for before its {kind!r} extension, with which a token's log-prob "
                f"depends on what it is computed together with: set it to {original} or less"
            )


def check_engine(config: RunConfig) -> None:
    """Every argument of [rollout.engine] must be one of vLLM's; where that is not installed, workers find out."""
    if config.rollout.engine and (known := known_arguments()):
        check_known(config.rollout.engine, known)


def tokenizer_of(config: RunConfig) -> Any:
    """The model's tokenizer, or the one it will have when [sft] makes it."""
    if is_from_scratch(config):
        from learner.sft import build_tokenizer

        return build_tokenizer()
    tokenizer = load_tokenizer(described_by(config))
    warn_of_unread_arguments(config, tokenizer)
    return tokenizer


def check_port(metrics: MetricsConfig, patience_s: float = 0.0) -> None:
    """The metrics endpoint's port must be free, after `patience_s` at the latest."""
    deadline_s = time.monotonic() + patience_s
    while True:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind((metrics.host, metrics.port))
                return
            except OSError as error:
                if time.monotonic() >= deadline_s:
                    raise metrics.unusable(error) from None
        time.sleep(0.2)


def check_demonstrations(
    config: RunConfig, problems: Sequence[Problem], tokenizer: Any
) -> list[tuple[int, ...]]:
    """Token ids of all demonstrations, if the objective imitates them: every problem must have one, and none
    may be longer than a completion or than what the verifier judges. Empty for other objectives.
    """
    if not config.objective.needs_demonstrations:
        return []
    for problem in problems:
        if problem.demonstration is None:
            raise ValueError(
                f"problem {problem.id!r} has no demonstration, and objective.name = {config.objective.name!r} "
                "imitates one of every problem: set problems.demonstration_field, or choose another objective"
            )
        if len(problem.demonstration) > config.verifier.max_candidate_chars:
            raise ValueError(
                f"the demonstration of problem {problem.id!r} has {len(problem.demonstration)} characters, more than "
                f"verifier.max_candidate_chars = {config.verifier.max_candidate_chars}: raise that, or drop the problem"
            )
    if is_from_scratch(config):
        stop_token_id = tokenizer.eos_token_id
    else:
        stop_token_id = stop_token_ids(described_by(config), tokenizer, config.rollout.chat)[0]
    with naming_unknown_words("a demonstration", config):
        demonstrations = encode_demonstrations(tokenizer, problems, stop_token_id)
    for problem, ids in zip(problems, demonstrations, strict=True):
        if len(ids) > config.rollout.max_tokens:
            raise ValueError(
                f"the demonstration of problem {problem.id!r} has {len(ids)} tokens with its stop token, more than "
                f"rollout.max_tokens = {config.rollout.max_tokens}: raise that, or drop the problem"
            )
    beyond = why_beyond(config, tokenizer)
    for problem, ids in zip(problems, demonstrations, strict=True):
        if why := beyond("the demonstration", problem, ids):
            raise ValueError(why)
    return demonstrations


def check_memory(config: RunConfig) -> None:
    """The machine must have the memory that the plan adds up to."""
    available = psutil.virtual_memory().available
    needed = sum(memory_needed(config, available).values())
    if needed > available:
        workers = "scaling.max_rollout" if config.scaling else "rollout.workers"
        raise ValueError(
            f"this run needs about {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available: "
            f"lower {workers}, learner.micro_batch_tokens or rollout.kv_cache_mib, take a smaller model, or join a cluster with --address"
        )


def check_fine_tuning_memory(config: RunConfig) -> None:
    """The machine must have the memory that [sft] takes to fine-tune its base model."""
    needed, available = fine_tuning_memory(config), psutil.virtual_memory().available
    if needed > available:
        raise ValueError(
            f"[sft] needs about {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available: lower "
            "learner.micro_batch_tokens or learner.ranks, take a smaller model, or join a cluster with --address"
        )


def check_gpu_shares(config: RunConfig, *, local: bool) -> None:
    """What is on a GPU must fit into it, where it is known how large that is."""
    if (gpu_bytes := gpu_bytes_of(config, local=local)) is not None:
        check_shares(config, gpu_bytes, int(resources_here().get(GPU, 0)) if local else None)


def gpu_bytes_of(config: RunConfig, *, local: bool) -> float | None:
    """Memory of a GPU; None where neither engines nor learner are on one, or it is not known."""
    if not (config.rollout.num_gpus or config.learner.num_gpus):
        return None
    if config.gpu_memory_gib is not None:
        return config.gpu_memory_gib * 2**30
    return gpu_bytes_here() if local else None


def disk_free(run_dir: Path) -> int:
    """Bytes free on the file system where the run directory is, or will be."""
    existing = next(path for path in [run_dir, *run_dir.absolute().parents] if path.exists())
    return shutil.disk_usage(existing).free


def check_disk(config: RunConfig, run_dir: Path) -> None:
    """The file system of the run directory must hold what the run writes."""
    needed, free = disk_needed(config), disk_free(run_dir)
    if needed > free:
        raise ValueError(
            f"this run writes about {needed / 2**30:.2f} GiB to {run_dir}, {free / 2**30:.2f} GiB are free: "
            "set run_dir to a larger disk, or lower train.keep_checkpoints"
        )
