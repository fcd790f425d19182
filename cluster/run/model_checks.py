"""What can be known of a model from its files, before a process is started for it: minutes of loading are saved.

Each check raises ValueError with one line that names the thing, its value and the remedy.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from actors.chat import unread_arguments, uses_chat_template
from actors.config import RolloutConfig
from actors.model_files import CONFIG, check_settings, read_object, stored_shapes, text_settings
from cluster.config.schema import RunConfig
from cluster.fleet.needs import described_by, is_from_scratch, model_directory
from learner.config import LearnerConfig
from verifiers.config import VerifierConfig
from verifiers.types import Problem

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "word_embeddings.weight",
    "embed_in.weight",
    "tok_embeddings.weight",
)

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
CPUINFO = Path("/proc/cpuinfo")
_WITH_BFLOAT16 = {"avx512f", "amx_bf16", "avx_ne_convert"}
"""Flags of x86 processors on which oneDNN multiplies matrices in bfloat16; elsewhere it does so element by element."""


def check_files(model: str, directory: Path) -> None:
    """Settings, architecture and weights of a model fit together, as far as files tell."""
    check_settings(directory)
    stored = stored_shapes(directory)
    from learner.model.fit import check_architecture, check_weights  # it takes seconds to import torch

    config = check_architecture(directory, model)
    check_weights(config, stored, directory)


def check_verifier_models(config: VerifierConfig) -> None:
    """The settings of models that judge, where they are directories here; the rest is said when a verifier starts."""
    for section in config.model_sections.values():
        if Path(section.model).is_dir():
            check_settings(Path(section.model), trains=False)


def with_verifier_models_found(config: RunConfig) -> RunConfig:
    """Models of verifiers that are directories here by their absolute paths: workers have other working directories."""
    found = {
        name: section.model_copy(update={"model": str(Path(section.model).absolute())})
        for name, section in config.verifier.model_sections.items()
        if Path(section.model).is_dir()
    }
    return (
        config.model_copy(update={"verifier": config.verifier.model_copy(update=found)}) if found else config
    )


def embedding_rows(directory: Path) -> int | None:
    """Rows of the input embedding: tokens beyond them cannot be read. None where no file tells."""
    for name, stored in stored_shapes(directory).items():
        if name.endswith(_EMBEDDINGS) and len(stored.shape) == 2:
            return stored.shape[0]
    return text_settings(read_object(directory / CONFIG)).get("vocab_size")


def why_beyond(config: RunConfig, tokenizer: Any) -> Callable[[str, Problem, Sequence[int]], str | None]:
    """A function that says why the tokens of a prompt, or of a demonstration, cannot be read: one has no row in the
    model's embedding. None: each has one.
    """
    rows = None if is_from_scratch(config) else embedding_rows(model_directory(described_by(config)))

    def why(what: str, problem: Problem, tokens: Sequence[int]) -> str | None:
        if rows is None or (largest := max(tokens, default=0)) < rows:
            return None
        return (
            f"{what} of problem {problem.id!r} has the token {largest} ({tokenizer.convert_ids_to_tokens(largest)!r}), "
            f"model = {described_by(config)!r} has an embedding of {rows} rows: its tokenizer belongs to another model, or has tokens "
            "added; take the model's own, or call resize_token_embeddings and save both"
        )

    return why


def check_divisible(rollout: RolloutConfig, settings: Mapping[str, Any], model: str) -> None:
    """The parts of an engine must have as many attention heads each, and whole ones of keys and values."""
    parts = rollout.tensor_parallel
    heads = settings.get("num_attention_heads") or parts
    of_keys = settings.get("num_key_value_heads") or heads
    widths = [settings.get(name) or 0 for name in ("intermediate_size", "moe_intermediate_size")]

    def divides(number: int) -> bool:
        whole_heads = heads % number == 0 and (of_keys % number == 0 or number % of_keys == 0)
        return whole_heads and not any(width % number for width in widths)

    if not divides(parts):
        possible = [str(number) for number in range(1, heads + 1) if divides(number)]
        raise ValueError(
            f"rollout.tensor_parallel = {parts} does not divide model = {model!r} ({heads} attention heads, {of_keys} of keys "
            f"and values, feed-forward layers of {max(widths)}): set it to {' or '.join(possible)}"
        )


def check_adaptable(config: LearnerConfig, settings: Mapping[str, Any], model: str) -> None:
    """vLLM has a place for adapters in each expert, or in none: not in all other layers alone."""
    experts = next((settings[name] for name in _EXPERTS if settings.get(name)), 0)
    if config.rank_apart and experts:
        raise ValueError(
            f"learner.lora.publish = 'adapter' with model = {model!r}, which has {experts} experts: set "
            "learner.lora.publish = 'merged'"
        )


def warn_of_unread_arguments(config: RunConfig, tokenizer: Any) -> None:
    """Say on standard error which of `rollout.chat.arguments` the template does not mention."""
    chat = config.rollout.chat
    if not chat.arguments or not uses_chat_template(tokenizer, chat):
        return
    for name in unread_arguments(tokenizer, chat):
        print(
            f"bonfire: warning: rollout.chat.arguments.{name} = {chat.arguments[name]!r} changes nothing: the chat template of "
            f"model = {config.model!r} does not mention {name!r}; correct the name, or remove it",
            file=sys.stderr,
        )


def warn_of_slow_dtypes(config: RunConfig) -> None:
    """Say on standard error where this machine's CPU is to compute in bfloat16 and cannot.

    On an AMD EPYC of 2021 (AVX2) a matrix product reaches 52 GFLOPS in float32 and 0.8 in bfloat16.
    """
    slow = [
        f"{name}.dtype"
        for name, section in (("rollout", config.rollout), ("learner", config.learner))
        if section.dtype == "bfloat16" and not section.num_gpus
    ]
    if slow and is_slow_in_bfloat16():
        print(
            f"bonfire: warning: {' and '.join(slow)} = 'bfloat16': this machine's CPU has no instructions for it and takes up "
            f"to 60 times as long as in float32: set {' '.join(f'{name}=float32' for name in slow)}",
            file=sys.stderr,
        )


def is_slow_in_bfloat16() -> bool:
    """Whether this machine has an x86 processor without instructions for it, as far as Linux says."""
    try:
        text = CPUINFO.read_text()
    except OSError:
        return False
    flags = next((set(line.split()) for line in text.splitlines() if line.startswith("flags")), None)
    return flags is not None and not flags & _WITH_BFLOAT16
