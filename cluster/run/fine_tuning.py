"""Supervised fine-tuning on the demonstrations of a run's problems: what is learned from, and its steps on a cluster.

While it is under way its directory is laid out as a run's: checkpoints/step-N/, and metrics.jsonl with a line per step.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import ray

from actors.tokens import encode_demonstrations, encode_prompts, stop_token_ids
from cluster.config.schema import RunConfig
from cluster.fleet.calls import WorkerLost, is_accident
from cluster.fleet.needs import described_by
from cluster.fleet.ranks import Ranks
from cluster.run.model_checks import why_beyond
from cluster.run.token_words import naming_unknown_words
from cluster.run_directory.checkpoints import usable_checkpoint
from cluster.run_directory.record import RunRecord, naming_disk, step_of
from learner.supervised.demonstrations import Demonstrations, choose_held_out, lay_out
from learner.supervised.worker import SupervisedWorker
from verifiers.problems.loading import read_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuningProgress:
    """Where it is: after `step` of `steps`. Losses in nats a completion token."""

    step: int
    steps: int
    loss: float
    held_out_loss: float | None
    """The newest; None where nothing is held out."""
    tokens_per_s: float
    """Positions computed in the last step, prompts included."""
    left_s: float
    """Until the last step, at the pace of the steps so far."""


def take_demonstrations(config: RunConfig, tokenizer: Any) -> Demonstrations:
    """The demonstrations of the training problems, encoded as rollouts would have asked and been answered.

    Verifiers have no say in them. Rows without a demonstration, or too long for rollout.max_model_len, are left out up to
    problems.max_invalid_rows, and more are a ValueError with a line for each.
    """
    assert config.sft is not None
    sft, rollout = config.sft, config.rollout
    problems, invalid = read_problems(config.problems, "train")
    demonstrated = [problem for problem in problems if problem.demonstration is not None]
    if problems and not demonstrated:
        raise ValueError(
            "no training problem has a demonstration for [sft] to learn from: set problems.demonstration_field, or a "
            "problems.format that has one"
        )
    for problem in problems:
        if problem.demonstration is None:
            invalid.add(
                f"problem {problem.id!r} has no demonstration: add one, or leave the row out with problems.max_invalid_rows"
            )
    stop_token_id = stop_token_ids(described_by(config), tokenizer, rollout.chat)[0]
    with naming_unknown_words("a prompt or a demonstration", config):
        prompts = encode_prompts(tokenizer, demonstrated, rollout.chat)
        completions = encode_demonstrations(tokenizer, demonstrated, stop_token_id)
    beyond = why_beyond(config, tokenizer)
    kept: list[int] = []
    for number, (problem, prompt, completion) in enumerate(
        zip(demonstrated, prompts, completions, strict=True)
    ):
        length = len(prompt) + len(completion)
        why = beyond("the prompt", problem, prompt) or beyond("the demonstration", problem, completion)
        if length > rollout.max_model_len:
            why = (
                f"problem {problem.id!r} has {length} tokens with its demonstration and stop token, more than "
                f"rollout.max_model_len = {rollout.max_model_len}: raise that, or leave the row out with "
                "problems.max_invalid_rows"
            )
        elif not prompt:
            why = f"problem {problem.id!r} has an empty prompt: nothing predicts its demonstration's first token"
        if why:
            invalid.add(why)
        else:
            kept.append(number)
    invalid.settle()
    prompts, completions = ([one[number] for number in kept] for one in (prompts, completions))
    held_out = choose_held_out(prompts, share=sft.held_out_share, at_most=sft.held_out_max)
    if not kept or held_out.all():
        raise ValueError(
            f"sft.held_out_share = {sft.held_out_share} leaves none of {len(kept)} demonstrations to learn from: lower it, or "
            "give more"
        )
    trained = np.flatnonzero(~held_out)
    return Demonstrations(
        sequences=lay_out(prompts, completions),
        trained=trained,
        held_out=np.flatnonzero(held_out),
        batch_size=sft.batch_size,
        num_rows=sft.num_rows(len(trained)),
        seed=sft.seed,
    )


def fine_tune(
    config: RunConfig,
    data: Demonstrations,
    identity: dict[str, Any],
    directory: Path,
    *,
    on_progress: Callable[[FineTuningProgress], None],
    on_note: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Path | None:
    """Take all steps, from the newest checkpoint in `directory` on; the model's directory there.

    `should_stop` turning true ends it after the step in progress, with a checkpoint; then None. Ray is connected. Raises
    RuntimeError where a process of it is lost, ValueError for a checkpoint that cannot be gone on from.
    """
    running = _run(config, data, identity, directory, on_progress, on_note, should_stop)
    try:
        return asyncio.run(running)
    except WorkerLost as error:
        raise RuntimeError(f"{error}{what_now(error, num_ranks=config.learner.ranks)}") from error


def what_now(error: WorkerLost, *, num_ranks: int) -> str:
    """Behind an error: nothing where the same would happen again."""
    if not is_accident(error, num_ranks=num_ranks):
        return ""
    was_slow = error.__cause__ is None  # it did not answer in time
    return "; the same command goes on" + (
        ", with a larger train.step_timeout_s where it was only slow" if was_slow else ""
    )


async def _run(
    config: RunConfig,
    data: Demonstrations,
    identity: dict[str, Any],
    directory: Path,
    on_progress: Callable[[FineTuningProgress], None],
    on_note: Callable[[str], None],
    should_stop: Callable[[], bool],
) -> Path | None:
    sft, steps = config.sft, data.num_steps
    assert sft is not None and sft.base_model is not None
    record = RunRecord(directory)
    checkpoint = usable_checkpoint(directory, on_note)
    begun_at = done = step_of(checkpoint) if checkpoint else 0
    record.rewind(done if checkpoint else -1)
    if checkpoint and done == steps:
        return checkpoint / "model"
    ranks = Ranks(SupervisedWorker, config.learner, step_timeout_s=config.train.step_timeout_s)
    learner = sft.learner_config(config.learner, steps)
    base_model = sft.base_model
    if Path(base_model).is_dir():  # workers have other working directories
        base_model = str(Path(base_model).absolute())
    held_out_loss: float | None = None

    async def measure() -> float:
        measuring = [actor.held_out_loss.remote() for actor in ranks.actors]
        return (
            await ranks.working(
                measuring, f"measuring the loss of {len(data.held_out)} held-out demonstrations"
            )
        )[0]

    try:
        await ranks.start(base_model, learner, sft.seed, ray.put(data), identity)
        await ranks.check_sees(directory)
        if checkpoint:
            loading = [actor.load.remote(str(checkpoint.absolute())) for actor in ranks.actors]
            await ranks.starting(loading, f"loading {checkpoint}")
        elif len(data.held_out):
            held_out_loss = await measure()
            record.append_metrics({"step": 0, "held_out_loss": held_out_loss})
        started_s = time.monotonic()
        while done < steps:
            facts = (await ranks.working([a.train_step.remote() for a in ranks.actors], "training a step"))[0]
            done += 1
            if len(data.held_out) and (done % sft.held_out_every == 0 or done == steps):
                held_out_loss = facts["held_out_loss"] = await measure()
            record.append_metrics(facts)
            stops = should_stop()
            if done % sft.checkpoint_every == 0 or done == steps or stops:
                await _save(record, ranks, done, keep=config.train.keep_checkpoints)
            pace_s = (time.monotonic() - started_s) / (done - begun_at)
            on_progress(
                FineTuningProgress(
                    step=done,
                    steps=steps,
                    loss=facts["loss"],
                    held_out_loss=held_out_loss,
                    tokens_per_s=facts["positions"] / facts["step_s"],
                    left_s=pace_s * (steps - done),
                )
            )
            if stops and done < steps:
                return None
    finally:
        ranks.stop()
    return record.checkpoints()[-1] / "model"


async def _save(record: RunRecord, ranks: Ranks, step: int, *, keep: int) -> None:
    partial = record.begin_checkpoint(step)
    saving = [actor.save.remote(str(partial.absolute())) for actor in ranks.actors]
    with naming_disk(partial):
        await ranks.working(saving, "writing a checkpoint")
    record.finish_checkpoint(step, {"version": step}, keep=keep)
