"""Exact resume of a learner, in open formats: safetensors and JSON, nothing that runs when read.

DIRECTORY/model/                   save_pretrained, or the adapter as peft stores it; the base model's tokenizer
DIRECTORY/optimizer.safetensors    AdamW's state by parameter name, torch's RNG state
DIRECTORY/learner.json             versions, step count, the settings that shape the result
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from actors.model_files import GENERATION_CONFIG
from learner.model.names import StoredLayout
from learner.model.sharding import laid_out_as, whole
from learner.model.tensor_files import let_read_as, read_tensors
from learner.step.parity import ParityTurns

if TYPE_CHECKING:  # it imports peft
    from learner.model.lora import Adapters

FORMAT = 2
TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "chat_template*",
)
_AVERAGES = ("exp_avg", "exp_avg_sq")
_STATE = ("step", *_AVERAGES)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerState:
    """What a learner is beside its tensors."""

    version: int
    num_steps: int
    settings: dict[str, Any]
    """JSON values; a resumed learner must have the same."""
    parity: ParityTurns


def save(
    directory: Path,
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    state: LearnerState,
    base_directory: Path,
    adapters: Adapters | None = None,
    writes: bool = True,
) -> None:
    """Write a checkpoint. The caller gives a temporary name and renames it when all is written.

    All ranks of a gang must call this, of which one `writes`: sharded tensors are put together and stored
    in whole, so that any number of ranks can read them.
    """
    weights: dict[str, torch.Tensor] = {}
    moments: dict[str, torch.Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:  # the base model has them
            continue
        _keep(weights, name, parameter, writes)
        for key in _STATE if parameter in optimizer.state else ():
            _keep(moments, f"{name}:{key}", optimizer.state[parameter][key], writes)
    if not writes:
        return
    model_directory = directory / "model"
    model_directory.mkdir(parents=True, exist_ok=True)
    if adapters:
        adapters.write(model_directory, weights)
        copy_tokenizer(base_directory, model_directory)
    else:
        write_model(model_directory, model, weights, base_directory)
    save_file({**moments, "torch_rng_state": torch.get_rng_state()}, directory / "optimizer.safetensors")
    facts = {
        "format": FORMAT,
        "version": state.version,
        "num_steps": state.num_steps,
        "settings": state.settings,
        "parity": state.parity.to_json(),
    }
    (directory / "learner.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    let_read_as(directory / "learner.json", directory)


def write_model(
    directory: Path, model: Any, weights: Mapping[str, torch.Tensor], base_directory: Path
) -> None:
    """All that transformers needs: `weights` by the names of the model's parameters, its buffers, the base's tokenizer."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    model.save_pretrained(directory, state_dict={**weights, **buffers})
    let_read_as(directory / "config.json", directory)
    copy_tokenizer(base_directory, directory)
    if not (base_directory / GENERATION_CONFIG).exists():
        # It would tell another end of a completion than the base, whose tokenizer tells it.
        (directory / GENERATION_CONFIG).unlink(missing_ok=True)


def copy_tokenizer(base_directory: Path, directory: Path) -> None:
    for pattern in TOKENIZER_FILES:
        for file in base_directory.glob(pattern):
            shutil.copyfile(file, directory / file.name)


def load(
    directory: Path,
    *,
    model: Any,
    optimizer: torch.optim.Optimizer,
    settings: Mapping[str, Any],
    adapters: Adapters | None = None,
) -> LearnerState:
    """Put a checkpoint into `model` and `optimizer`; nothing is changed unless all of it is readable."""
    state = _read_state(directory / "learner.json", settings)
    stored = directory / "model"
    weights = adapters.read(stored, model).items() if adapters else _read_model(stored, model)
    optimizer_file = directory / "optimizer.safetensors"
    moments = read_tensors(optimizer_file)
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    for name, parameter in parameters.items():
        if state.num_steps:
            for key in _STATE:
                _check(moments, f"{name}:{key}", parameter.shape if key != "step" else None, optimizer_file)
    _check(moments, "torch_rng_state", None, optimizer_file)

    optimizer.state.clear()
    with torch.no_grad():
        for name, value in weights:
            parameters[name].copy_(laid_out_as(value, parameters[name]))
        for name, parameter in parameters.items():
            if state.num_steps:
                optimizer.state[parameter] = {
                    "step": moments[f"{name}:step"].to(parameter.device),
                    **{key: laid_out_as(moments[f"{name}:{key}"], parameter) for key in _AVERAGES},
                }
    torch.set_rng_state(moments["torch_rng_state"])
    return state


def _keep(tensors: dict[str, torch.Tensor], name: str, tensor: torch.Tensor, writes: bool) -> None:
    """Put a tensor together, with all ranks; only the rank that writes has memory for all of them."""
    value = whole(tensor.detach())
    if writes:
        tensors[name] = value.cpu().contiguous()


def _read_state(file: Path, settings: Mapping[str, Any]) -> LearnerState:
    try:
        facts = json.loads(file.read_text())
        if facts["format"] != FORMAT:
            raise ValueError(f"checkpoint {file} has format {facts['format']}, this version reads {FORMAT}")
        for name in ("version", "num_steps"):
            if not isinstance(facts[name], int):
                raise TypeError(f"{name} is {facts[name]!r}")
        state = LearnerState(
            version=facts["version"],
            num_steps=facts["num_steps"],
            settings=facts["settings"],
            parity=ParityTurns.from_json(facts["parity"]),
        )
    except FileNotFoundError:
        raise ValueError(f"checkpoint file {file} is missing: use an older checkpoint") from None
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"checkpoint file {file} is damaged ({error!r}): use an older checkpoint") from error
    for name in sorted(settings.keys() | state.settings.keys()):
        theirs, ours = state.settings.get(name), settings.get(name)
        if theirs != ours:
            raise ValueError(
                f"checkpoint {file.parent} was written with {name} = {theirs!r}, this run has {ours!r}: "
                f"resume with the same value, or start a new run from {file.parent / 'model'}"
            )
    return state


def _read_model(directory: Path, model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Names of its parameters and their values, in whole, put together one after the other."""
    stored: dict[str, torch.Tensor] = {}
    files = sorted(directory.glob("*.safetensors"))
    if not files:
        raise ValueError(f"checkpoint {directory} has no *.safetensors: use an older checkpoint")
    for file in files:
        stored.update(read_tensors(file))
    layout = StoredLayout(model)
    for tensor in layout:
        _check(stored, tensor.name, torch.Size(tensor.shape), directory)
    return (
        pair for group in layout.groups if not group.is_buffers for pair in layout.load(group, stored).items()
    )


def _check(tensors: Mapping[str, torch.Tensor], name: str, shape: torch.Size | None, file: Path) -> None:
    if name not in tensors:
        raise ValueError(f"checkpoint file {file} lacks {name!r}: it belongs to another model or is damaged")
    if shape is not None and tensors[name].shape != shape:
        raise ValueError(
            f"checkpoint file {file} has {name!r} of shape {tuple(tensors[name].shape)}, "
            f"the model {tuple(shape)}: it belongs to another model"
        )
