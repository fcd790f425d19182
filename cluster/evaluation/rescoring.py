"""`bonfire eval --rescore`: other verdicts on samples that are on disk, without an engine or a model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config.schema import RunConfig
from cluster.evaluation.evaluation import report_on, section_of
from cluster.evaluation.identity import sampling_identity, verdict_identity
from cluster.evaluation.session import STAGE, Progress, run_keeping_samples, telling_how_to_go_on
from cluster.evaluation.store import (
    SETTINGS_FILE,
    Cell,
    EvalStore,
    read_problems,
    read_samples,
    read_settings,
    sample_files,
    unfinished_labels,
)
from cluster.fleet import ray_cluster
from cluster.jobs.entrypoint import check_outlives_job
from cluster.terminal.console import View
from verifiers.problems.loading import check_problems, load_problems
from verifiers.process.trial import try_imports
from verifiers.types import Problem

if TYPE_CHECKING:
    from actors.types import ScoredGroup


def rescore(
    config: RunConfig, directory: Path, out: Path | None, *, address: str | None, command: str
) -> None:
    """Judge all samples in `directory` with the config's verifier and truth; print and write a report.

    Verdicts and report go to `out`, `directory` is left as it is; its unfinished cells are left out, and
    named. `command` is this call without `--out`.
    """
    ray_cluster.set_ray_environment(local=address is None)
    evaluation = section_of(config)
    if not (directory / SETTINGS_FILE).exists() and (directory / STAGE / SETTINGS_FILE).exists():
        directory = directory / STAGE  # given the run instead of its evaluation
    directory = directory.absolute()
    new = out or Path(f"{directory}-rescored-{time.strftime('%Y%m%d-%H%M%S')}")
    check_outlives_job(new, "--out")
    if new.absolute() == directory:
        raise ValueError(f"--rescore leaves {directory} as it is: choose another --out")
    settings, files = read_settings(directory), sample_files(directory)
    if not files:
        raise ValueError(f"{directory} has no finished samples to judge: finish that evaluation first")
    sampled = settings["identity"]  # an older evaluation knows fewer settings
    num_samples = sampled["evaluation.samples_per_problem"]
    if max(evaluation.ks) > num_samples:
        raise ValueError(
            f"evaluation.ks = {list(evaluation.ks)} must lie in 1..{num_samples}, the samples per problem in "
            f"{directory}: leave out the larger ones"
        )
    problems = find_problems(read_problems(directory), load_problems(config.problems, "test"))
    try_imports(config.verifier)
    check_problems(problems, config.verifier)
    identity = {
        **{name: sampled[name] for name in sampling_identity(config, num_samples) if name in sampled},
        **verdict_identity(config, problems),
        "rescored_from": str(directory),
    }
    with (
        EvalStore(new, identity, problems) as store,
        View(f"bonfire eval · judging again {directory} · {new}", [STAGE]) as view,
        telling_how_to_go_on(f"{command} --out {new}") as stop_if_asked,
    ):
        view.start(STAGE, "verifiers are starting")
        for name, model in settings["models"].items():
            store.add_model(name, model["path"], model["fingerprint"])
        ray_cluster.start_ray(config, address=address, namespace=new.absolute().name, publishes=False)
        judge_missing(config, store, files, view, stop_if_asked)
        report = report_on(config, store, view, stop_if_asked)
    report.show(view.console)
    if left_out := unfinished_labels(directory):
        view.console.print(f"not finished there, and not judged: {', '.join(left_out)}", markup=False)
    view.console.print(f"results  {new}", soft_wrap=True, markup=False)


def find_problems(asked: Sequence[Problem], problems: Sequence[Problem]) -> list[Problem]:
    """The problems that were asked as the config has them now: the same ids with the same prompts.

    Raises ValueError naming those that are missing or ask something else.
    """
    by_id = {problem.id: problem for problem in problems}
    missing = [old.id for old in asked if old.id not in by_id]
    changed = [old.id for old in asked if old.id in by_id and by_id[old.id].prompt != old.prompt]
    for ids, fault in ((missing, "are not held out by the config"), (changed, "have another prompt there")):
        if ids:
            shown = ", ".join(map(repr, ids[:3])) + (", ..." if len(ids) > 3 else "")
            raise ValueError(
                f"{len(ids)} of the {len(asked)} problems sampled {fault}: {shown}; "
                "set problems.* as they were when the samples were drawn"
            )
    return [by_id[old.id] for old in asked]


def judge_missing(
    config: RunConfig,
    store: EvalStore,
    files: dict[Cell, Path],
    view: View,
    stop_if_asked: Callable[[], None],
) -> None:
    """Judge what the store lacks of the samples in `files`, one cell after the other."""
    from cluster.evaluation.sampling import judge_samples

    missing = {cell: set(store.missing(cell)) for cell in files}
    num_samples = store.identity["evaluation.samples_per_problem"]
    progress = Progress(view, STAGE, sum(map(len, missing.values())), num_samples)
    problems = {problem.id: problem for problem in store.problems}

    async def one(cell: Cell) -> None:
        def on_scored(group: ScoredGroup) -> None:
            store.put(cell, group.samples.group, group)
            progress.note(cell.label)

        if missing[cell]:
            samples = [group.samples for group in read_samples(files[cell])]
            groups = [group for group in samples if group.group in missing[cell]]
            await judge_samples(groups, config, problems, on_scored=on_scored)
        store.finish(cell)

    async def all_cells() -> None:
        for cell in files:
            await one(cell)

    run_keeping_samples(store.flush, all_cells(), stop_if_asked)
