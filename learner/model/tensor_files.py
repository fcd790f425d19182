"""Safetensors files of a checkpoint, read, with what is wrong with one in a line."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file


def let_read_as(file: Path, directory: Path) -> None:
    """Who may read the file may read the tensors below the directory: safetensors lets their owner alone."""
    for tensors in directory.rglob("*.safetensors"):
        tensors.chmod(file.stat().st_mode)


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Its tensors by name. Raises ValueError for one that is missing or damaged."""
    try:
        return load_file(file)
    except FileNotFoundError:
        raise ValueError(f"checkpoint file {file} is missing: use an older checkpoint") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint file {file} is damaged ({error}): use an older checkpoint") from error
