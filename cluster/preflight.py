"""Everything that can be known to fail is found before any long work starts.

Each check raises ValueError with one line that names the thing, its value and the remedy.
"""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from actors.tokens import encode_demonstrations, encode_prompts, load_tokenizer, stop_token_ids
from cluster.base import base_is_there
from cluster.config import MetricsConfig, RunConfig
from verifiers.problems import check_problems, load_problems, warn_of_shared_prompts
from verifiers.types import Problem

PROCESS_BYTES = 1.0 * 2**30
"""Resident memory of a worker process that has imported torch and vLLM, without model and cache."""
OPTIMIZER_COPIES = 4
"""Weights, gradients and AdamW's two averages, in float32."""
CHECKPOINT_COPIES = 3
"""Weights and AdamW's two averages, in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What the checks loaded on the way."""

    train_problems: list[Problem]
    test_problems: list[Problem]


def prepare(config: RunConfig, run_dir: Path, *, local: bool, port_patience_s: float = 0.0) -> Prepared:
    """Run all checks that need no model; `local`: the workers will run on this machine."""
    if config.sft is None or base_is_there(config):
        check_model(config.model)
    check_context(config)
    check_port(config.metrics, port_patience_s)
    train_problems = load_problems(config.problems, "train")
    test_problems = load_problems(config.problems, "test") if config.evaluation else []
    check_problems([*train_problems, *test_problems], config.verifier)
    warn_of_shared_prompts(train_problems, test_problems)
    if local:
        check_memory(config)
    check_disk(config, run_dir)
    return Prepared(train_problems=train_problems, test_problems=test_problems)


def check_model(model: str) -> None:
    """A local model must be a directory with a config and safetensors; anything else is a hub id, fetched here."""
    path = Path(model)
    looks_local = path.exists() or model.startswith((".", "/", "~", "runs/")) or model.count("/") > 1
    if not looks_local:
        from learner.model import resolve_model

        resolve_model(model)
        return
    if not path.is_dir():
        raise ValueError(
            f"model = {model!r} is not a directory: give a checkpoint directory, a hub id, or an [sft] section to make one"
        )
    if not (path / "config.json").is_file():
        raise ValueError(f"model = {model!r} has no config.json: it is no transformers checkpoint")
    if not list(path.glob("*.safetensors")):
        raise ValueError(
            f"model = {model!r} has no *.safetensors file: other formats are not loaded; convert it with save_pretrained"
        )


def check_context(config: RunConfig) -> None:
    """The model must have positions for the longest prompt and completion."""
    if _is_to_be_made(config):
        from learner.sft import MAX_POSITIONS

        positions = MAX_POSITIONS
    else:
        settings = json.loads((_directory(config.model) / "config.json").read_text())
        positions = settings.get("max_position_embeddings") or config.rollout.max_model_len
    if config.rollout.max_model_len > positions:
        raise ValueError(
            f"rollout.max_model_len = {config.rollout.max_model_len} is longer than the {positions} positions of "
            f"model = {config.model!r}: lower it"
        )


def tokenizer_of(config: RunConfig) -> Any:
    """The model's tokenizer, or the one its base model will have when [sft] makes it."""
    if _is_to_be_made(config):
        from learner.sft import build_tokenizer

        return build_tokenizer()
    return load_tokenizer(config.model)


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


def check_prompts(config: RunConfig, problems: Sequence[Problem], tokenizer: Any) -> list[tuple[int, ...]]:
    """Token ids of all prompts; the longest must leave room for a completion."""
    with _naming_unknown_words("a prompt", config):
        prompts = encode_prompts(tokenizer, problems, config.rollout.chat)
    room = config.rollout.max_model_len - config.rollout.max_tokens
    for problem, prompt in zip(problems, prompts, strict=True):
        if not 0 < len(prompt) <= room:
            raise ValueError(
                f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, rollout.max_model_len = "
                f"{config.rollout.max_model_len} less rollout.max_tokens = {config.rollout.max_tokens} leaves {room}: "
                "raise the first, lower the second, or drop the problem"
            )
    return prompts


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
    if _is_to_be_made(config):
        stop_token_id = tokenizer.eos_token_id
    else:
        stop_token_id = stop_token_ids(config.model, tokenizer, config.rollout.chat)[0]
    with _naming_unknown_words("a demonstration", config):
        demonstrations = encode_demonstrations(tokenizer, problems, stop_token_id)
    for problem, ids in zip(problems, demonstrations, strict=True):
        if len(ids) > config.rollout.max_tokens:
            raise ValueError(
                f"the demonstration of problem {problem.id!r} has {len(ids)} tokens with its stop token, more than "
                f"rollout.max_tokens = {config.rollout.max_tokens}: raise that, or drop the problem"
            )
    return demonstrations


@contextmanager
def _naming_unknown_words(where: str, config: RunConfig) -> Iterator[None]:
    """Words that the base model's own tokenizer does not know become an error in one line."""
    try:
        yield
    except Exception as error:
        if "WordLevel" not in str(error):
            raise
        raise ValueError(
            f"{where} has a word that model = {config.model!r} has no token for: {error}"
        ) from None


def memory_needed(config: RunConfig) -> dict[str, float]:
    """Estimated bytes by role, on the CPU's side, all workers together, as many as there may be."""
    weights = model_bytes(config)
    rollout, learner = config.rollout, config.learner
    num_rollouts, num_verifiers = config.most_workers
    learner_copies = learner.parity_versions
    if not learner.num_gpus:
        learner_copies += OPTIMIZER_COPIES + (learner.kl_coefficient > 0)
    if learner.ranks > 1:
        # Beside the shards rank 0 has one version in whole, and at times a checkpoint; at the start each rank
        # has all of the model.
        learner_copies = max(learner_copies + 1 + CHECKPOINT_COPIES, learner.ranks + 1)
    needed = {
        "rollout": num_rollouts * (PROCESS_BYTES + 2 * weights + rollout.kv_cache_mib * 2**20),
        "learner": learner.ranks * PROCESS_BYTES + learner_copies * weights,
        "verifier": num_verifiers * 0.15 * 2**30,
        "ray and controller": 1.2 * 2**30,
    }
    if rollout.num_gpus:
        needed["rollout"] = num_rollouts * 2 * PROCESS_BYTES
    return needed


def check_memory(config: RunConfig) -> None:
    """The machine must have the memory that the plan adds up to."""
    needed, available = sum(memory_needed(config).values()), psutil.virtual_memory().available
    if needed > available:
        workers = "scaling.max_rollout" if config.scaling else "rollout.workers"
        raise ValueError(
            f"this run needs about {needed / 2**30:.1f} GiB of memory, {available / 2**30:.1f} GiB are available: "
            f"lower {workers} or rollout.kv_cache_mib, take a smaller model, or join a cluster with --address"
        )


def disk_needed(config: RunConfig) -> float:
    """Estimated bytes of checkpoints (model, two averages, one being written) and trajectories."""
    checkpoints = (config.train.keep_checkpoints + 1) * 3 * model_bytes(config)
    tokens = config.train.steps * config.train.groups_per_step * config.rollout.samples_per_prompt
    return checkpoints + tokens * min(config.rollout.max_tokens, 512) * 12 + 64 * 2**20


def check_disk(config: RunConfig, run_dir: Path) -> None:
    """The file system of the run directory must hold what the run writes."""
    existing = next(path for path in [run_dir, *run_dir.absolute().parents] if path.exists())
    needed, free = disk_needed(config), shutil.disk_usage(existing).free
    if needed > free:
        raise ValueError(
            f"this run writes about {needed / 2**30:.2f} GiB to {run_dir}, {free / 2**30:.2f} GiB are free: "
            "set run_dir to a larger disk, or lower train.keep_checkpoints"
        )


def model_bytes(config: RunConfig) -> float:
    """Bytes of the model in float32."""
    if not _is_to_be_made(config):
        path = _directory(config.model)
        files = list(path.glob("*.safetensors"))
        settings = json.loads((path / "config.json").read_text())
        dtype = settings.get("dtype") or settings.get("torch_dtype") or "float32"
        return sum(file.stat().st_size for file in files) * (1 if dtype == "float32" else 2)
    s = config.sft
    assert s is not None
    per_layer = 4 * s.hidden_size**2 + 3 * s.hidden_size * s.intermediate_size
    return 4.0 * (s.num_layers * per_layer + 220 * s.hidden_size)


def _is_to_be_made(config: RunConfig) -> bool:
    """Whether the model is not there yet and [sft] will make it."""
    return config.sft is not None and not Path(config.model).exists()


def _directory(model: str) -> Path:
    from learner.model import resolve_model

    return Path(model) if Path(model).is_dir() else resolve_model(model)
