"""The base model of a run with an [sft] section: made once, then kept as long as the section asks for the same."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from actors.model_files import is_adapter
from cluster.config.schema import RunConfig
from cluster.run_directory.fingerprint import fingerprint
from cluster.run_directory.record import write_atomically

if TYPE_CHECKING:  # they import torch
    from cluster.run.fine_tuning import FineTuningProgress
    from learner.supervised.demonstrations import Demonstrations

STAMP = "bonfire_sft.json"
CURVE_FILE = "sft.jsonl"
"""In a fine-tuned model's directory: a line per step, `held_out_loss` in some."""
_DATA = "problems.demonstrations"
_SIDES, _WEIGHTS, _SERVED = "which are trained", "weights of sft.base_model", "rollout.dtype"
_LARGEST = "sft.held_out_max"
"""No more than `_SIDES` tells, but in stamps since sides are chosen by prompts, and not by ids."""
_NOT_IN_OLDER = (_SIDES, _WEIGHTS, _SERVED, _LARGEST)
"""What older stamps do not have."""
_WITHOUT_EFFECT_ON_RESULT = {"held_out_every", "checkpoint_every"}


def base_is_there(config: RunConfig) -> bool:
    """Whether the base model exists as this config's [sft] would make it, as far as settings tell.

    Raises ValueError when something else is in its place.
    """
    model = Path(config.model)
    if not model.exists():
        return False
    if not (model / STAMP).exists():
        raise ValueError(
            f"model = {config.model!r} exists and was not made by this config's [sft]: "
            "remove the [sft] section to train from it, or set model to another directory"
        )
    _check_made(model, f"model = {config.model!r}", settings_of(config))
    return True


def check_made_from(config: RunConfig, data: Demonstrations) -> None:
    """Raises ValueError where a fine-tuned base model that is there has learned from other demonstrations."""
    _check_made(Path(config.model), f"model = {config.model!r}", identity_of(config, data))


def settings_of(config: RunConfig) -> dict[str, Any]:
    """What of a config decides what its [sft] makes, by dotted path."""
    assert config.sft is not None
    settings = {
        f"sft.{name}": value
        for name, value in config.sft.model_dump(mode="json").items()
        if name not in _WITHOUT_EFFECT_ON_RESULT
    }
    if config.sft.base_model is not None:
        settings |= {
            f"learner.{name}": getattr(config.learner, name) for name in ("dtype", "weights_dtype", "eps")
        }
        lora = config.learner.lora
        # How the run that follows publishes its adapters changes nothing of these.
        settings["learner.lora"] = lora and lora.model_dump(mode="json", exclude={"publish"})
        if lora is not None:  # frozen weights are rounded as engines would round them
            settings[_SERVED] = config.rollout.dtype
    return settings


def identity_of(config: RunConfig, data: Demonstrations) -> dict[str, Any]:
    """The same with what is learned from."""
    from learner.supervised import demonstrations

    return {
        **settings_of(config),
        _DATA: demonstrations.fingerprint(data.sequences),
        **_origin(config, data),
    }


def _origin(config: RunConfig, data: Demonstrations) -> dict[str, Any]:
    """What older stamps do not have. Of a model that is not here, or is the hub's, the name says which it is."""
    assert config.sft is not None and config.sft.base_model is not None
    sides = {_SIDES: hashlib.sha256(data.trained.tobytes()).hexdigest()[:16]}
    base = Path(config.sft.base_model)
    return {**sides, _WEIGHTS: fingerprint(base, weights_alone=True)} if base.is_dir() else sides


def make_from_scratch(
    config: RunConfig, on_progress: Callable[[Any], None], on_demonstrations: Callable[[int], None]
) -> None:
    """Train a countdown model; the directory appears whole or not at all."""
    assert config.sft is not None
    import torch

    from learner.sft import train_base

    torch.set_num_threads(os.cpu_count() or 1)
    making = _making(config)
    with alone(config):
        if base_is_there(config):
            return
        shutil.rmtree(making, ignore_errors=True)
        try:
            train_base(config.sft, making, on_progress, on_demonstrations)
            _write_stamp(making, settings_of(config))
            os.replace(making, config.model)
        finally:
            shutil.rmtree(making, ignore_errors=True)


def make_by_fine_tuning(
    config: RunConfig,
    data: Demonstrations,
    *,
    on_progress: Callable[[FineTuningProgress], None],
    on_note: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> bool:
    """Fine-tune the base model on a cluster that is connected; whether it is done.

    The directory appears whole. Until then checkpoints are in MODEL.making, from which the next call goes on. Raises
    ValueError where those are of other settings or demonstrations, else what `fine_tune` raises.
    """
    from cluster.run.fine_tuning import fine_tune

    identity, making = identity_of(config, data), _making(config)
    with alone(config):
        if base_is_there(config):
            check_made_from(config, data)
            shutil.rmtree(making, ignore_errors=True)  # of a call that ended before its last line
            return True
        if (making / STAMP).exists():
            _check_made(making, str(making), identity, is_finished=False)
        else:
            shutil.rmtree(making, ignore_errors=True)
            making.mkdir(parents=True)
            _write_stamp(making, identity)
        # Where they are not written either by older versions; the stamp beside them has the rest.
        in_checkpoints = {name: value for name, value in identity.items() if name not in _NOT_IN_OLDER}
        made = fine_tune(
            config,
            data,
            in_checkpoints,
            making,
            on_progress=on_progress,
            on_note=on_note,
            should_stop=should_stop,
        )
        if made is None:
            return False
        if is_adapter(made):
            from learner.model.export import export_merged

            made, adapter = making / "merged", made
            shutil.rmtree(made, ignore_errors=True)  # of a call that ended before its last line
            export_merged(adapter, made)
        shutil.copyfile(making / "metrics.jsonl", made / CURVE_FILE)
        _write_stamp(made, identity)
        os.replace(made, config.model)
        shutil.rmtree(making)
        return True


@contextmanager
def alone(config: RunConfig) -> Iterator[None]:
    """While this process makes the model. Raises ValueError where another does, whose half-made one is not to be touched."""
    path = _making(config).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"model = {config.model!r} is being made by another bonfire: wait for its end, or set model to another "
                "directory"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def held_out_losses(config: RunConfig) -> list[float]:
    """Of a fine-tuned base model, from before the first step on."""
    lines = (Path(config.model) / CURVE_FILE).read_text().splitlines()
    facts = [json.loads(line) for line in lines]
    return [fact["held_out_loss"] for fact in facts if "held_out_loss" in fact]


def _making(config: RunConfig) -> Path:
    model = Path(config.model)
    return model.with_name(model.name + ".making")


def _write_stamp(directory: Path, settings: Mapping[str, Any]) -> None:
    write_atomically(directory / STAMP, json.dumps(settings, indent=1))


def _check_made(directory: Path, what: str, wanted: Mapping[str, Any], *, is_finished: bool = True) -> None:
    made = json.loads((directory / STAMP).read_text())
    made |= {f"sft.{name}": value for name, value in made.items() if "." not in name}  # of older versions
    passed_over = {_LARGEST, *(name for name in _NOT_IN_OLDER if name not in made)}
    if _LARGEST not in made and is_finished:
        passed_over.add(_SIDES)
    elif _LARGEST not in made:  # it would go on with other demonstrations than it began with
        passed_over.discard(_SIDES)
    for name, value in wanted.items():
        if made.get(name) != value and name not in passed_over:
            raise ValueError(
                f"{what} was made with {name} = {made.get(name)!r}, the config says {value!r}: delete that directory to "
                "make it again, set model to another one, or train from it as it is with sft=none"
            )
