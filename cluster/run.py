"""`bonfire train` from one end to the other: base model, training, evaluation, report."""

from __future__ import annotations

import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tomli_w
from rich.console import Console

from cluster import launch
from cluster.base import base_is_there, make_base
from cluster.config import RunConfig
from cluster.console import View, describe_training, duration
from cluster.eval_session import STAGE
from cluster.evaluation import evaluation_stage
from cluster.interrupts import Interrupted, ending_at_once, interrupts
from cluster.preflight import Prepared, check_demonstrations, check_prompts, prepare, tokenizer_of
from cluster.record import RunRecord, finished_checkpoints, write_atomically
from cluster.resume import check_not_running, check_same_run
from cluster.run_file import RunFile

if TYPE_CHECKING:  # it imports torch
    from cluster.report import Report

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What the training starts from."""

    problems: Prepared
    prompts: list[tuple[int, ...]]
    demonstrations: list[tuple[int, ...]]
    checkpoint: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is shown at the end of a run."""

    record: RunRecord
    checkpoint: Path
    report: Report | None
    note: str


def train(config: RunConfig, run_dir: Path, *, resume: bool, address: str | None) -> None:
    """Run all stages and print the result. Raises ValueError or RuntimeError with lines for the user.

    A signal raises Interrupted: at once before the training, after a checkpoint in it, keeping what was
    sampled in the evaluation. A stop asked for by `bonfire stop` leaves out what would follow.
    """
    local = address is None
    launch.set_ray_environment(local=local)
    launch.check_outlives_job(run_dir)
    again = f"bonfire train --resume {run_dir}" if resume else "the same command"
    with ending_at_once(f"interrupted before the training began; start again with {again}"):
        prepared = prepare(config, run_dir, local=local)
        with View(_title(config, run_dir), _stages(config)) as view:
            counts = f"{len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out"
            view.finish("problems", counts)
            start = _check_start(config, run_dir, prepared, resume=resume)
            about = {
                "local": local,
                "job": (launch.job_metadata() or {}).get("job_submission_id"),
                "seed": config.train.seed,
                "git_commit": launch.git_commit(),
            }
            with RunFile(run_dir, **about) as run_file:
                if config.sft:
                    run_file.update(stage="base model")
                    base_stage(config, view)
                if Path(config.model).is_dir():  # workers and a later --resume have other working directories
                    config = config.model_copy(update={"model": str(Path(config.model).absolute())})
                result = _train_and_evaluate(config, run_dir, start, view, run_file, address)
    _show(result, view.console)


def _title(config: RunConfig, run_dir: Path) -> str:
    objective = config.objective
    what = (
        f"{objective.name}, N = {objective.num_select}"
        if objective.has_effect("num_select")
        else objective.name
    )
    return f"bonfire · {what} · {run_dir}"


def _stages(config: RunConfig) -> list[str]:
    return [
        "problems",
        *(["base model"] if config.sft else []),
        "training",
        *(["evaluation"] if config.evaluation else []),
    ]


def _check_start(config: RunConfig, run_dir: Path, prepared: Prepared, *, resume: bool) -> Start:
    """Everything that needs the tokenizer or the run's earlier life. Raises ValueError."""
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
    return Start(problems=prepared, prompts=prompts, demonstrations=demonstrations, checkpoint=checkpoint)


def _train_and_evaluate(
    config: RunConfig, run_dir: Path, start: Start, view: View, run_file: RunFile, address: str | None
) -> Result:
    go_on = _resume_command(run_dir, address)
    run_file.update(stage="starting")
    with interrupts() as early:  # kept for later: a signal that raised would be lost in the start of Ray
        try:
            ray_address = launch.start_ray(config, address=address, namespace=run_dir.absolute().name)
        except SystemExit:  # of the handler that Ray puts in the place of ours on its way
            early.append(signal.SIGTERM)
            ray_address = ""
        if early:
            raise Interrupted("interrupted while Ray started, before the training")
        with interrupts() as received:  # once more, for that reason
            record = RunRecord(run_dir)
            settings = config.model_dump(mode="json", exclude_none=True)
            write_atomically(run_dir / SETTINGS_FILE, tomli_w.dumps(settings))
            stage = _train_stage(config, view, record, start, run_file, ray_address, received)
            checkpoint = record.checkpoints()[-1]
            if received:
                raise Interrupted(f"stopped with a checkpoint; go on with: {go_on}")
            report, note = None, ""
            if stage == "stopped":
                note = f"stopped as asked, with a checkpoint; go on with: {go_on}"
            elif config.evaluation:
                run_file.update(stage=STAGE)
                models = {"base": config.model, "trained": str(checkpoint / "model")}
                problems = start.problems.test_problems
                report = evaluation_stage(config, view, models, problems, run_dir, go_on=go_on)
            return Result(record=record, checkpoint=checkpoint, report=report, note=note)


def _resume_command(run_dir: Path, address: str | None) -> str:
    if launch.job_metadata() is not None:
        return f"bonfire submit --resume {run_dir} --address http://HEAD:8265"
    return f"bonfire train --resume {run_dir}" + (f" --address {address}" if address else "")


def _show(result: Result, printer: Console) -> None:
    run_dir, report = result.record.run_dir, result.report
    if result.note:
        printer.print(result.note, soft_wrap=True, markup=False)
    if report:
        report.show(printer)
    for what, path in [
        ("run directory", run_dir),
        ("settings", run_dir / SETTINGS_FILE),
        ("metrics", run_dir / "metrics.jsonl"),
        ("trajectories", result.record.trajectories_dir),
        ("checkpoint", result.checkpoint),
        *([("evaluation", report.directory), ("picture", run_dir / "report.png")] if report else []),
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
    start: Start,
    run_file: RunFile,
    ray_address: str,
    received: list[int],
) -> str:
    """The controller's last stage, `finished` or `stopped`; `received` are signals, which stop it."""
    checkpoint = start.checkpoint
    namespace = record.run_dir.absolute().name
    view.start("training", f"resuming from {checkpoint}" if checkpoint else "starting")

    def on_start(facts: dict[str, Any]) -> None:
        run_file.update(
            stage="training", address=ray_address, namespace=namespace, metrics_port=facts["metrics_port"]
        )

    def on_facts(facts: dict[str, Any]) -> None:
        share, headline, details = describe_training(facts, config.shown_k)
        if received:
            headline += "   stopping after this step"
        view.update("training", share, headline, details)

    facts = launch.train(
        config,
        run_dir=record.run_dir,
        namespace=namespace,
        problems=start.problems.train_problems,
        prompts=start.prompts,
        demonstrations=start.demonstrations,
        checkpoint=checkpoint,
        on_start=on_start,
        on_facts=on_facts,
        should_stop=lambda: bool(received),
    )
    view.finish(
        "training",
        f"{facts['stage']} at step {facts['step']}/{facts['steps']}"
        + (f", reward {facts['reward']:.3f}" if "reward" in facts else ""),
    )
    return str(facts["stage"])
