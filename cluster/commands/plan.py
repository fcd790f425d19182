"""`--dry-run`: what would happen."""

from __future__ import annotations

import os
from pathlib import Path

import tomli_w
from rich.console import Console
from rich.markup import escape

from actors.config import RolloutConfig
from cluster.commands.base_model import describe_fine_tuning, learned_from
from cluster.commands.memory_plan import GIB, show_gpu_memory, show_memory
from cluster.config.schema import RunConfig
from cluster.evaluation.base_scores import num_problems_drawn
from cluster.fleet.gpu_memory import num_gpus_needed
from cluster.fleet.needs import cpus_needed, disk_needed, model_shape, published_bytes
from cluster.fleet.nodes import bundle
from cluster.fleet.ray_cluster import set_ray_environment
from cluster.run import preflight
from cluster.run.base_model import base_is_there
from cluster.run.same_run import check_same_run
from cluster.run_directory.checkpoints import newest_undamaged
from learner.config import LearnerConfig
from learner.model import memory
from verifiers.composition import Panel
from verifiers.config import VerifierConfig
from verifiers.types import Problem


def show_plan(config: RunConfig, run_dir: Path, *, local: bool, resume: bool = False) -> None:
    """Run every check, then print settings, steps, placement and memory. Starts nothing, writes nothing."""
    set_ray_environment(local=local)
    prepared = preflight.prepare(config, run_dir, local=local, port_patience_s=None)
    console = Console(highlight=False)
    console.print("[bold]settings[/bold]")
    console.print(escape(tomli_w.dumps(config.model_dump(mode="json", exclude_none=True))), soft_wrap=True)
    _show_steps(console, config, run_dir, prepared, local=local, resume=resume)
    _show_placement(console, config, local=local)
    show_memory(console, config, local=local)
    show_gpu_memory(console, config, local=local)
    console.print("[bold]disk[/bold] (estimate)")
    free = f", {preflight.disk_free(run_dir) / GIB:.1f} GiB free on this machine's" if local else ""
    console.print(f"  {run_dir}  {disk_needed(config) / GIB:.2f} GiB{free}", markup=False, soft_wrap=True)
    try:
        preflight.check_port(config.metrics)
    except ValueError as error:  # another run's, which may be over by then
        console.print(f"[yellow]now in use[/yellow] {escape(str(error))}", soft_wrap=True)


def _show_steps(
    console: Console,
    config: RunConfig,
    run_dir: Path,
    prepared: preflight.Prepared,
    *,
    local: bool,
    resume: bool,
) -> None:
    def show(what: str, text: str) -> None:
        console.print(f"  {what:14} {text}", markup=False, soft_wrap=True)

    prompts = [*prepared.train_prompts, *prepared.test_prompts]
    preflight.check_demonstrations(config, prepared.train_problems, prepared.tokenizer)
    demonstrations = learned_from(config, prepared.tokenizer)
    # Workers elsewhere, or with a GPU, may have what this process has not.
    is_here = local and not config.verifier.num_gpus
    trial = try_verifier(config.verifier, prepared.train_problems[0]) if is_here else "not called from here"
    console.print("[bold]plan[/bold]")
    show("run directory", _described(run_dir, config, prepared.train_problems, resume=resume))
    there = config.sft is None or base_is_there(config)
    show("model", f"{config.model}{'' if there else ' (made first, by [sft])'}")
    if config.learner.lora is not None:
        show("adapters", describe_adapters(config))
    if demonstrations is not None:
        show("fine-tuning", describe_fine_tuning(config, demonstrations))
    show(
        "problems",
        f"{len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out, "
        f"prompts of {min(map(len, prompts))} to {max(map(len, prompts))} tokens",
    )
    show("verifier", f"{config.verifier.label}: {trial}")
    if config.objective.needs_base_scores:
        num_drawn, m = num_problems_drawn(config, len(prepared.train_problems)), config.objective.base_samples
        show(
            "base scores",
            f"{num_drawn:,} problems x {m} samples = {num_drawn * m:,} samples of the base model, once, before the training",
        )
    train, n = config.train, config.rollout.samples_per_prompt
    groups = train.steps * train.groups_per_step
    behind = f"at most {train.max_staleness} versions behind" if train.max_staleness else "synchronous"
    show(
        "training",
        f"{train.steps} steps x {train.groups_per_step} prompts x {n} samples = {groups * n:,} samples, "
        f"{groups / len(prepared.train_problems):.1f} epochs, {behind}",
    )
    if config.evaluation and config.evaluation.every:
        every, n = config.evaluation.every, config.evaluation.during_samples
        num_asked = min(config.evaluation.during_problems, len(prepared.test_problems))
        num = 1 + -(-train.steps // every)
        kept = f", the best checkpoint by {train.keep_best} is kept" if train.keep_best else ""
        show(
            "while it trains",
            f"{num} evaluations, one every {every} steps, of {num_asked} held-out problems x {n} samples = "
            f"{num * num_asked * n:,} samples, k = {list(config.during_ks)}{kept}",
        )
    if config.evaluation:
        temperatures = config.evaluation.temperatures or (config.rollout.temperature,)
        samples = config.evaluation.samples_per_problem * len(prepared.test_problems)
        show(
            "evaluation",
            f"{samples:,} samples of each of 2 models at T = {list(temperatures)}, k = {list(config.evaluation.ks)}",
        )


def _described(run_dir: Path, config: RunConfig, problems: list[Problem], *, resume: bool) -> str:
    """Raises ValueError, as the run would, for a checkpoint that is not of this run."""
    if not resume:
        return f"{run_dir} (not made yet)"
    checkpoint, _ = newest_undamaged(run_dir)
    if checkpoint is None:
        return f"{run_dir}, which has no checkpoint yet: it begins anew"
    reconciled = check_same_run(checkpoint, config, problems)
    return "; ".join([f"{run_dir}, from {checkpoint.name} on", *reconciled.describe()])


def describe_adapters(config: RunConfig) -> str:
    """Rank, what is trained, and what an update of the engines takes."""
    lora, shape = config.learner.lora, model_shape(config)
    assert lora is not None
    what = "adapters alone" if config.learner.rank_apart else "whole weights"
    num_bytes = published_bytes(config) / memory.FLOAT32_BYTES * memory.bytes_of(config.rollout.dtype)
    return (
        f"rank {lora.rank}, alpha {lora.alpha:g}, on {', '.join(lora.target)}: {shape.num_adapter_parameters / 1e6:.1f} M "
        f"parameters are trained, {shape.num_parameters / 1e6:,.1f} M are not; engines get {what}, {num_bytes / 1e6:,.1f} MB"
    )


def _show_placement(console: Console, config: RunConfig, *, local: bool) -> None:
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
            custom += f", on one node, each an engine in {section.tensor_parallel} parts"
        console.print(
            f"  {role:9} {workers} x {section.num_cpus:g} CPU, {num_gpus:g} GPU{custom}",
            markup=False,
            soft_wrap=True,
        )
    if local:
        needed, here = cpus_needed(config), os.cpu_count() or 1
        over = "" if needed <= here else ": they will share, and be slower"
        console.print(f"  CPUs      {needed:g} reserved, {here} here{over}")
    else:
        console.print("  cluster   not asked by a dry run whether it has room for these")
    if num_gpus := num_gpus_needed(config):
        parts = [f"{role} {section.num_gpus:g}" for role, _, section in roles if 0 < section.num_gpus < 1]
        shared = f", of which shares are taken: {', '.join(parts)}" if parts else ""
        console.print(f"  GPUs      {num_gpus}{shared}")


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
