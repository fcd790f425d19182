"""`bonfire train` from one end to the other: base model, training, evaluation, report."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tomli_w

from cluster import launch
from cluster.base import base_is_there, make_base
from cluster.config import RunConfig
from cluster.console import View, describe_training
from cluster.preflight import Prepared, check_model, check_prompts, prepare, tokenizer_of
from cluster.record import RunRecord, finished_checkpoints, write_atomically
from cluster.resume import check_not_running, check_same_run
from verifiers.problems import check_problems, load_problems

SETTINGS_FILE = "config.toml"


class Interrupted(Exception):
    """The user asked to stop; the message says how to go on."""


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
    title = f"bonfire · {config.objective.name}, N = {config.objective.num_select} · {run_dir}"
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
            checkpoint,
            ray_address=ray_address,
            local=address is None,
        )
        if config.evaluation:
            models = {"base": config.model, "trained": str(checkpoint / "model")}
            samples = evaluation_stage(config, view, models, prepared.test_problems, run_dir)
    printer = view.console
    if config.evaluation:
        show_report(config, samples, run_dir, printer)
    for what, path in [
        ("run directory", run_dir),
        ("settings", run_dir / SETTINGS_FILE),
        ("metrics", run_dir / "metrics.jsonl"),
        ("trajectories", record.trajectories_dir),
        ("checkpoint", checkpoint),
        *([("picture", run_dir / "report.png")] if config.evaluation else []),
    ]:
        printer.print(f"{what:>14}  {path}", soft_wrap=True)


def base_stage(config: RunConfig, view: View) -> None:
    if base_is_there(config):
        view.finish("base model", f"already there: {config.model}")
        return
    assert config.sft is not None
    view.start("base model", "generating demonstrations")

    def on_progress(progress: Any) -> None:
        left = progress.elapsed_s / progress.step * (progress.steps - progress.step)
        share = progress.step / progress.steps
        view.update(
            "base model",
            share,
            f"step {progress.step}/{progress.steps}, loss {progress.loss:.3f}, {left:.0f} s left",
        )

    make_base(config, on_progress)
    view.finish("base model", f"trained from scratch: {config.model}")


def _train_stage(
    config: RunConfig,
    view: View,
    record: RunRecord,
    prepared: Prepared,
    prompts: list[tuple[int, ...]],
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

    with _interrupts() as interrupted:
        facts = launch.train(
            config,
            run_dir=record.run_dir,
            address=ray_address,
            local=local,
            namespace=record.run_dir.absolute().name,
            problems=prepared.train_problems,
            prompts=prompts,
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


def evaluation_stage(
    config: RunConfig,
    view: View,
    models: dict[str, str],
    problems: list[Any],
    run_dir: Path,
) -> dict[str, Any]:
    """Rewards [P, n] by model name; models side by side where the CPUs allow it."""
    import ray

    from cluster.evaluate import Throughput, evaluate, rewards_of, write_samples

    assert config.evaluation is not None
    view.start("evaluation", "engines are starting")
    done = dict.fromkeys(models, 0)
    clock = Throughput(config.evaluation.samples_per_problem)

    async def one(name: str) -> Any:
        def on_progress(count: int, total: int) -> None:
            done[name] = count
            finished, all_groups = sum(done.values()), total * len(models)
            view.update("evaluation", finished / all_groups, clock.describe(finished, all_groups))

        own = config.model_copy(update={"model": models[name]})
        prompts = check_prompts(own, problems, tokenizer_of(own))
        groups = await evaluate(models[name], config, problems, prompts, on_progress=on_progress)
        write_samples(groups, run_dir / "evaluation" / f"{name}.parquet")
        return rewards_of(groups)

    async def all_models() -> dict[str, Any]:
        cpus = (
            config.rollout.workers * config.rollout.num_cpus
            + config.verifier.workers * config.verifier.num_cpus
        )
        if cpus * len(models) <= ray.cluster_resources().get("CPU", 0) and not config.rollout.num_gpus:
            return dict(zip(models, await asyncio.gather(*(one(name) for name in models)), strict=True))
        return {name: await one(name) for name in models}

    rewards = asyncio.run(all_models())
    num_samples = sum(array.size for array in rewards.values())
    view.finish("evaluation", f"{num_samples:,} samples of {len(problems):,} held-out problems")
    return rewards


def evaluate_models(
    config: RunConfig, models: tuple[str, ...], out: Path | None, *, address: str | None
) -> None:
    """`bonfire eval`: sample the models on the held-out problems, print and write the report."""
    launch.set_ray_environment(local=address is None)
    if config.evaluation is None:
        raise ValueError(
            "the config has no [evaluation] section: add one, or --set evaluation.samples_per_problem=64"
        )
    named: dict[str, str] = {}
    for model in models:
        name, separator, path = model.partition("=")
        named[name if separator else Path(model).name] = path if separator else model
    if len(named) < len(models):
        raise ValueError(f"models {list(models)} share a name: give each as NAME=PATH")
    for path in named.values():
        check_model(path)
    problems = load_problems(config.problems, "test")
    check_problems(problems, config.verifier)
    run_dir = out or Path("runs") / f"eval-{time.strftime('%Y%m%d-%H%M%S')}"
    with View(f"bonfire eval · {run_dir}", ["evaluation"]) as view:
        launch.start_ray(config, address=address, namespace=run_dir.name)
        rewards = evaluation_stage(config, view, named, problems, run_dir)
    show_report(config, rewards, run_dir, view.console)
    view.console.print(f"results  {run_dir}", soft_wrap=True)


def show_report(config: RunConfig, rewards: dict[str, Any], run_dir: Path, printer: Any) -> None:
    """Print the table; write report.json and report.png."""
    from cluster import report

    assert config.evaluation is not None
    reports = report.summarise(rewards, config.evaluation.ks, seed=config.evaluation.seed)
    about = {
        "samples_per_problem": config.evaluation.samples_per_problem,
        "problems": len(next(iter(rewards.values()))),
        "temperature": config.rollout.temperature,
        "git_commit": launch.git_commit(),
    }
    report.write(reports, run_dir, num_select=config.shown_k, about=about)
    printer.print()
    printer.print(report.table(reports))
    printer.print()


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collects SIGINT and SIGTERM: the first asks for an orderly stop, the second ends at once."""
    received: list[int] = []

    def handle(number: int, frame: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Interrupted("ended at once; the newest checkpoint is kept")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
