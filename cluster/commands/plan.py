"""`--dry-run` and `bonfire settings`: what would happen, and what can be set."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import tomli_w
from pydantic import BaseModel
from rich.console import Console
from rich.markup import escape

from actors.config import RolloutConfig
from cluster.commands.base_model import describe_fine_tuning, learned_from
from cluster.config.parse import section_of
from cluster.config.schema import RunConfig
from cluster.evaluation.base_scores import num_problems_drawn
from cluster.fleet.gpu_memory import shares
from cluster.fleet.needs import cpus_needed, largest_pass, memory_needed
from cluster.fleet.nodes import bundle
from cluster.fleet.ray_cluster import set_ray_environment
from cluster.run import preflight
from cluster.run.base_model import base_is_there
from learner.config import LearnerConfig
from learner.verifier.config import VerifierTrainingConfig
from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.types import Problem


def show_plan(config: RunConfig, run_dir: Path, *, local: bool) -> None:
    """Run every check, then print settings, steps, placement and memory. Starts nothing, writes nothing."""
    set_ray_environment(local=local)
    prepared = preflight.prepare(config, run_dir, local=local, port_patience_s=None)
    console = Console(highlight=False)
    console.print("[bold]settings[/bold]")
    console.print(escape(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))))
    there = config.sft is None or base_is_there(config)
    prompts = [*prepared.train_prompts, *prepared.test_prompts]
    preflight.check_demonstrations(config, prepared.train_problems, prepared.tokenizer)
    demonstrations = learned_from(config, prepared.tokenizer)
    # Workers elsewhere, or with a GPU, may have what this process has not.
    is_here = local and not config.verifier.num_gpus
    trial = try_verifier(config.verifier, prepared.train_problems[0]) if is_here else "not called from here"
    train, n = config.train, config.rollout.samples_per_prompt
    groups = train.steps * train.groups_per_step
    console.print("[bold]plan[/bold]")
    console.print(f"  run directory  {run_dir} (not made yet)", soft_wrap=True)
    console.print(
        f"  model          {config.model}{'' if there else ' (made first, by [sft])'}", markup=False
    )
    if demonstrations is not None:
        console.print(f"  fine-tuning    {describe_fine_tuning(config, demonstrations)}", markup=False)
    console.print(
        f"  problems       {len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out, "
        f"prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens"
    )
    console.print(f"  verifier       {config.verifier.label}: {trial}", markup=False, soft_wrap=True)
    if config.objective.needs_base_scores:
        num_drawn, m = num_problems_drawn(config, len(prepared.train_problems)), config.objective.base_samples
        console.print(
            f"  base scores    {num_drawn:,} problems x {m} samples = {num_drawn * m:,} samples of the base model, once, "
            "before the training",
            soft_wrap=True,
        )
    console.print(
        f"  training       {train.steps} steps x {train.groups_per_step} prompts x {n} samples = {groups * n:,} "
        f"samples, {groups / len(prepared.train_problems):.1f} epochs, "
        + ("synchronous" if train.max_staleness == 0 else f"at most {train.max_staleness} versions behind")
    )
    if config.evaluation and config.evaluation.every:
        every, n = config.evaluation.every, config.evaluation.during_samples
        num_asked = min(config.evaluation.during_problems, len(prepared.test_problems))
        num = 1 + -(-train.steps // every)
        kept = f", the best checkpoint by {train.keep_best} is kept" if train.keep_best else ""
        console.print(
            f"  while it trains {num} evaluations, one every {every} steps, of {num_asked} held-out problems x {n} samples "
            f"= {num * num_asked * n:,} samples, k = {list(config.during_ks)}{kept}",
            soft_wrap=True,
        )
    if config.evaluation:
        temperatures = config.evaluation.temperatures or (config.rollout.temperature,)
        samples = config.evaluation.samples_per_problem * len(prepared.test_problems)
        console.print(
            f"  evaluation     {samples:,} samples of each of 2 models at T = {list(temperatures)}, "
            f"k = {list(config.evaluation.ks)}"
        )
    console.print("[bold]placement[/bold]")
    most_rollout, most_verifier = config.most_workers
    roles: list[tuple[str, str, RolloutConfig | VerifierConfig | LearnerConfig]] = [
        ("rollout", _number(config.rollout.workers, most_rollout), config.rollout),
        ("verifier", _number(config.verifier.workers, most_verifier), config.verifier),
        ("learner", str(config.learner.ranks), config.learner),
    ]
    for role, workers, section in roles:
        custom = "".join(f", {amount} {name}" for name, amount in section.resources.items())
        num_gpus = bundle(section).get("GPU", 0.0)
        if isinstance(section, RolloutConfig) and section.tensor_parallel > 1:
            custom += f" on one node, each an engine in {section.tensor_parallel} parts"
        console.print(
            f"  {role:9} {workers} x {section.num_cpus:g} CPU, {num_gpus:g} GPU{custom}", markup=False
        )
    if local:
        needed, here = cpus_needed(config), os.cpu_count() or 1
        over = "" if needed <= here else ": they will share, and be slower"
        console.print(f"  CPUs      {needed:g} reserved, {here} here{over}")
    console.print("[bold]memory[/bold] (estimate)")
    available = psutil.virtual_memory().available
    memory = memory_needed(config, available if local else None)
    for role, needed in memory.items():
        console.print(f"  {role:18} {needed / 2**30:5.1f} GiB")
    here_text = f", {available / 2**30:.1f} GiB available here" if local else ""
    console.print(f"  {'all':18} {sum(memory.values()) / 2**30:5.1f} GiB{here_text}")
    if not config.learner.num_gpus:
        largest, recompute = largest_pass(config, available if local else None)
        how = "recomputing its blocks" if recompute else "keeping its blocks"
        console.print(f"  {'(a learner pass':18} {largest / 2**30:5.1f} GiB, {how})")
    gpu_bytes = preflight.gpu_bytes_of(config, local=local)
    if gpu_bytes is not None:
        console.print(f"[bold]memory of a GPU[/bold] of {gpu_bytes / 2**30:.1f} GiB (estimate)")
        for share in shares(config, gpu_bytes):
            needed, given = share.needed_bytes / 2**30, share.given * gpu_bytes / 2**30
            console.print(f"  {share.role:18} {needed:5.1f} GiB of {given:.1f}")
    try:
        preflight.check_port(config.metrics)
    except ValueError as error:  # another run's, which may be over by then
        console.print(f"[yellow]now in use[/yellow] {escape(str(error))}", soft_wrap=True)


def _number(workers: int, at_most: int) -> str:
    return str(workers) if at_most == workers else f"{workers} (up to {at_most})"


def try_verifier(config: VerifierConfig, problem: Problem) -> str:
    """What the verifiers say of an empty completion, in processes as a run has them.

    Raises RuntimeError where one does not start, and ValueError where one does not judge.
    """
    with Panel(config) as panel:
        (verdict,) = panel.judge(problem, [""])
        if verdict.status in ("crashed", "timeout"):
            raise ValueError(
                f"verifier {config.label} gives an empty completion of problem {problem.id!r} the status "
                f"{verdict.status!r} ({panel.last_error or f'verifier.timeout_s = {config.timeout_s:g}'}): mend it, "
                "for models do answer nothing"
            )
    return f"an empty completion has reward {verdict.reward:g}, score {verdict.score:g}, status {verdict.status!r}"


def show_settings(word: str = "") -> None:
    """Every setting whose dotted path has `word` in it, with default and meaning.

    Raises ValueError where there is none.
    """
    console = Console(highlight=False)
    shown = _show_section(console, RunConfig, "", word)
    heading = "\n[bold cyan]\\[train-verifier][/bold cyan] given as --set key=value, in no file"
    shown += _show_section(console, VerifierTrainingConfig, "", word, heading=heading)
    if not shown:
        raise ValueError(f"no setting has {word!r} in its path: see `bonfire settings` for all")


def _show_section(
    console: Console, model: type[BaseModel], prefix: str, word: str, *, heading: str | None = None
) -> int:
    """How many settings of the section, and of those in it, were shown; the heading only where there are any."""
    sections: list[tuple[str, type[BaseModel]]] = []
    shown = 0
    for name, field in model.model_fields.items():
        section = section_of(field.annotation)
        if section is not None:
            sections.append((name, section))
            continue
        if word not in f"{prefix}{name}":
            continue
        if heading is not None and not shown:
            console.print(heading, soft_wrap=True)
        shown += 1
        default = "required" if field.is_required() else f"{field.default!r}"
        if field.default_factory is not None:
            default = field.default_factory.__doc__ or ""
        console.print(f"[bold]{prefix}{name}[/bold] = {escape(default)}", soft_wrap=True)
        # In a pipe a line is what grep finds; on a screen it is wrapped by words.
        console.print(f"    {escape(field.description or '')}", soft_wrap=not console.is_terminal)
    for name, section in sections:
        meaning = escape((section.__doc__ or "").splitlines()[0])
        below = f"\n[bold cyan]\\[{prefix}{name}][/bold cyan] {meaning}"
        shown += _show_section(console, section, f"{prefix}{name}.", word, heading=below)
    return shown
