"""`bonfire sft`, and the same as the first stage of `bonfire train`: the base model of an [sft] section."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import tomli_w
from rich.console import Console
from rich.markup import escape

from cluster.commands.memory_plan import GIB, show_gpu_memory
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster
from cluster.fleet.capacity import check_private_has
from cluster.fleet.needs import fine_tuning_memory, num_adapter_parameters
from cluster.jobs.entrypoint import check_outlives_job
from cluster.run import base_model, preflight
from cluster.run.model_checks import warn_of_slow_dtypes
from cluster.terminal.console import View, duration
from cluster.terminal.interrupts import Interrupted, interrupts

if TYPE_CHECKING:  # they import torch
    from cluster.run.fine_tuning import FineTuningProgress
    from learner.supervised.demonstrations import Demonstrations

STAGE = "base model"


def sft(config: RunConfig, *, address: str | None, dry_run: bool) -> None:
    """Make the base model and nothing else, or show what would be done. Raises ValueError with lines for the user."""
    assert config.sft is not None
    check_outlives_job(Path(config.model), "model")
    if config.sft.base_model is not None:
        config = _without_other_roles(config)
    ray_cluster.set_ray_environment(local=address is None)
    data = _check(config, address)
    if dry_run:
        _show_plan(config, data, local=address is None)
        return

    def start_ray() -> None:
        ray_cluster.start_ray(config, address=address, namespace=f"sft-{Path(config.model).absolute().name}")

    with View(f"bonfire sft · {config.model}", [STAGE]) as view:
        base_stage(config, view, data, start_ray)


def base_stage(
    config: RunConfig, view: View, data: Demonstrations | None, start_ray: Callable[[], Any]
) -> None:
    """Make the base model unless it is there; `data`: for fine-tuning, for which alone `start_ray` is called."""
    if base_model.base_is_there(config):
        if data is not None:
            base_model.check_made_from(config, data)
        view.finish(STAGE, f"already there: {config.model}")
    elif data is None:
        _from_scratch(config, view)
    else:
        _fine_tuned(config, view, data, start_ray)


def _fine_tuned(config: RunConfig, view: View, data: Demonstrations, start_ray: Callable[[], Any]) -> None:
    view.start(STAGE, f"fine-tuning on {_counts(data)}")

    def on_progress(progress: FineTuningProgress) -> None:
        held_out = progress.held_out_loss
        view.update(
            STAGE,
            progress.step / progress.steps,
            f"step {progress.step}/{progress.steps}, loss {progress.loss:.3f}"
            + (f", held out {held_out:.3f}" if held_out is not None else "")
            + f", {progress.tokens_per_s:,.0f} tokens/s, {duration(progress.left_s)} left",
        )

    with interrupts() as received:
        start_ray()
        is_done = base_model.make_by_fine_tuning(
            config, data, on_progress=on_progress, on_note=view.note, should_stop=lambda: bool(received)
        )
    if not is_done:
        raise Interrupted("stopped with a checkpoint; the same command goes on from it")
    losses = base_model.held_out_losses(config)
    told = f", held-out loss {losses[0]:.3f} before, {losses[-1]:.3f} after" if losses else ""
    view.finish(STAGE, f"fine-tuned in {data.num_steps} steps{told}: {config.model}")


def _from_scratch(config: RunConfig, view: View) -> None:
    assert config.sft is not None
    num_demonstrations = config.sft.num_demonstrations
    view.start(STAGE, "generating demonstrations")

    def on_demonstrations(count: int) -> None:
        view.update(STAGE, None, f"generating demonstrations, {count:,}/{num_demonstrations:,}")

    def on_progress(progress: Any) -> None:
        view.update(
            STAGE,
            progress.step / progress.steps,
            f"step {progress.step}/{progress.steps}, loss {progress.loss:.3f}, {duration(progress.left_s)} left",
        )

    base_model.make_from_scratch(config, on_progress, on_demonstrations)
    view.finish(STAGE, f"trained from scratch: {config.model}")


def _without_other_roles(config: RunConfig) -> RunConfig:
    """Nothing is reserved for workers that do not run."""
    nothing: dict[str, Any] = {"num_cpus": 0.0, "num_gpus": 0.0, "resources": {}}
    rollout, verifier = (one.model_copy(update=nothing) for one in (config.rollout, config.verifier))
    # Nor for what fine-tuning does not do: compare with older versions, or with a reference.
    learner = config.learner.model_copy(update={"parity_versions": 1, "kl_coefficient": 0.0})
    return config.model_copy(update={"rollout": rollout, "verifier": verifier, "learner": learner})


def _check(config: RunConfig, address: str | None) -> Demonstrations | None:
    """All that can be known to fail, for the section alone; what a model is fine-tuned on."""
    assert config.sft is not None
    preflight.check_base(config)
    if config.sft.base_model is None:
        return None
    preflight.check_context(config)
    num_adapter_parameters(config)  # refuses a target that the model has not
    if not base_model.base_is_there(config):
        preflight.check_gpu_shares(config, local=address is None)
    if address is None:
        check_private_has(config)
        warn_of_slow_dtypes(config)
        if not base_model.base_is_there(config):
            preflight.check_fine_tuning_memory(config)
    return learned_from(config, preflight.tokenizer_of(config))


def learned_from(config: RunConfig, tokenizer: Any) -> Demonstrations | None:
    """What [sft] fine-tunes its base model on; None for a model from scratch. Raises ValueError, a line for each row."""
    if config.sft is None or config.sft.base_model is None:
        return None
    from cluster.run.fine_tuning import take_demonstrations

    return take_demonstrations(config, tokenizer)


def _show_plan(config: RunConfig, data: Demonstrations | None, *, local: bool) -> None:
    """Settings, steps, placement and memory. Starts nothing, writes nothing."""
    assert config.sft is not None
    there, learner = base_model.base_is_there(config), config.learner
    if there and data is not None:
        base_model.check_made_from(config, data)
    console = Console(highlight=False)
    console.print("[bold]settings[/bold]")
    settings = config.model_dump(mode="json", exclude_none=True)
    shown = {name: settings[name] for name in ("model", "problems", "sft")}
    console.print(escape(tomli_w.dumps(shown)))
    console.print("[bold]plan[/bold]")
    console.print(
        f"  model          {config.model} ({'there already' if there else 'not made yet'})", markup=False
    )
    if data is None:
        console.print(f"  training       {config.sft.steps} steps from scratch, in this process")
        return
    console.print(f"  fine-tuning    {describe_fine_tuning(config, data)}", markup=False, soft_wrap=True)
    console.print("[bold]placement[/bold]")
    console.print(
        f"  learner   {learner.ranks} x {learner.num_cpus:g} CPU, {learner.num_gpus:g} GPU, {learner.dtype}"
    )
    console.print("[bold]memory of the machines[/bold] (estimate)")
    here = f", {psutil.virtual_memory().available / GIB:.1f} GiB available here" if local else ""
    console.print(f"  learner   {fine_tuning_memory(config) / GIB:.1f} GiB{here}")
    show_gpu_memory(console, config, local=local)


def describe_fine_tuning(config: RunConfig, data: Demonstrations) -> str:
    """Of what, on what, for how long, in a line."""
    assert config.sft is not None
    lengths = data.sequences.prompt_lengths + data.sequences.completion_lengths
    return (
        f"{config.sft.base_model} on {_counts(data)}, of {int(lengths.min())} to {int(lengths.max())} tokens with their "
        f"prompts: {data.num_steps} steps x {data.batch_size} = {data.num_rows / len(data.trained):.1f} epochs"
    )


def _counts(data: Demonstrations) -> str:
    return f"{len(data.trained):,} demonstrations, {len(data.held_out):,} held out"
