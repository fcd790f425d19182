"""`bonfire train` from one end to the other: base model, training, evaluation, report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import tomli_w

from cluster import launch
from cluster.base import base_is_there, make_base
from cluster.config import RunConfig
from cluster.console import View, describe_training, duration
from cluster.evaluation import evaluation_stage
from cluster.interrupts import Interrupted, interrupts
from cluster.preflight import Prepared, check_demonstrations, check_prompts, prepare, tokenizer_of
from cluster.record import RunRecord, finished_checkpoints, write_atomically
from cluster.resume import check_not_running, check_same_run

SETTINGS_FILE = "config.toml"


def new_run_dir(config: RunConfig, name: str) -> Path:
    """The configured directory, or a fresh one under runs/."""
    if config.run_dir:
        path = Path(config.run_dir)
        if (path / SETTINGS_FILE).exists():
            raise ValueError(
                f"run_dir = {config.run_dir!r} holds a run already: choose another, or --resume {path}"
            )
        return path
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def train(config: RunConfig, run_dir: Path, *, resume: bool, address: str | None) -> None:
    """Run all stages and print the result. Raises ValueError or RuntimeError with lines for the user."""
    launch.set_ray_environment(local=address is None)
    prepared = prepare(config, run_dir, local=address is None)
    stages = ["problems", *(["base model"] if config.sft else []), "training"]
    if config.evaluation:
        stages += ["evaluation"]
    objective = config.objective
    what = (
        f"{objective.name}, N = {objective.num_select}"
        if objective.has_effect("num_select")
        else objective.name
    )
    title = f"bonfire · {what} · {run_dir}"
    with View(title, stages) as view:
        counts = f"{len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out"
        view.finish("problems", counts)
        earlier = finished_checkpoints(run_dir) if resume else []
        checkpoint = earlier[-1] if earlier else None
        if resume:
            check_not_running(run_dir)
        if checkpoint:
            check_same_run(checkpoint, config, prepared.train_problems)
        tokenizer = tokenizer_of(config)
        prompts = check_prompts(config, prepared.train_problems, tokenizer)
        check_prompts(config, prepared.test_problems, tokenizer)
        demonstrations = check_demonstrations(config, prepared.train_problems, tokenizer)
        if config.sft:
            base_stage(config, view)
        if Path(config.model).is_dir():  # workers and a later --resume have other working directories
            config = config.model_copy(update={"model": str(Path(config.model).absolute())})
        ray_address = launch.start_ray(config, address=address, namespace=run_dir.absolute().name)
        record = RunRecord(run_dir)
        settings = config.model_dump(mode="json", exclude_none=True)
        write_atomically(run_dir / SETTINGS_FILE, tomli_w.dumps(settings))
        checkpoint = _train_stage(
            config,
            view,
            record,
            prepared,
            prompts,
            demonstrations,
            checkpoint,
            ray_address=ray_address,
            local=address is None,
        )
        if config.evaluation:
            models = {"base": config.model, "trained": str(checkpoint / "model")}
            report = evaluation_stage(config, view, models, prepared.test_problems, run_dir)
    printer = view.console
    if config.evaluation:
        report.show(printer)
    for what, path in [
        ("run directory", run_dir),
        ("settings", run_dir / SETTINGS_FILE),
        ("metrics", run_dir / "metrics.jsonl"),
        ("trajectories", record.trajectories_dir),
        ("checkpoint", checkpoint),
        *([("evaluation", report.directory)] if config.evaluation else []),
        *([("picture", run_dir / "report.png")] if config.evaluation else []),
    ]:
        printer.print(f"{what:>14}  {path}", soft_wrap=True)


def base_stage(config: RunConfig, view: View) -> None:
    if base_is_there(config):
        view.finish("base model", f"already there: {config.model}")
        return
    assert config.sft is not None
    num_demonstrations = config.sft.num_demonstrations
    view.start("base model", "generating demonstrations")

    def on_demonstrations(count: int) -> None:
        view.update("base model", None, f"generating demonstrations, {count:,}/{num_demonstrations:,}")

    def on_progress(progress: Any) -> None:
        share = progress.step / progress.steps
        view.update(
            "base model",
            share,
            f"step {progress.step}/{progress.steps}, loss {progress.loss:.3f}, {duration(progress.left_s)} left",
        )

    make_base(config, on_progress, on_demonstrations)
    view.finish("base model", f"trained from scratch: {config.model}")


def _train_stage(
    config: RunConfig,
    view: View,
    record: RunRecord,
    prepared: Prepared,
    prompts: list[tuple[int, ...]],
    demonstrations: list[tuple[int, ...]],
    checkpoint: Path | None,
    *,
    ray_address: str,
    local: bool,
) -> Path:
    """The newest checkpoint at the end; starts from the given one."""
    view.start("training", f"resuming from {checkpoint}" if checkpoint else "starting")

    def on_facts(facts: dict[str, Any]) -> None:
        share, headline, details = describe_training(facts, config.shown_k)
        if interrupted:
            headline += "   stopping after this step"
        view.update("training", share, headline, details)

    with interrupts() as interrupted:
        facts = launch.train(
            config,
            run_dir=record.run_dir,
            address=ray_address,
            local=local,
            namespace=record.run_dir.absolute().name,
            problems=prepared.train_problems,
            prompts=prompts,
            demonstrations=demonstrations,
            checkpoint=checkpoint,
            on_facts=on_facts,
            should_stop=lambda: bool(interrupted),
        )
    view.finish(
        "training",
        f"{facts['stage']} at step {facts['step']}/{facts['steps']}"
        + (f", reward {facts['reward']:.3f}" if "reward" in facts else ""),
    )
    if interrupted:
        raise Interrupted(f"stopped with a checkpoint; go on with: bonfire train --resume {record.run_dir}")
    return record.checkpoints()[-1]
