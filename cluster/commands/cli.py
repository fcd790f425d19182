"""The command `bonfire`."""

from __future__ import annotations

import logging
import os
import shlex
import sys
import warnings
from pathlib import Path

import click

from cluster.commands import run_commands, view_commands
from cluster.commands.run_commands import CONTEXT


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="bonfire-rl", prog_name="bonfire")
def cli() -> None:
    """Fine-tune language models for Best-of-N sampling, on Ray and vLLM.

    \b
    Try it on this machine's CPU (about five minutes):
        bonfire train examples/countdown.toml
    """


for command in (
    run_commands.submit,
    run_commands.status,
    run_commands.scale,
    run_commands.stop,
    run_commands.logs,
    view_commands.view,
    view_commands.report,
):
    cli.add_command(command)


@cli.command(context_settings=CONTEXT, short_help="Train as a config file says, then evaluate.")
@click.argument("config", type=click.Path(path_type=Path), required=False)
@click.argument("overrides", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, start nothing.")
@click.option(
    "--resume",
    metavar="RUN_DIR|auto",
    help="Go on from a run's newest checkpoint; auto, with CONFIG and run_dir=DIR: if DIR holds a run, else begin it.",
)
@click.option("--address", metavar="HOST:PORT", help="Join this Ray cluster instead of starting one here.")
def train(
    config: Path | None, overrides: tuple[str, ...], dry_run: bool, resume: str | None, address: str | None
) -> None:
    """Train as CONFIG (a TOML file) says, then evaluate.

    OVERRIDES change single settings by dotted path; values are TOML, bare words are strings. learner.lora=none leaves out
    a section that may be left out.

    Ctrl-C or SIGTERM finishes the step in progress, writes a checkpoint and says how to go on.

    \b
    Examples:
        bonfire train examples/countdown.toml
        bonfire train examples/countdown.toml train.steps=50 objective.name=rloo
        bonfire train --resume runs/countdown-20261121-101500
        bonfire train examples/countdown.toml --resume auto run_dir=runs/mine
    """
    from cluster.commands import train as training
    from cluster.commands.resume import AUTO, find_or_begin
    from cluster.config.parse import load_config
    from cluster.run_directory.record import SETTINGS_FILE

    if config is not None and "=" in str(config):
        config, overrides = None, (str(config), *overrides)
    goes_on = resume is not None
    if resume == AUTO:
        if config is None:
            raise ValueError("--resume auto may have to begin a run: give CONFIG too")
        parsed, run_dir, goes_on = find_or_begin(load_config(config, overrides))
    elif resume is not None:
        if config is not None:
            raise ValueError("--resume takes the settings of the run itself: give it without CONFIG")
        run_dir = Path(resume)
        settings = run_dir / SETTINGS_FILE
        if not settings.is_file():
            raise ValueError(f"--resume {resume}: no {SETTINGS_FILE} in it, so it is no run directory")
        parsed = load_config(settings, overrides)
    elif config is None:
        raise ValueError(
            "CONFIG is missing: give a TOML file, for example examples/countdown.toml, or --resume RUN_DIR"
        )
    else:
        parsed = load_config(config, overrides)
        run_dir = training.new_run_dir(parsed, config.stem)
    if dry_run:
        from cluster.commands.plan import show_plan

        show_plan(parsed, run_dir, local=address is None, resume=goes_on)
        return
    training.train(parsed, run_dir, resume=goes_on, address=address)


@cli.command(context_settings=CONTEXT, short_help="Fine-tune a base model on demonstrations.")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="The same as an override.")
@click.option("--dry-run", is_flag=True, help="Check everything, print the plan, start nothing.")
@click.option("--address", metavar="HOST:PORT", help="Join this Ray cluster instead of starting one here.")
def sft(
    config: Path, overrides: tuple[str, ...], settings: tuple[str, ...], dry_run: bool, address: str | None
) -> None:
    """Make the base model of CONFIG's [sft] section, and nothing else: fine-tune sft.base_model on the demonstrations of
    the training problems, or make a countdown model from scratch. `model` says where it goes.

    Ctrl-C or SIGTERM finishes the step in progress and writes a checkpoint; the same command goes on from it.

    \b
    Examples:
        bonfire sft examples/gsm8k_sft.toml
        bonfire sft examples/countdown.toml model=runs/my-base sft.steps=500
    """
    from cluster.commands.base_model import sft as run
    from cluster.config.parse import load_config

    parsed = load_config(config, [*overrides, *settings])
    if parsed.sft is None:
        raise ValueError(f"{config} has no [sft] section: there is no base model to make")
    run(parsed, address=address, dry_run=dry_run)


@cli.command(name="eval", context_settings=CONTEXT, short_help="Compare models on held-out problems.")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("models", nargs=-1, metavar="[NAME=MODEL | KEY=VALUE]...")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a setting; may be repeated."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Directory of the results, new or of an earlier call [default: runs/eval-<time>].",
)
@click.option(
    "--rescore",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Judge the samples in DIR again instead of sampling [--out: DIR-rescored-<time>].",
)
@click.option("--address", metavar="HOST:PORT", help="Join this Ray cluster instead of starting one here.")
def evaluate(
    config: Path,
    models: tuple[str, ...],
    settings: tuple[str, ...],
    out: Path | None,
    rescore: Path | None,
    address: str | None,
) -> None:
    """Sample models on CONFIG's held-out problems; print pass@k, Best-of-k and majority@k with intervals.

    A MODEL is a checkpoint directory or hub id. The first is the reference that the others are compared
    with, paired by problem. KEY=VALUE overrides a setting: KEY begins with a section of the config and a
    dot (evaluation.seed=2), all else is a model.

    Every sample is kept. The same call with --out goes on after an interruption, and one with more models
    or temperatures samples only those.

    \b
    Examples:
        bonfire eval examples/countdown.toml base=runs/countdown-base \\
            trained=runs/countdown-20261121-101500/checkpoints/step-000100/model
        bonfire eval examples/countdown.toml base=runs/countdown-base \\
            evaluation.temperatures=[0.6,0.8,1.0] --out runs/temperatures
        bonfire eval examples/countdown.toml --rescore runs/temperatures verifier.reward=mine:score
    """
    from cluster.config.parse import is_override, load_config
    from cluster.evaluation.evaluation import evaluate_models
    from cluster.evaluation.rescoring import rescore as rescore_samples
    from cluster.run.model_checks import with_verifier_models_found

    named = [argument for argument in models if not is_override(argument)]
    overrides = [*(argument for argument in models if is_override(argument)), *settings]
    parsed = with_verifier_models_found(load_config(config, overrides))
    command = [
        "bonfire",
        "eval",
        str(config),
        *models,
        *(part for one in settings for part in ("--set", one)),
    ]
    if address is not None:
        command += ["--address", address]
    if rescore is None:
        evaluate_models(parsed, named, out, address=address, command=shlex.join(command))
        return
    if named:
        raise ValueError(f"--rescore judges the samples in {rescore}: leave out the models {named}")
    command += ["--rescore", str(rescore)]
    rescore_samples(parsed, rescore, out, address=address, command=shlex.join(command))


@cli.command(context_settings=CONTEXT, short_help="Write a run's trained adapter as a model.")
@click.argument("source", type=click.Path(path_type=Path), metavar="RUN_DIR")
@click.option(
    "--merged",
    type=click.Path(path_type=Path),
    metavar="OUT",
    required=True,
    help="New directory of a transformers model: the base model with the adapter merged into it.",
)
def export(source: Path, merged: Path) -> None:
    """Write what a run with [learner.lora] has trained as a model of its own, for transformers, vLLM or another run.

    RUN_DIR is a run, of which the newest checkpoint is taken, a checkpoint, or an adapter.

    \b
    Examples:
        bonfire export runs/countdown-20261121-101500 --merged runs/trained
        bonfire export runs/countdown-20261121-101500/best --merged runs/best
    """
    from cluster.commands.export import export as run

    print(run(source, merged))


@cli.command(
    name="train-verifier",
    context_settings=CONTEXT,
    short_help="Train a verifier from a run's scored samples.",
)
@click.argument("sources", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SOURCE...")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="New directory of the result [default: runs/verifier-<time>].",
)
@click.option(
    "--model", help="Checkpoint directory or hub id to start from [default: the model of the sources]."
)
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change a setting; may be repeated."
)
def train_verifier(
    sources: tuple[Path, ...], out: Path | None, model: str | None, settings: tuple[str, ...]
) -> None:
    """Train a verifier from the samples and rewards of each SOURCE, and test it on held-out problems.

    A SOURCE is a directory of `bonfire train` or `bonfire eval`. The settings are those of [train-verifier] in
    `bonfire settings`. The exit code is 1 for a verifier that chooses no better than chance; it is written all
    the same.

    \b
    Examples:
        bonfire train-verifier runs/countdown-20261121-101500
        bonfire train-verifier runs/first runs/second/evaluation --model runs/countdown-base \\
            --out runs/verifier --set loss=pairwise --set steps=2000
    """
    from cluster.commands.train_verifier import train_verifier as run
    from cluster.config.parse import parse_section
    from learner.verifier.config import VerifierTrainingConfig

    run(sources, out, model, parse_section(VerifierTrainingConfig, settings))


@cli.command(context_settings=CONTEXT, short_help="List what can be maximised, or explain one.")
@click.argument("name", required=False)
def objectives(name: str | None) -> None:
    """List what can be maximised (objective.name), or explain one objective.

    \b
    Examples:
        bonfire objectives
        bonfire objectives bon
    """
    from cluster.commands.objectives_table import show_objectives

    show_objectives(name)


@cli.command(context_settings=CONTEXT, short_help="List every setting with its default and meaning.")
@click.argument("word", default="")
def settings(word: str) -> None:
    """List every setting with its default and what it means, or those with WORD in their path.

    \b
    Examples:
        bonfire settings
        bonfire settings verifier.
    """
    from cluster.commands.settings import show_settings

    show_settings(word)


def main() -> None:
    """Entry point: errors are one line on stderr and exit code 1, never a traceback."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    warnings.filterwarnings("ignore", category=FutureWarning)
    logging.getLogger().setLevel(logging.ERROR)
    sys.path.insert(0, os.getcwd())  # a user's own verifier lies beside the config
    from cluster.terminal.interrupts import Interrupted

    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as request:
        sys.exit(request.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        print("bonfire: interrupted", file=sys.stderr)
        sys.exit(130)
    except Interrupted as stop:
        print(f"bonfire: {stop}", file=sys.stderr)
        sys.exit(130)
    except (ValueError, RuntimeError, ArithmeticError, OSError, ImportError) as error:
        if os.environ.get("BONFIRE_TRACEBACK"):
            raise
        for line in str(error).splitlines():
            print(f"bonfire: {line}", file=sys.stderr)
        sys.exit(1)
