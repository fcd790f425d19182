"""What a published chat model can do before any training here: pass@1, 8, 32 on GSM8K and HumanEval, by `bonfire eval`.

    .venv/bin/python -m benchmarks.base_rates runs/smollm2 --gsm8k gsm8k_test.jsonl --humaneval HumanEval.jsonl.gz
        [--problems 200] [--out runs/base-rates]

One of the two is enough. GSM8K: that many problems of the test split, worked out in words, judged by `math`. HumanEval:
all 164, judged by `python_tests`. 32 samples each of at most 256 tokens at temperature 0.6, in bfloat16, one engine a
core. Goes on where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.demo_run import machine
from benchmarks.study.commands import Commands, in_order
from cluster.evaluation.report import REPORT_FILE

SAMPLES, KS = 32, [1, 8, 32]
ROLLOUT = {
    "workers": os.cpu_count() or 1,
    "num_cpus": 1,
    "temperature": 0.6,
    "max_tokens": 256,
    "max_num_seqs": 128,
    "kv_cache_mib": 1024,
    "dtype": "bfloat16",
}
EXAMPLE = Path(__file__).parents[1] / "examples" / "humaneval.toml"


def settings_of(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """A config by task, of those whose problems are given."""
    model = str(Path(arguments.model).absolute())
    common = {"model": model, "evaluation": {"samples_per_problem": SAMPLES, "ks": KS}}
    settings = {}
    if arguments.gsm8k:
        problems = {"format": "gsm8k", "test_path": str(arguments.gsm8k), "max_test": arguments.problems}
        settings["gsm8k"] = {
            **common,
            "problems": {"source": "files", **problems},
            "verifier": {"reward": "math"},
            "rollout": {**ROLLOUT, "max_model_len": 768},
        }
    if arguments.humaneval:
        prompt = tomllib.loads(EXAMPLE.read_text())["problems"]["prompt_template"]
        problems = {
            "format": "humaneval",
            "test_path": str(arguments.humaneval),
            "prompt_template": prompt,
        }
        settings["humaneval"] = {
            **common,
            "problems": {"source": "files", **problems},
            "verifier": {"reward": "python_tests", "timeout_s": 5.0},
            "rollout": {**ROLLOUT, "max_model_len": 1024},
        }
    return settings


def evaluate(
    directory: Path, settings: Mapping[str, Mapping[str, Any]], commands: Commands
) -> dict[str, Any]:
    found = {}
    for name, config in settings.items():
        path = directory / f"{name}.toml"
        path.write_text(tomli_w.dumps(config))
        started = time.monotonic()
        commands.run(name, "eval", str(path), f"published={config['model']}", "--out", str(directory / name))
        (cell,) = json.loads((directory / name / REPORT_FILE).read_text())["cells"]
        found[name] = {**cell, "seconds": time.monotonic() - started}
        print(name, json.dumps(found[name]), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="runs/smollm2, made by make real-model")
    parser.add_argument("--gsm8k", type=Path, help="its test rows as JSON lines")
    parser.add_argument("--humaneval", type=Path, help="its rows, gzip or not")
    parser.add_argument("--problems", type=int, default=200, help="of GSM8K")
    parser.add_argument("--out", type=Path, default=Path("runs/base-rates"))
    arguments = parser.parse_args()
    if not (arguments.gsm8k or arguments.humaneval):
        parser.error("nothing to evaluate on: give --gsm8k, --humaneval, or both")
    arguments.out.mkdir(parents=True, exist_ok=True)
    commands = Commands(arguments.out / "logs")
    settings = settings_of(arguments)
    found = in_order(commands, lambda: evaluate(arguments.out, settings, commands))
    print(json.dumps({"machine": machine(), "rollout": ROLLOUT, "samples": SAMPLES, **found}, indent=1))


if __name__ == "__main__":
    main()
