"""The policy: a causal language model from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from learner.model import attention


def resolve_model(model: str) -> Path:
    """The directory of a local checkpoint or hub id. Raises ValueError naming one that is neither."""
    path = Path(model)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ValueError(
                f"model = {model!r} has no config.json: name a directory written by save_pretrained"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted, unwanted = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"], ["consolidated*", "*/*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"model = {model!r} is neither a directory nor a hub id that can be downloaded "
            f"({type(error).__name__}): name an existing directory, or fetch the model first"
        ) from error


def load_model(model: str, device: str = "cpu") -> Any:
    """Float32 weights, in inference mode (no dropout) but with gradients.

    Raises ValueError for a missing or damaged checkpoint.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    directory = resolve_model(model)
    names_on_disk = _names_on_disk(directory)
    logging.disable_progress_bar()
    try:
        policy = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention.NAME,
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"model = {model!r} does not load: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error
    policy.eval().to(device)
    renamed = [name for name, _ in policy.named_parameters() if name not in names_on_disk]
    if renamed:
        raise ValueError(
            f"model = {model!r} lacks {renamed[0]!r} among its stored weights ({len(renamed)} such names): "
            "it is incomplete, or of an architecture whose stored weights are laid out otherwise, "
            "which cannot be published to the engines"
        )
    return policy


def _names_on_disk(directory: Path) -> set[str]:
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"model = {str(directory)!r} has no *.safetensors: convert its weights to safetensors"
        )
    names: set[str] = set()
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                names.update(tensors.keys())
        except SafetensorError as error:
            raise ValueError(f"{file} is damaged ({error}): copy or download it again") from error
    return names
