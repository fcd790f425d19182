"""The base scores of a run: those of samples of its model, of every problem that it may ask, drawn once before it trains.

They are of version 0, sampled and judged by the run's own engines and verifiers, which are ended before it trains. The file
of them is written anew every few seconds: a run that is resumed draws what it lacks, after an interruption or for more steps.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster.config.schema import RunConfig
from cluster.evaluation.identity import engine_identity, verifier_identity
from cluster.evaluation.session import Progress, run_keeping_samples, telling_how_to_go_on
from cluster.evaluation.store import Cell
from cluster.fleet.needs import model_directory
from cluster.run.recovery import Origin
from cluster.run_directory.fingerprint import fingerprint
from cluster.run_directory.problem_list import digest
from cluster.run_directory.record import BASE_SCORES_FILE, write_table_atomically
from cluster.terminal.console import View
from verifiers.types import Problem

if TYPE_CHECKING:  # they import Ray and torch, which must not come with the command line
    from actors.types import ScoredGroup
    from cluster.evaluation.sampling import Ask

STAGE = "base scores"
FIRST_SEED = 1 << 31
"""Of the 2^32 that a seed of the settings stands for; those of a run's groups and of an evaluation begin at 0."""
IDENTITY_KEY = b"bonfire.identity"
"""Of the file's metadata: what the scores depend on beside the problem, as JSON."""


def num_problems_drawn(config: RunConfig, num_problems: int) -> int:
    """Problems that the run may ask: those of its groups, and those that may take the place of problems set aside."""
    train = config.train
    return min(num_problems, train.steps * train.groups_per_step + train.max_unjudged_problems)


def seed_of(config: RunConfig, index: int) -> int:
    """Of the first sample of the problem at that place: by the problem alone, whatever else is drawn with it."""
    return (config.train.seed << 32) + FIRST_SEED + index * config.objective.base_samples


def base_scores_stage(
    config: RunConfig,
    view: View,
    problems: Sequence[Problem],
    prompts: Sequence[tuple[int, ...]],
    origin: Origin,
    run_dir: Path,
    *,
    go_on: str,
) -> Sequence[Mapping[str, Any]]:
    """Draw what RUN_DIR/base_scores.parquet lacks for the run that begins at `origin`; Ray is up.

    Returns the problems set aside by then, as a checkpoint keeps them: one on which the verifier fails again and again has
    no base scores. Raises Halt where there are too many of them or workers keep failing, Interrupted with `go_on`, the
    command that draws the rest.
    """
    from cluster.evaluation.sampling import Ask, sample_model
    from cluster.run.restoring import restore
    from cluster.run.unjudged import TRIES

    view.start(STAGE, "looking for scores that are there")
    restored = restore(config, origin, problems, run_dir)
    scores = BaseScores(run_dir / BASE_SCORES_FILE, _identity(config))
    if scores.changed:
        view.note(f"base scores are drawn again: {', '.join(scores.changed)} changed since they were")
    num_first = num_problems_drawn(config, len(problems)) + len(origin.removed)
    asked = [
        index for index in restored.ledger.first_problems(num_first) if index not in restored.ledger.set_aside
    ]
    num_samples = config.objective.base_samples
    asks = [
        Ask(
            cell=Cell(model="base", temperature=config.rollout.temperature),
            index=index,
            problem=problems[index],
            prompt_token_ids=prompts[index],
            seed=seed_of(config, index),
        )
        for index in asked
        if problems[index] not in scores
    ]
    progress = Progress(view, STAGE, len(asks), num_samples)

    def on_scored(ask: Ask, group: ScoredGroup) -> None:
        scores.put(ask.problem, group.scores.tolist())
        progress.note(f"{num_samples} samples of each", len(group.samples.token_ids))

    def leave_out(ask: Ask, error: str) -> bool:
        is_set_aside = restored.unjudged.failed(ask.problem.id, error, restored.version)
        if is_set_aside:
            view.note(f"problem {ask.problem.id} is set aside: the verifier failed on it {TRIES} times")
        return is_set_aside

    if asks:
        view.turn_to(STAGE, f"engines are starting, for {len(asks):,} problems x {num_samples:,} samples")
        sampling = sample_model(
            config.model, config, asks, num_samples=num_samples, on_scored=on_scored, leave_out=leave_out
        )
        with telling_how_to_go_on(go_on) as stop_if_asked:
            run_keeping_samples(scores.flush, sampling, stop_if_asked)
    num_scored = sum(problems[index] in scores for index in asked)
    drawn = f"drawn now: {sum(ask.problem in scores for ask in asks):,}" if asks else "there already"
    view.finish(STAGE, f"{num_scored:,} problems x {num_samples} samples of the base, {drawn}")
    return restored.unjudged.entries


class BaseScores:
    """A file of base scores, open for writing by this process alone."""

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Go on with the file that is there, unless its scores are of another identity, which counts as none.

        Raises ValueError, in one line, for a file that cannot be read.
        """
        self._path = path
        self._identity = identity
        self._rows: dict[str, dict[str, Any]] = {}
        self._is_written = True
        self.changed: list[str] = []
        """What of the identity is other than in the file."""
        if path.exists():
            self._read()

    def __contains__(self, problem: Problem) -> bool:
        """Whether there are scores of the problem as it is now."""
        row = self._rows.get(problem.id)
        return row is not None and row["digest"] == digest(problem, imitated=False)

    def put(self, problem: Problem, scores: Sequence[float]) -> None:
        """Keep the scores of a problem, on disk after the next `flush`."""
        found = {"problem_id": problem.id, "scores": scores, "digest": digest(problem, imitated=False)}
        self._rows[problem.id] = found
        self._is_written = False

    def flush(self) -> None:
        """Write what is kept in memory. Raises WriteFailed, and the file is as it was."""
        if self._is_written:
            return
        from learner.objectives.calibration import SCHEMA

        schema = SCHEMA.append(pa.field("digest", pa.string()))
        metadata = {IDENTITY_KEY: json.dumps(self._identity)}
        table = pa.Table.from_pylist(list(self._rows.values()), schema=schema.with_metadata(metadata))
        write_table_atomically(self._path, table)
        self._is_written = True

    def _read(self) -> None:
        try:
            table = pq.read_table(self._path)
            identity = json.loads(table.schema.metadata[IDENTITY_KEY])
            rows = {row["problem_id"]: row for row in table.to_pylist()}
        except (OSError, pa.ArrowException, TypeError, KeyError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"base scores {self._path} cannot be read ({reason}): delete the file, and they are drawn again"
            ) from None
        wanted = json.loads(json.dumps(self._identity))
        self.changed = sorted(
            name for name in identity.keys() | wanted if identity.get(name) != wanted.get(name)
        )
        self._rows = {} if self.changed else rows


def _identity(config: RunConfig) -> dict[str, Any]:
    """What base scores depend on beside the problem, by dotted name."""
    return {
        "model": fingerprint(model_directory(config.model)),
        "objective.base_samples": config.objective.base_samples,
        "train.seed": config.train.seed,
        "rollout.temperature": config.rollout.temperature,
        **engine_identity(config),
        **verifier_identity(config),
    }
