"""`bonfire train` from one end to the other: base model, base scores, training, evaluation, report."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tomli_w
from rich.console import Console

from actors.model_files import is_adapter
from cluster.commands.base_model import STAGE as BASE_STAGE
from cluster.commands.base_model import base_stage, learned_from
from cluster.commands.resume import check_not_running
from cluster.commands.training import Start, train_stage
from cluster.config.schema import RunConfig
from cluster.evaluation.base_scores import STAGE as BASE_SCORES_STAGE
from cluster.evaluation.base_scores import base_scores_stage
from cluster.evaluation.evaluation import BASE, BEST, TRAINED, evaluation_stage
from cluster.evaluation.session import STAGE
from cluster.fleet import ray_cluster
from cluster.jobs.entrypoint import check_outlives_job, job_metadata
from cluster.jobs.ray_jobs import ADDRESS_KEY
from cluster.run.asked import choose
from cluster.run.base_model import base_is_there
from cluster.run.model_checks import with_verifier_models_found
from cluster.run.preflight import Prepared, check_demonstrations, prepare
from cluster.run.recovery import Origin
from cluster.run.same_run import check_same_run
from cluster.run_directory.checkpoints import holds_run, usable_checkpoint
from cluster.run_directory.commit import git_commit
from cluster.run_directory.problem_list import Reconciled
from cluster.run_directory.record import BEST_LINK, SETTINGS_FILE, RunRecord, step_of, write_atomically
from cluster.run_directory.run_file import RunFile
from cluster.terminal.console import View
from cluster.terminal.interrupts import Interrupted, ending_at_once, interrupts
from cluster.tracking.process import following

if TYPE_CHECKING:  # they import torch
    from cluster.evaluation.report import Report
    from learner.supervised.demonstrations import Demonstrations

PORT_PATIENCE_S = 15.0
"""A run whose command was killed may keep its metrics port for as long as Ray needs to notice."""


def new_run_dir(config: RunConfig, name: str) -> Path:
    """The configured directory, or a fresh one under runs/."""
    if config.run_dir:
        path = Path(config.run_dir)
        check_can_be_directory(path)
        if holds_run(path):
            raise ValueError(
                f"run_dir = {config.run_dir!r} holds a run already: choose another, or --resume {path}"
            )
        return path
    return Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"


def check_can_be_directory(run_dir: Path) -> None:
    """Raises ValueError for a run directory that can never be made there."""
    try:
        if "\0" in str(run_dir):
            raise ValueError("embedded null byte")
        there = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    except (OSError, ValueError) as error:  # a name too long, or with a null byte
        why = getattr(error, "strerror", None) or error
        shown = str(run_dir) if len(str(run_dir)) <= 100 else f"{str(run_dir)[:100]}..."
        raise ValueError(f"run_dir = {shown!r} can be no directory ({why}): choose another") from None
    if not there.is_dir():
        raise ValueError(f"run_dir = {str(run_dir)!r}: {there} is a file: choose another directory")


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
    ray_cluster.set_ray_environment(local=local)
    check_outlives_job(run_dir, "run_dir")
    if config.sft is not None:
        check_outlives_job(Path(config.model), "model")
    config = with_verifier_models_found(config)
    again = f"bonfire train --resume {run_dir}" if resume else "the same command"
    with ending_at_once(f"interrupted before the training began; start again with {again}"):
        unsure = check_not_running(run_dir, address)
        prepared = prepare(config, run_dir, local=local, port_patience_s=PORT_PATIENCE_S if resume else 0.0)
        with View(_title(config, run_dir), _stages(config)) as view:
            counts = f"{len(prepared.train_problems):,} to train on, {len(prepared.test_problems):,} held out"
            view.finish("problems", counts)
            notes = [unsure] if unsure else []
            start = _check_start(config, run_dir, prepared, notes, resume=resume)
            for note in notes:
                view.note(note)
            about = {
                "local": local,
                "job": (job_metadata() or {}).get("job_submission_id"),
                "seed": config.train.seed,
                "git_commit": git_commit(),
            }
            with RunFile(run_dir, **about) as run_file:
                if config.sft:
                    # A run that goes on may have problems repaired since.
                    is_kept = resume and base_is_there(config)
                    data = None if is_kept else learned_from(config, prepared.tokenizer)
                    _make_base(config, data, run_dir, view, run_file, address)
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
        *([BASE_STAGE] if config.sft else []),
        *([BASE_SCORES_STAGE] if config.objective.needs_base_scores else []),
        "training",
        *(["evaluation"] if config.evaluation else []),
    ]


def _check_start(
    config: RunConfig, run_dir: Path, prepared: Prepared, notes: list[str], *, resume: bool
) -> Start:
    """Everything that needs the tokenizer or the run's earlier life, of which `notes` hear. Raises ValueError."""
    checkpoint = usable_checkpoint(run_dir, notes.append) if resume else None
    reconciled = Reconciled(problems=prepared.train_problems)
    if checkpoint:
        reconciled = check_same_run(checkpoint, config, prepared.train_problems)
        notes += reconciled.describe()
    asked = [problem for problem in reconciled.problems if problem.id not in reconciled.removed]
    prompt_of = dict(zip([p.id for p in prepared.train_problems], prepared.train_prompts, strict=True))
    imitated = check_demonstrations(config, asked, prepared.tokenizer)
    demonstration_of = dict(zip([p.id for p in asked], imitated, strict=True)) if imitated else {}
    return Start(
        problems=reconciled.problems,
        prompts=[prompt_of.get(problem.id, ()) for problem in reconciled.problems],
        demonstrations=[demonstration_of.get(problem.id, ()) for problem in reconciled.problems]
        if imitated
        else [],
        test_problems=prepared.test_problems,
        asked=choose(config, prepared.test_problems, prepared.test_prompts),
        origin=Origin(
            checkpoint=checkpoint,
            notes=tuple(notes),
            removed=reconciled.removed,
            repaired=reconciled.repaired,
        ),
    )


def _make_base(
    config: RunConfig,
    data: Demonstrations | None,
    run_dir: Path,
    view: View,
    run_file: RunFile,
    address: str | None,
) -> None:
    def start_ray() -> None:
        _start_ray(config, run_dir, run_file, address)
        run_file.update(stage=BASE_STAGE)

    run_file.update(stage=BASE_STAGE)
    base_stage(config, view, data, start_ray)


def _train_and_evaluate(
    config: RunConfig, run_dir: Path, start: Start, view: View, run_file: RunFile, address: str | None
) -> Result:
    go_on = _resume_command(run_dir, address)
    earlier = start.origin.checkpoint
    is_trained = earlier is not None and step_of(earlier) == config.train.steps
    ray_address = "" if is_trained else _start_ray(config, run_dir, run_file, address)

    def before_sampling() -> None:
        if is_trained:
            _start_ray(config, run_dir, run_file, address)
            run_file.update(stage=STAGE)

    with interrupts() as received:
        record = RunRecord(run_dir)
        settings = config.model_dump(mode="json", exclude_none=True)
        write_atomically(run_dir / SETTINGS_FILE, tomli_w.dumps(settings))
        resumed_from = step_of(earlier) if earlier else 0
        if config.objective.needs_base_scores and not is_trained:
            run_file.update(stage=BASE_SCORES_STAGE)
            start = _draw_base_scores(config, run_dir, start, view, go_on)
        with following(
            config.tracking, run_dir, start.problems, resumed_from=resumed_from, note=view.note
        ) as told:
            if is_trained:
                stage = "finished"
                steps = config.train.steps
                view.finish("training", f"finished already, at step {steps}/{steps}")
            else:
                stage = train_stage(
                    config,
                    view,
                    record,
                    start,
                    run_file,
                    ray_address=ray_address,
                    received=received,
                    go_on=go_on,
                )
            checkpoint = record.checkpoints()[-1]
            if received:
                raise Interrupted(f"stopped with a checkpoint; go on with: {go_on}")
            report, note = None, ""
            if stage == "stopped":
                told.outcome = "stopped"
                note = f"stopped as asked, with a checkpoint; go on with: {go_on}"
            elif config.evaluation:
                run_file.update(stage=STAGE)
                models = {
                    BASE: config.model,
                    TRAINED: str(checkpoint / "model"),
                    **_best(run_dir, checkpoint),
                }
                problems = start.test_problems
                report = evaluation_stage(
                    config, view, models, problems, run_dir, go_on=go_on, before_sampling=before_sampling
                )
        return Result(record=record, checkpoint=checkpoint, report=report, note=note)


def _draw_base_scores(config: RunConfig, run_dir: Path, start: Start, view: View, go_on: str) -> Start:
    """Every problem that the run may ask has base scores, but for those set aside, which it then does not ask."""
    unjudged = base_scores_stage(
        config, view, start.problems, start.prompts, start.origin, run_dir, go_on=go_on
    )
    return replace(start, origin=replace(start.origin, unjudged=unjudged))


def _best(run_dir: Path, newest: Path) -> dict[str, str]:
    """The model that evaluations while it trained found best, where it is not the newest one."""
    best = (run_dir / BEST_LINK).resolve()
    return {BEST: str(best / "model")} if best.is_dir() and best.name != newest.name else {}


def _start_ray(config: RunConfig, run_dir: Path, run_file: RunFile, address: str | None) -> str:
    """Start or join Ray, unless [sft] has; its address. Raises Interrupted for a signal that came meanwhile."""
    import ray

    run_file.update(stage="starting")
    if ray.is_initialized():
        return ray.get_runtime_context().gcs_address
    with interrupts() as received:  # kept for later: a signal that raised would be lost in the start of Ray
        ray_address = ray_cluster.start_ray(config, address=address, namespace=run_dir.absolute().name)
        if received:
            raise Interrupted("interrupted while Ray started; start again with the same command")
    return ray_address


def _resume_command(run_dir: Path, address: str | None) -> str:
    if (about := job_metadata()) is not None:
        return f"bonfire submit --resume {run_dir} --address {about.get(ADDRESS_KEY, 'http://HEAD:8265')}"
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
        ("export", f"bonfire export {run_dir} --merged DIR")
        if is_adapter(result.checkpoint / "model")
        else ("model", result.checkpoint / "model"),
        *([("best", run_dir / (run_dir / BEST_LINK).readlink())] if (run_dir / BEST_LINK).exists() else []),
        *([("evaluation", report.directory), ("picture", run_dir / "report.png")] if report else []),
        ("pages", f"bonfire view {run_dir}"),
    ]:
        printer.print(f"{what:>14}  {path}", soft_wrap=True)
