"""`--dry-run` and `bonfire settings`: what would happen, and what can be set."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import tomli_w
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from cluster import preflight
from cluster.base import base_is_there
from cluster.config import RunConfig
from cluster.launch import cpus_needed, set_ray_environment
from learner.verifier_config import VerifierTrainingConfig


def show_plan(config: RunConfig, run_dir: Path, *, local: bool) -> None:
    """Run every check, then print settings, steps, placement and memory. Starts nothing, writes nothing."""
    set_ray_environment(local=local)
    prepared = preflight.prepare(config, run_dir, local=local)
    console = Console(highlight=False)
    console.print("[bold]settings[/bold]")
    console.print(escape(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))))
    there = config.sft is None or base_is_there(config)
    tokenizer = preflight.tokenizer_of(config)
    prompts = preflight.check_prompts(config, [*prepared.train_problems, *prepared.test_problems], tokenizer)
    preflight.check_demonstrations(config, prepared.train_problems, tokenizer)
    train, n = config.train, config.rollout.samples_per_prompt
    groups = train.steps * train.groups_per_step
    console.print("[bold]plan[/bold]")
    console.print(f"  run directory  {run_dir} (not made yet)", soft_wrap=True)
    console.print(
        f"  model          {config.model}{'' if there else ' (made first, by [sft])'}", markup=False
    )
    console.print(
        f"  problems       {len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out, "
        f"prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens"
    )
    console.print(
        f"  training       {train.steps} steps x {train.groups_per_step} prompts x {n} samples = {groups * n:,} "
        f"samples, {groups / len(prepared.train_problems):.1f} epochs, "
        + ("synchronous" if train.max_staleness == 0 else f"at most {train.max_staleness} versions behind")
    )
    if config.evaluation:
        temperatures = config.evaluation.temperatures or (config.rollout.temperature,)
        samples = config.evaluation.samples_per_problem * len(prepared.test_problems)
        console.print(
            f"  evaluation     {samples:,} samples of each of 2 models at T = {list(temperatures)}, "
            f"k = {list(config.evaluation.ks)}"
        )
    console.print("[bold]placement[/bold]")
    for role, workers, cpus, gpus in [
        ("rollout", config.rollout.workers, config.rollout.num_cpus, config.rollout.num_gpus),
        ("verifier", config.verifier.workers, config.verifier.num_cpus, config.verifier.num_gpus),
        ("learner", 1, config.learner.num_cpus, config.learner.num_gpus),
    ]:
        console.print(f"  {role:9} {workers} x {cpus:g} CPU, {gpus:g} GPU")
    if local:
        needed, here = cpus_needed(config), os.cpu_count() or 1
        over = "" if needed <= here else ": they will share, and be slower"
        console.print(f"  CPUs      {needed:g} reserved, {here} here{over}")
    console.print("[bold]memory[/bold] (estimate)")
    memory = preflight.memory_needed(config)
    for role, needed in memory.items():
        console.print(f"  {role:18} {needed / 2**30:5.1f} GiB")
    available = psutil.virtual_memory().available / 2**30
    here_text = f", {available:.1f} GiB available here" if local else ""
    console.print(f"  {'all':18} {sum(memory.values()) / 2**30:5.1f} GiB{here_text}")


def show_settings() -> None:
    """Every setting by dotted path, with default and meaning."""
    console = Console(highlight=False)
    _show_section(console, RunConfig, "")
    console.print("\n[bold cyan]\\[train-verifier][/bold cyan] given as --set key=value, in no file")
    _show_section(console, VerifierTrainingConfig, "")


def _show_section(console: Console, model: type[BaseModel], prefix: str) -> None:
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if section is not None:
            sections.append((name, section))
            continue
        default = "required" if field.is_required() else f"{field.default!r}"
        console.print(f"[bold]{prefix}{name}[/bold] = {escape(default)}")
        console.print(f"    {escape(field.description or '')}", soft_wrap=False)
    for name, section in sections:
        console.print(
            f"\n[bold cyan]\\[{prefix}{name}][/bold cyan] {escape((section.__doc__ or '').splitlines()[0])}"
        )
        _show_section(console, section, f"{prefix}{name}.")
