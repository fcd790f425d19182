"""`bonfire eval`, and the evaluation after training: what is missing is sampled, all of it reported."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from actors.model_files import base_of_adapter, is_adapter
from cluster.config.evaluation import EvalConfig
from cluster.config.schema import RunConfig
from cluster.evaluation.identity import sampling_identity, verdict_identity
from cluster.evaluation.session import STAGE, Progress, run_keeping_samples, telling_how_to_go_on
from cluster.evaluation.store import SETTINGS_FILE, Cell, EvalStore, check_names
from cluster.fleet import ray_cluster
from cluster.fleet.capacity import check_private_has
from cluster.fleet.nodes import bundle
from cluster.jobs.entrypoint import check_outlives_job
from cluster.run.intake import check_prompts, take_in
from cluster.run.preflight import check_context, check_engine, check_model, tokenizer_of
from cluster.run_directory.commit import git_commit
from cluster.run_directory.fingerprint import fingerprint
from cluster.terminal.console import View
from verifiers.process.trial import try_imports
from verifiers.types import Problem

if TYPE_CHECKING:  # they import Ray and torch, which must not come with the command line
    from actors.types import ScoredGroup
    from cluster.evaluation.report import Report
    from cluster.evaluation.sampling import Ask

MERGED = "merged"
"""In an evaluation's directory: adapters merged with their base models, each by its fingerprint, that were not published
alone.
"""
BASE, TRAINED, BEST = "base", "trained", "best"
"""Of the models of a run's evaluation, which has the last only where it is not the second."""


def evaluate_models(
    config: RunConfig, models: Sequence[str], out: Path | None, *, address: str | None, command: str
) -> None:
    """`bonfire eval`: sample `models`, and those that `out` knows already; print and write a report.

    Samples that are there are kept, so a call repeated goes on. `command` is this call without `--out`.
    """
    ray_cluster.set_ray_environment(local=address is None)
    section_of(config)
    named = name_models(models)
    directory = out or Path("runs") / f"eval-{time.strftime('%Y%m%d-%H%M%S')}"
    check_outlives_job(directory, "--out")
    if not named and not (directory / SETTINGS_FILE).exists():
        raise ValueError(
            "no models given: name at least one, as NAME=PATH, or an evaluation to go on with, as --out"
        )
    for path in named.values():
        check_model(loaded_for(path))
    check_engine(config)
    if address is None:
        check_private_has(config, trains=False)
    try_imports(config.verifier)
    judges_here = address is None and not config.verifier.num_gpus
    problems = take_in(config, "test", None, judges_here=judges_here).problems
    with (
        EvalStore(directory, identity_of(config, problems), problems) as store,
        View(f"bonfire eval · {directory}", [STAGE]) as view,
        telling_how_to_go_on(f"{command} --out {directory}") as stop_if_asked,
    ):
        view.start(STAGE, "looking for what is missing")
        for name, model in named.items():
            enter_model(store, name, model)
        missing = missing_asks(config, store)
        if missing:
            view.turn_to(STAGE, engines_are_starting(missing, config))
            stop_if_asked()
            ray_cluster.start_ray(
                config, address=address, namespace=directory.absolute().name, publishes=False
            )
            sample_missing(config, store, missing, view, stop_if_asked)
        report = report_on(config, store, view, stop_if_asked)
    report.show(view.console)
    view.console.print(f"results  {directory}", soft_wrap=True, markup=False)


def evaluation_stage(
    config: RunConfig,
    view: View,
    models: Mapping[str, str],
    problems: Sequence[Problem],
    run_dir: Path,
    *,
    go_on: str,
    before_sampling: Callable[[], None],
) -> Report:
    """The evaluation at the end of a run, in RUN_DIR/evaluation; Ray is up when `before_sampling` has returned.

    Samples of an earlier call are kept where settings and weights are the same, else drawn anew. If none is
    missing, nothing is called. `go_on` is the command that does so when this one is interrupted.
    """
    view.start(STAGE, "looking for what is missing")
    with (
        EvalStore(run_dir / STAGE, identity_of(config, problems), problems, start_anew=True) as store,
        telling_how_to_go_on(go_on) as stop_if_asked,
    ):
        for name in {BASE, TRAINED, BEST} & store.models.keys() - models.keys():
            store.remove_model(name)  # of an earlier call
        for name, model in models.items():
            enter_model(store, name, model)
        _remove_merged_of_none(store)
        missing = missing_asks(config, store)
        if missing:
            view.turn_to(STAGE, engines_are_starting(missing, config))
            before_sampling()
        sample_missing(config, store, missing, view, stop_if_asked)
        report = report_on(config, store, view, stop_if_asked)
    report.write_run(run_dir, temperature=config.rollout.temperature)
    return report


def section_of(config: RunConfig) -> EvalConfig:
    """The [evaluation] section. Raises ValueError when there is none."""
    if config.evaluation is None:
        raise ValueError(
            "the config has no [evaluation] section: add one, or evaluation.samples_per_problem=64 to the command"
        )
    return config.evaluation


def identity_of(config: RunConfig, problems: Sequence[Problem]) -> dict[str, object]:
    num_samples = section_of(config).samples_per_problem
    return {**sampling_identity(config, num_samples), **verdict_identity(config, problems)}


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Path or hub id by name; a model without NAME= is named by the last part of its path."""
    named: dict[str, str] = {}
    for model in models:
        name, separator, path = model.partition("=")
        named[name if separator else Path(model).name] = path if separator else model
    if len(named) < len(models):
        raise ValueError(f"models {list(models)} share a name: give each as NAME=PATH, NAME its own")
    check_names(list(named))
    return named


def enter_model(store: EvalStore, name: str, model: str) -> None:
    """Put a model into the store: where it is, and a fingerprint of its weights.

    Of an adapter that engines were given merged with its base model, the model that this made is written there.
    """
    from learner.model.causal_lm import resolve_model

    directory = Path(model)
    if is_adapter(directory):
        from learner.model.export import export_merged
        from learner.model.lora import was_served_apart

        if not was_served_apart(
            directory
        ):  # else merged it can be another policy, by the rounding of the sum
            merged = store.directory / MERGED / fingerprint(directory)
            if not merged.exists():
                export_merged(directory, merged)
            model, directory = str(merged), merged
    else:
        directory = resolve_model(model)
    store.add_model(
        name, str(Path(model).absolute()) if Path(model).is_dir() else model, fingerprint(directory)
    )


def _remove_merged_of_none(store: EvalStore) -> None:
    """Each is a whole model."""
    paths = {model["path"] for model in store.models.values()}
    for merged in (store.directory / MERGED).glob("*"):
        if merged.is_dir() and str(merged.absolute()) not in paths:
            shutil.rmtree(merged)


def loaded_for(model: str) -> str:
    """What engines load from disk: of an adapter its base model."""
    return base_of_adapter(Path(model)) if is_adapter(Path(model)) else model


def missing_asks(config: RunConfig, store: EvalStore) -> dict[str, list[Ask]]:
    """By model, every problem that lacks samples at one of the config's temperatures.

    Raises ValueError for a model that has other weights than those sampled so far, or no room for a prompt.
    """
    from cluster.evaluation.sampling import Ask

    evaluation = section_of(config)
    missing: dict[str, list[Ask]] = {}
    for name, model in list(store.models.items()):
        temperatures = [float(f"{t:g}") for t in evaluation.temperatures or (config.rollout.temperature,)]
        cells = [Cell(model=name, temperature=temperature) for temperature in temperatures]
        places = [(cell, index) for cell in cells for index in store.missing(cell)]
        for cell in set(cells) - {cell for cell, _ in places}:
            store.finish(cell)
        if not places:
            continue
        loaded = loaded_for(model["path"])
        check_model(loaded)
        if is_adapter(Path(model["path"])) and config.rollout.tensor_parallel > 1:
            raise ValueError(
                f"rollout.tensor_parallel = {config.rollout.tensor_parallel} with {model['path']}, an adapter that was published "
                "alone: adapters are served by engines of one part: set rollout.tensor_parallel = 1, or merge it first: "
                f"bonfire export {model['path']} --merged DIR"
            )
        enter_model(store, name, model["path"])
        own = config.model_copy(update={"model": loaded, "sft": None})
        check_context(own)
        prompts = check_prompts(own, store.problems, tokenizer_of(own))
        missing[name] = [
            Ask(
                cell=cell,
                index=index,
                problem=store.problems[index],
                prompt_token_ids=prompts[index],
                seed=evaluation.seed_of(index),
            )
            for cell, index in places
        ]
    return missing


def engines_are_starting(missing: Mapping[str, list[Ask]], config: RunConfig) -> str:
    """And what for."""
    num = sum(map(len, missing.values()))
    return f"engines are starting, for {num:,} groups of {section_of(config).samples_per_problem:,} samples"


def sample_missing(
    config: RunConfig,
    store: EvalStore,
    missing: Mapping[str, list[Ask]],
    view: View,
    stop_if_asked: Callable[[], None],
) -> None:
    """Sample into the store, models side by side as far as the cluster's resources allow."""
    if not missing:
        return
    import ray

    from cluster.evaluation.sampling import sample_model
    from learner.model.export import serve_apart

    num_samples = section_of(config).samples_per_problem
    progress = Progress(view, STAGE, sum(map(len, missing.values())), num_samples)
    side_by_side = asyncio.Semaphore(models_side_by_side(config, ray.cluster_resources()))

    def on_scored(ask: Ask, group: ScoredGroup) -> None:
        store.put(ask.cell, ask.index, group)
        progress.note(ask.cell.label, len(group.samples.token_ids))

    paths = {name: store.models[name]["path"] for name in missing}
    adapters = {
        name: serve_apart(Path(path), config.rollout.dtype)
        for name, path in paths.items()
        if is_adapter(Path(path))
    }

    async def one(name: str) -> None:
        asks = missing[name]
        async with side_by_side:
            await sample_model(
                loaded_for(paths[name]),
                config,
                asks,
                num_samples=num_samples,
                on_scored=on_scored,
                adapter=adapters.get(name),
            )
        for cell in {ask.cell for ask in asks}:
            store.finish(cell)

    async def all_models() -> None:
        await asyncio.gather(*(one(name) for name in missing))

    run_keeping_samples(store.flush, all_models(), stop_if_asked)


def report_on(config: RunConfig, store: EvalStore, view: View, stop_if_asked: Callable[[], None]) -> Report:
    """Compute and write the report of all finished cells."""
    from cluster.evaluation.report import make_report

    evaluation = section_of(config)

    def on_progress(text: str) -> None:
        stop_if_asked()
        view.update(STAGE, None, text)

    report = make_report(
        store.directory,
        models=list(store.models),
        difficulties=[problem.difficulty for problem in store.problems],
        ks=evaluation.ks,
        seed=evaluation.seed,
        on_progress=on_progress,
    )
    report.write({**store.identity, "git_commit": git_commit()})
    cells = [result.cell for result in report.results]
    num_models, num_temperatures = (
        len({cell.model for cell in cells}),
        len({cell.temperature for cell in cells}),
    )
    view.finish(
        STAGE,
        f"{len(cells) * len(store.problems) * report.results[0].num_samples:,} samples: {len(store.problems):,} "
        f"held-out problems, models: {num_models}, temperatures: {num_temperatures}",
    )
    return report


def models_side_by_side(config: RunConfig, resources: Mapping[str, float]) -> int:
    """How many models' workers the cluster holds at a time."""
    needed: dict[str, float] = defaultdict(float)
    for role in (config.rollout, config.verifier):
        for what, amount in bundle(role).items():
            needed[what] += role.workers * amount
    fitting = [int(resources.get(what, 0) // amount) for what, amount in needed.items() if amount]
    return max(1, min(fitting, default=1))
