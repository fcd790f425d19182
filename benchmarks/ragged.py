"""Ragged lengths: the loop against the bare engine, where one answer of a group takes ten times as long as another.

    python -m benchmarks.ragged [--staleness 0 1 2 4] [--set rollout.max_num_seqs=64]
    python -m benchmarks.ragged --engines 2 --ablation --staleness 0 1 --set rollout.samples_per_prompt=64 \
        train.groups_per_step=3

The model has 10M random weights and a vocabulary of 256, in which the end of a sequence has the same probability at each
step: lengths are geometric, cut at 512 tokens, and 230 in the mean. 16 samples a prompt, 8 prompts a step. The bare
engine samples as many groups of the same prompts, in the same kind of actor and kept full, before and after the loops:
their mean, times the number of engines, is 1. The loop's own time begins after its WARM_UP_STEPS.

With --ablation each loop runs once as it is, once with batches that the learner waits for whole, once without dividing groups
among engines, and once with sequences in the order in which they came to an engine in place of their priorities: `group_p50_s`
and `group_p95_s` are from lease to verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from benchmarks.demo_run import NAMESPACE, machine, measure
from cluster.config.parse import load_config
from cluster.config.schema import RunConfig
from cluster.fleet import ray_cluster

VOCABULARY_SIZE = 256
MEAN_TOKENS, MAX_TOKENS = 230, 512
NUM_PROBLEMS, PROMPT_TOKENS = 512, 16
SAMPLES, GROUPS_PER_STEP = 16, 8
WARM_UP_STEPS = 2
SETTINGS = "ragged.toml"
REWARDS = """
def parity(problem, completion):
    return float(sum(map(ord, completion)) % 2)
"""
FIRST_COME = "first_come"
WITHOUT_PRIORITY = f"""
from pathlib import Path
from cluster.leasing import priority

of_training = priority.of_training

def first_come(version, group):
    return 0 if Path(__file__).with_name("{FIRST_COME}").exists() else of_training(version, group)

priority.of_training = first_come
"""
"""Of every Python process of the runs: priorities are equal as long as a file of that name is there."""


def make_model(path: Path) -> None:
    """A Llama whose logits are the same normal noise at each step but for the end's, which is 0."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    width = 320
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY_SIZE,
            hidden_size=width,
            num_hidden_layers=7,
            num_attention_heads=5,
            intermediate_size=1024,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    probability = _probability_of_mean(MEAN_TOKENS, MAX_TOKENS)
    spread = np.sqrt(2 * np.log(1 / probability / VOCABULARY_SIZE))  # E exp(normal) = exp(spread^2 / 2)
    with torch.no_grad():
        model.lm_head.weight.normal_(std=spread / width**0.5)
        model.lm_head.weight[1] = 0.0
    model.generation_config.eos_token_id = 1
    model.save_pretrained(path)
    words = ["<pad>", "<eos>", *(f"w{index}" for index in range(VOCABULARY_SIZE - 2))]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>").save_pretrained(
        path
    )


def _probability_of_mean(mean: float, longest: int) -> float:
    """Of an end at each step, so that lengths cut at `longest` have that mean."""
    low, high = 1e-6, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if (1 - (1 - middle) ** longest) / middle > mean:
            low = middle
        else:
            high = middle
    return low


def make_config(directory: Path, overrides: list[str]) -> RunConfig:
    """Writes model, problems and verifier where the settings name them."""
    make_model(directory / "model")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, VOCABULARY_SIZE - 2, (NUM_PROBLEMS, PROMPT_TOKENS))
    lines = [json.dumps({"prompt": " ".join(f"w{word}" for word in row), "truth": ""}) for row in rows]
    (directory / "train.jsonl").write_text("\n".join(lines) + "\n")
    (directory / "ragged_rewards.py").write_text(REWARDS)
    sys.path.insert(0, str(directory))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")]))
    settings = {
        "model": str(directory / "model"),
        "problems": {"source": "files", "train_path": str(directory / "train.jsonl")},
        "verifier": {"reward": "ragged_rewards:parity"},
        "rollout": {
            "samples_per_prompt": SAMPLES,
            "max_tokens": MAX_TOKENS,
            "max_model_len": 640,
            "max_num_seqs": 128,
            "kv_cache_mib": 1024,  # for 128 sequences of 512 tokens
            "dtype": "float32",
        },
        "objective": {"name": "bon", "num_select": 4},
        "train": {"groups_per_step": GROUPS_PER_STEP, "checkpoint_every": 1000},
        "metrics": {"port": 0},
    }
    (directory / SETTINGS).write_text(tomli_w.dumps(settings))
    return load_config(directory / SETTINGS, overrides)


def bare_engine(config: RunConfig, prompts: list[tuple[int, ...]], num_groups: int) -> dict[str, float]:
    """One rollout actor alone, given new groups as soon as it has room for them, from its first group's end on."""
    import ray

    from actors.environment import engine_environment
    from actors.types import Lease, Piece
    from actors.worker import RolloutWorker

    actor: Any = RolloutWorker.options(  # type: ignore[attr-defined]
        num_cpus=config.rollout.num_cpus, runtime_env={"env_vars": engine_environment(config.rollout)}
    ).remote("bare", config.model, config.rollout)
    ray.get(actor.ready.remote())
    samples = config.rollout.samples_per_prompt
    given = sampled = tokens = sampled_before = tokens_before = 0
    begun_s = running_s = 0.0
    num_unfinished = 0
    while True:
        wanted = given - (num_unfinished - 2 * config.rollout.max_num_seqs) // samples
        leases = [
            Lease(
                piece=Piece(group, 0, samples),
                problem_id=str(group),
                prompt_token_ids=prompts[group % len(prompts)],
                seed=group * samples,
            )
            for group in range(given, wanted)
        ]
        actor.submit.remote(leases)
        given = max(given, wanted)
        groups, facts = ray.get(actor.collect.remote(10.0)[0])
        sampled += len(groups)
        num_unfinished = facts.num_unfinished
        tokens += sum(group.num_tokens for group in groups)
        if not begun_s and sampled >= config.train.groups_per_step:
            begun_s, running_s = time.perf_counter(), facts.running_s
            sampled_before, tokens_before = sampled, tokens
        if sampled >= num_groups + config.train.groups_per_step:
            break
    ray.kill(actor)
    seconds = time.perf_counter() - begun_s
    return {
        "groups": sampled - sampled_before,
        "tokens_per_s": (tokens - tokens_before) / seconds,
        "fill": (facts.running_s - running_s) / seconds / config.rollout.max_num_seqs,
    }


def loop(config: RunConfig) -> dict[str, float]:
    """A run; what its steps after the warm-up say."""
    steps, seen = measure(config, warm_up_steps=WARM_UP_STEPS)
    seconds = sum(step["step_s"] for step in steps)
    running_s = seen[-1]["running_s"] - seen[0]["running_s"]
    return {
        "steps": len(steps),
        "tokens_per_s": sum(step["tokens_per_s"] * step["step_s"] for step in steps) / seconds,
        "trained_tokens_per_s": sum(step["completion_tokens"] * step["num_samples"] for step in steps)
        / seconds,
        "step_s": seconds / len(steps),
        "fill": running_s / (seen[-1]["at"] - seen[0]["at"]) / config.rollout.max_num_seqs,
        "wait_s": statistics.mean(step["wait_s"] for step in steps),
        "wait_s_of_each": [round(step["wait_s"], 1) for step in steps],
        "ahead_s": statistics.mean(step["ahead_s"] for step in steps),
        "learn_s": statistics.mean(step["learn_s"] for step in steps),
        "sync_s": statistics.mean(step["sync_s"] for step in steps),
        "group_p50_s": statistics.median(step["group_p50_s"] for step in steps),
        "group_p95_s": statistics.median(step["group_p95_s"] for step in steps),
        "completion_tokens": statistics.mean(step["completion_tokens"] for step in steps),
        "staleness_max": max(step["staleness_max"] for step in steps),
        "reprefilled_tokens": seen[-1]["num_reprefilled_tokens"] - seen[0]["num_reprefilled_tokens"],
    }


def variants(config: RunConfig, directory: Path, *, ablation: bool) -> Iterator[tuple[str, RunConfig]]:
    """Names and settings of the loops to run, one after the other."""
    yield "as it is", config
    if ablation:
        whole = config.train.model_copy(update={"parts_per_step": 1})
        yield "batches undivided", config.model_copy(update={"train": whole})
        undivided = config.rollout.model_copy(update={"divide_groups": False})
        yield "groups undivided", config.model_copy(update={"rollout": undivided})
        (directory / FIRST_COME).touch()
        yield "no priorities", config
        (directory / FIRST_COME).unlink()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--staleness", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--engines", type=int, default=1)
    parser.add_argument("--ablation", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], metavar="SETTING=VALUE", help="of the run's settings")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        base = [*arguments.set, f"train.steps={arguments.steps}", f"rollout.workers={arguments.engines}"]
        configs = [
            make_config(directory, [*base, f"train.max_staleness={staleness}"])
            for staleness in arguments.staleness
        ]
        if arguments.ablation:
            (directory / "sitecustomize.py").write_text(WITHOUT_PRIORITY)
        ray_cluster.start_ray(configs[0], address=None, namespace=NAMESPACE)
        from actors.tokens import encode_prompts, load_tokenizer
        from verifiers.problems.loading import load_problems

        config = configs[0]
        prompts = encode_prompts(load_tokenizer(config.model), load_problems(config.problems, "train"))
        num_groups = config.train.groups_per_step * (arguments.steps - WARM_UP_STEPS)
        bare = [told("bare engine", bare_engine(config, prompts, num_groups))]
        loops = {
            staleness: {
                what: told(f"max_staleness = {staleness}, {what}", loop(variant))
                for what, variant in variants(config, directory, ablation=arguments.ablation)
            }
            for staleness, config in zip(arguments.staleness, configs, strict=True)
        }
        bare.append(told("bare engine", bare_engine(configs[0], prompts, num_groups)))
    rate = arguments.engines * statistics.mean(one["tokens_per_s"] for one in bare)
    for one in (one for by_variant in loops.values() for one in by_variant.values()):
        one["over_bare"] = one["trained_tokens_per_s"] / rate
    result = {
        "machine": machine(),
        "settings": arguments.set,
        "engines": arguments.engines,
        "bare_engine": bare,
        "loop_by_max_staleness": loops,
    }
    print(json.dumps(result, indent=1))


def told(what: str, figures: dict[str, float]) -> dict[str, float]:
    print(what, json.dumps(figures), file=sys.stderr, flush=True)
    return figures


if __name__ == "__main__":
    main()
