"""A model's files before anything loads them: their JSON, their safetensors' headers. Imports no torch.

Every fault is a ValueError in one line that names the file, the key, its value and the remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verifiers.wording import one_line, short

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
OBJECTS = (CONFIG, GENERATION_CONFIG, "tokenizer_config.json", "tokenizer.json", "special_tokens_map.json")
"""Files that must hold a JSON object where they are there."""
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What a directory of peft's holds instead of a model."""
INDEX = "model.safetensors.index.json"
LFS_MARK = b"version https://git-lfs"
_FINISHED = re.compile(r"step-\d+")
"""A checkpoint that is whole, by its directory's name."""
_LIKE_A_PATH = ("/", ".", "~")
MAX_HEADER_BYTES = 100 << 20
"""What the safetensors library itself reads at most."""
_SIZES = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
MAX_SHOWN_CHARS = 60
MAX_REASON_CHARS = 200
_COPY = "copy or download it again"
_SAME_MODEL = "take the file that came with the model"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredShape:
    """What a safetensors header says of one tensor."""

    dtype: str
    shape: tuple[int, ...]


def is_adapter(directory: Path) -> bool:
    """Whether it holds low-rank adapters of another model, as peft stores them, and not a model."""
    return (directory / ADAPTER_CONFIG).is_file() and not (directory / CONFIG).exists()


def base_of_adapter(directory: Path) -> str:
    """Path or hub id of the model that an adapter is of. Raises ValueError where that is a path, and not there."""
    path = directory / ADAPTER_CONFIG
    base = read_object(path).get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"{path} has no base_model_name_or_path: name the model that the adapter is of there"
        )
    if base.startswith(_LIKE_A_PATH) and not Path(base).is_dir():
        raise ValueError(
            f"the adapter {directory} is of the base model {base}, which is not there: bring it back, or set "
            f"base_model_name_or_path in {path} to where it is now"
        )
    return base


def where_models_are(directory: Path) -> str:
    """For an error about what is no model: the newest one of the run, or of the checkpoint, that it is; empty for others."""
    finished = [
        path for path in directory.glob("checkpoints/*/model") if _FINISHED.fullmatch(path.parent.name)
    ]
    newest = max(finished, default=directory / "model")
    if is_adapter(newest):
        return f"; bonfire export {directory} --merged DIR writes the one that the adapter in it makes to DIR"
    return f"; a model of this run is {newest}" if newest.is_dir() else ""


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that a file of a model holds."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error}): {_SAME_MODEL}") from error
    except (ValueError, RecursionError) as error:
        if path.read_bytes().startswith(LFS_MARK):
            raise ValueError(f"{path} is a git-lfs pointer: fetch the file with git lfs pull") from error
        raise ValueError(f"{path} is not JSON ({one_line(error, MAX_REASON_CHARS)}): {_COPY}") from error
    if not isinstance(content, dict):
        raise ValueError(  # noqa: TRY004  a fault of the file, like the others
            f"{path} holds {short(content, MAX_SHOWN_CHARS)}, not a JSON object: {_SAME_MODEL}"
        )
    return content


def text_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of a config.json: those of the language model, which a multimodal model nests."""
    nested = settings.get("text_config")
    return nested if isinstance(nested, dict) else settings


def check_settings(directory: Path, *, trains: bool = True) -> None:
    """The JSON files of a model are objects with the parts and the kinds of values that a model's must have; those of
    one that `trains` are not quantised.
    """
    found = {name: read_object(directory / name) for name in OBJECTS if (directory / name).exists()}
    config = found.get(CONFIG, {})
    check_sizes(directory / CONFIG, text_settings(config))
    if trains:
        _check_not_quantised(directory / CONFIG, config)
    if "tokenizer.json" in found:
        _check_parts(directory / "tokenizer.json", found["tokenizer.json"])
    if GENERATION_CONFIG in found:
        end_tokens(directory / GENERATION_CONFIG, found[GENERATION_CONFIG])


def end_tokens(path: Path, settings: Mapping[str, Any]) -> list[int] | None:
    """`eos_token_id` of a generation config; None where it names none."""
    stop = settings.get("eos_token_id")
    if stop is None:
        return None
    stops = stop if isinstance(stop, list) else [stop]
    if not stops or not all(_is_whole(token, 0) for token in stops):
        raise ValueError(
            f"{path}: eos_token_id is {short(stop, MAX_SHOWN_CHARS)}: make it a token's number, or a list of them"
        )
    return list(stops)


def check_sizes(path: Path, settings: Mapping[str, Any]) -> None:
    """The numbers in a config.json from which memory and placement are reckoned are numbers, and fit together."""
    for name in _SIZES:
        value = settings.get(name)
        if value is not None and not _is_whole(value, 1):
            raise ValueError(
                f"{path}: {name} is {short(value, MAX_SHOWN_CHARS)}: make it a whole number above 0"
            )
    width, heads = settings.get("hidden_size"), settings.get("num_attention_heads")
    keys = settings.get("num_key_value_heads")
    has_own_width = any("head_dim" in name and value for name, value in settings.items())
    if width and heads and not has_own_width and width % heads:
        raise ValueError(
            f"{path}: hidden_size is {width}, which num_attention_heads, {heads}, does not divide: {_SAME_MODEL}"
        )
    if heads and keys is not None and (not _is_whole(keys, 1) or heads % keys):
        raise ValueError(
            f"{path}: num_attention_heads is {heads}, which num_key_value_heads, {short(keys, MAX_SHOWN_CHARS)}, does not divide: "
            f"{_SAME_MODEL}"
        )


def _check_not_quantised(path: Path, config: Mapping[str, Any]) -> None:
    for settings in (config, text_settings(config)):
        for key in ("quantization_config", "compression_config"):
            if settings.get(key):
                method = settings[key].get("quant_method", "") if isinstance(settings[key], dict) else ""
                raise ValueError(
                    f"{path}: {key} says that the weights are quantised ({method or short(settings[key], MAX_SHOWN_CHARS)}), and such weights "
                    "cannot be trained: take the model that they were made from, or dequantise it and save it again"
                )


def _check_parts(path: Path, tokenizer: Mapping[str, Any]) -> None:
    for name, kind, words in (("model", dict, "an object"), ("added_tokens", list, "a list")):
        if name not in tokenizer:
            raise ValueError(f"{path} has no {name!r}: {_SAME_MODEL}")
        if not isinstance(tokenizer[name], kind):
            raise ValueError(  # noqa: TRY004
                f"{path}: {name} is {short(tokenizer[name], MAX_SHOWN_CHARS)}, not {words}: {_SAME_MODEL}"
            )


def stored_shapes(directory: Path) -> dict[str, StoredShape]:
    """All tensors of a model's safetensors files, by their headers, which must fit the files' lengths."""
    files = sorted(directory.glob("*.safetensors"))
    if (directory / INDEX).exists():
        _check_index(directory / INDEX)
    return {name: shape for file in files for name, shape in _read_header(file).items()}


def _check_index(path: Path) -> None:
    files = read_object(path).get("weight_map")
    if not isinstance(files, dict):
        raise ValueError(  # noqa: TRY004
            f"{path}: weight_map is {short(files, MAX_SHOWN_CHARS)}, not an object: {_SAME_MODEL}"
        )
    missing = sorted({str(file) for file in files.values()} - {file.name for file in path.parent.iterdir()})
    if missing:
        raise ValueError(
            f"{path} names {missing[0]}, which is not there ({len(missing)} such files): copy or download the model again"
        )


def _read_header(path: Path) -> dict[str, StoredShape]:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head and LFS_MARK.startswith(head):
            raise ValueError(f"{path} is a git-lfs pointer, not the weights: fetch them with git lfs pull")
        num_bytes = int.from_bytes(head, "little")
        if len(head) < 8 or num_bytes > min(MAX_HEADER_BYTES, size - 8):
            raise ValueError(f"{path} is damaged ({size} bytes without a whole header): {_COPY}")
        raw = file.read(num_bytes)
    try:
        header = json.loads(raw)
        tensors = {name: about for name, about in header.items() if name != "__metadata__"}
        shapes = {
            name: StoredShape(dtype=str(about["dtype"]), shape=tuple(map(int, about["shape"])))
            for name, about in tensors.items()
        }
        end = 8 + num_bytes + max((int(about["data_offsets"][1]) for about in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged (its header: {one_line(error, MAX_REASON_CHARS)}): {_COPY}"
        ) from error
    if size != end:
        what = "cut off" if size < end else "longer than that"
        raise ValueError(
            f"{path} is damaged (its header tells of {end} bytes, it has {size}, {what}): {_COPY}"
        )
    eight_bits = next((name for name, stored in shapes.items() if stored.dtype.startswith("F8")), None)
    packed = next((name for name in shapes if name.endswith((".qweight", ".weight_packed"))), None)
    if name := eight_bits or packed:
        raise ValueError(
            f"{path}: {name!r} is quantised ({shapes[name].dtype}), and such weights cannot be trained: take the model that "
            "they were made from, or dequantise it and save it again"
        )
    return shapes


def _is_whole(value: Any, lowest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= lowest
