"""The policy: a causal language model from disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from actors.model_files import is_adapter, stored_shapes, where_models_are
from learner.model import attention
from learner.model.head import check_head


def resolve_model(model: str) -> Path:
    """The directory of a local checkpoint or hub id. Raises ValueError naming one that is neither."""
    path = Path(model)
    if path.is_dir():
        if is_adapter(path):
            raise ValueError(
                f"model = {model!r} is an adapter, not a model: merge it with its base model by `bonfire export` first"
            )
        if not (path / "config.json").is_file():
            raise ValueError(
                f"model = {model!r} has no config.json: name a directory written by save_pretrained{where_models_are(path)}"
            )
        return path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted, unwanted = ["*.json", "*.jinja", "*.txt", "*.model", "*.safetensors"], ["consolidated*", "*/*"]
    try:
        return Path(snapshot_download(model, allow_patterns=wanted, ignore_patterns=unwanted))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        why = (
            f"cannot be fetched from the hub ({type(error).__name__}): correct the name, or name a directory"
        )
        if isinstance(error, LocalEntryNotFoundError):
            why = (
                "is not in the hub's cache, and the hub cannot be reached: name a directory, or fetch it where there is a "
                f"network (hf download {model})"
            )
        elif isinstance(error, HFValidationError):
            why = "no name of a model of the hub: correct it, or name an existing directory"
        raise ValueError(f"model {model!r} is no directory here and {why}") from error


def load_model(model: str, device: str = "cpu") -> Any:
    """Float32 weights, in inference mode (no dropout) but with gradients.

    Raises ValueError for a missing, damaged or incomplete checkpoint, for an architecture that computes attention by
    no function of ours, and for a head that cannot be called alone.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    directory = resolve_model(model)
    _check_files(directory)
    logging.disable_progress_bar()
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            attn_implementation=attention.NAME,
            output_loading_info=True,
        )
    except KeyError as error:
        if error.args != (attention.NAME,):
            raise
        raise ValueError(
            f"model = {model!r} takes no attention function from outside: the learner cannot train this architecture"
        ) from error
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"model = {model!r} does not load: {(str(error).splitlines() or [repr(error)])[0]}"
        ) from error
    policy, loaded = read
    unread = sorted({*loaded["missing_keys"], *(name for name, *_ in loaded["mismatched_keys"])})
    if unread:
        raise ValueError(
            f"model = {model!r} lacks {unread[0]!r} among its stored weights ({len(unread)} such names), or has it in "
            "another shape: it is incomplete, or its config.json belongs to another model"
        )
    broken = next((name for name, weight in policy.named_parameters() if not weight.isfinite().all()), None)
    if broken is not None:
        raise ValueError(
            f"model = {model!r} has weights that are NaN or infinite, {broken!r} first: take an earlier checkpoint, or copy or "
            "download it again"
        )
    policy.eval().to(device)
    check_head(policy, model)
    return policy


def _check_files(directory: Path) -> None:
    if not list(directory.glob("*.safetensors")):
        raise ValueError(
            f"model = {str(directory)!r} has no *.safetensors: convert its weights to safetensors"
        )
    stored_shapes(directory)
