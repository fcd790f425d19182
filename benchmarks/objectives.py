"""Bias and variance of every objective, exact, on policies of a few outcomes. Deterministic, under a minute.

OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.objectives > benchmarks/results/objectives.json
.venv/bin/python -m benchmarks.objectives --markdown    # the tables of docs/objectives.md, from that file

A group of n samples is one of finitely many multisets of outcomes: expectation and covariance of its gradient
estimate (with respect to the logits) are finite sums over them, weighted by the multinomial distribution. They are
compared with autograd of the exact value. Columns, for an estimate g and an exact gradient G:

    bias      |E g - G| / |G|
    cosine    of E g and G
    variance  trace Cov g / |G|^2
    noise     trace Cov g / |E g|^2: the variance where g is unbiased, and comparable between rules of other scale
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from benchmarks.toy_gradients import (
    EASY,
    HARD,
    TOYS,
    Moments,
    Toy,
    Value,
    beside,
    best_of,
    compare,
    gradient,
    moments,
    moments_of,
    multisets,
    of_groups,
    own_value,
    vector,
)
from learner.objectives.config import SETTINGS, ObjectiveConfig, Tilt
from learner.objectives.estimators import tilt_lambda
from learner.objectives.table import OBJECTIVES

RESULT = Path(__file__).parent / "results" / "objectives.json"
N, SAMPLES = 4, 8
BASELINE_SIZES = ((4, 4), (8, 4), (16, 4), (16, 8))
TILT_SIZES = ((8, 4), (8, 16), (32, 16))
TILTS = get_args(Tilt)
RULES = (
    "joint score, b = 0",
    "joint score, b = J",
    "known pi_bon, b = J",
    "best minus best without i",
    "none",
    "loo",
    "loo1",
    "best k",
)

# --- the tables -----------------------------------------------------------------------------------------


def reinforcement_configs() -> dict[str, ObjectiveConfig]:
    configs = {}
    for name in OBJECTIVES:
        settings = {"num_select": N} if "num_select" in SETTINGS[name] else {}
        config = ObjectiveConfig.model_validate({"name": name, **settings})
        if not config.needs_demonstrations:
            configs[name] = config
        if name == "grpo_passk":
            configs["grpo_passk, no std"] = ObjectiveConfig(name="grpo_passk", divide_by_std=False)
    return configs


def needs_binary(name: str) -> bool:
    return name in ("pass_at_k", "bon_rlb", "bon_rlbp", "maxrl", "pass_at_k_training", "rft")


def objectives_table(n: int) -> dict[str, Any]:
    """Objective -> toy -> comparison with its own estimand (if any) and with J_N."""
    table: dict[str, Any] = {}
    for label, config in reinforcement_configs().items():
        table[label] = {}
        for name, toys in TOYS.items():
            if needs_binary(config.name) and not all(toy.is_binary for toy in toys):
                continue
            estimate = beside([moments_of(config, toy, n) for toy in toys])
            best = torch.cat([gradient(toy, best_of(toy, N)) for toy in toys])
            cell = {"best_of_n": compare(estimate, best)}
            values = [own_value(config, toy, n) for toy in toys]
            if all(value is not None for value in values):
                own = torch.cat(
                    [gradient(toy, value) for toy, value in zip(toys, values, strict=True) if value]
                )
                cell["own"] = compare(estimate, own)
            table[label][name] = cell
    return table


def joint_score(toy: Toy, num_select: int, baseline: float) -> Moments:
    """(h(I) - b) sum_{i in I} grad log pi(y_i), one group I."""
    ys_GN, probability_G = multisets(toy, num_select)
    scores_GN = vector(toy.scores)[ys_GN]
    best_GN = (scores_GN == scores_GN.amax(dim=1, keepdim=True)).double()
    rewards_GN = vector(toy.rewards)[ys_GN]
    selected_G = (best_GN * rewards_GN).sum(dim=1) / best_GN.sum(dim=1)
    weights_GN = (selected_G - baseline)[:, None].expand(-1, num_select)
    return moments(toy, ys_GN, probability_G, weights_GN)


def bon_score(toy: Toy, num_select: int, baseline: float) -> Moments:
    """(R(y) - b) grad log pi_bon(y), y the selected sample: needs the exact CDF, which no run has."""
    scores_V, rewards_V = vector(toy.scores), vector(toy.rewards)

    def log_bon(logits: Tensor) -> Tensor:
        policy = logits.softmax(0)
        upto_V = (policy * (scores_V[None, :] <= scores_V[:, None])).sum(dim=1)
        below_V = (policy * (scores_V[None, :] < scores_V[:, None])).sum(dim=1)
        return (policy * (upto_V**num_select - below_V**num_select) / (upto_V - below_V)).log()

    logits = vector(toy.policy).log()
    estimates_VV = (rewards_V - baseline)[:, None] * torch.autograd.functional.jacobian(log_bon, logits)
    probability_V = log_bon(logits).exp()
    mean_V = probability_V @ estimates_VV
    return Moments(mean=mean_V, trace=float(probability_V @ (estimates_VV - mean_V).square().sum(dim=1)))


def baselines_table() -> dict[str, Any]:
    """Toy -> "n, N" -> rule -> variance at n samples."""
    table: dict[str, Any] = {}
    for name, toys in TOYS.items():
        if len(toys) > 1:
            continue
        (toy,) = toys
        table[name] = {}
        for n, num_select in BASELINE_SIZES:
            value = best_of(toy, num_select)
            exact = gradient(toy, value)
            mean = float(value(vector(toy.policy)))
            default = ObjectiveConfig(num_select=num_select)
            estimates = {
                "joint score, b = 0": of_groups(joint_score(toy, num_select, 0.0), n // num_select),
                "joint score, b = J": of_groups(joint_score(toy, num_select, mean), n // num_select),
                "known pi_bon, b = J": of_groups(bon_score(toy, num_select, mean), n // num_select),
                "best minus best without i": of_groups(moments_of(default, toy, num_select), n // num_select),
                "none": moments_of(ObjectiveConfig(num_select=num_select, baseline="none"), toy, n),
                "loo1": moments_of(default, toy, n),
            }
            if n > num_select:
                loo = ObjectiveConfig(num_select=num_select, baseline="loo")
                estimates["loo"] = moments_of(loo, toy, n)
            by_k = {
                k: moments_of(ObjectiveConfig(num_select=num_select, baseline_k=k), toy, n)
                for k in range(1, n)
            }
            best_k = min(by_k, key=lambda k: by_k[k].trace)
            estimates["best k"] = by_k[best_k]
            compared = {rule: compare(estimate, exact) for rule, estimate in estimates.items()}
            table[name][f"{n}, {num_select}"] = {
                "variance": {rule: cell["variance"] for rule, cell in compared.items()},
                "best k": best_k,
                "worst_bias": max(cell["bias"] for cell in compared.values()),
            }
    return table


def tilted(toy: Toy, expert: float, config: ObjectiveConfig) -> Value:
    """log pi_N(y*) - log pi(y*) of the config's tilt."""
    tilt = tilt_lambda(config.fixed_num_select, match=config.tilt_match)
    scores_V = vector(toy.scores)

    def value(policy: Tensor) -> Tensor:
        upto, below = policy[scores_V <= expert].sum(), policy[scores_V < expert].sum()
        if config.tilt == "paper":
            ranks_V = (policy * (scores_V[None, :] <= scores_V[:, None])).sum(dim=1)
            return tilt * upto - (policy @ (tilt * ranks_V).exp()).log()
        if expert in toy.scores:
            return (((tilt * upto).exp() - (tilt * below).exp()) / (upto - below)).log()
        return tilt * below

    return value


def imitation_table() -> dict[str, Any]:
    """Expert -> "n, N" -> tilt -> comparison of the samples' part with its exact gradient."""
    continuous, (poor,) = TOYS["continuous"][0], TOYS["poor verifier, ties"]
    experts = {
        "continuous, expert between samples": (continuous, 4.5),
        "continuous, expert ties": (continuous, 5.0),
        "poor verifier, expert ties with the best": (poor, 3.0),
        "binary, hard, expert succeeds": (HARD, 1.0),
        "binary, easy, expert succeeds": (EASY, 1.0),
    }
    table: dict[str, Any] = {}
    for name, (toy, expert) in experts.items():
        table[name] = {}
        for n, num_select in TILT_SIZES:
            if n > 16 and len(toy.policy) > 4:
                continue  # hundreds of thousands of multisets
            table[name][f"{n}, {num_select}"] = {}
            for tilt in TILTS:
                config = ObjectiveConfig.model_validate(
                    {"name": "bon_sft", "num_select": num_select, "tilt": tilt}
                )
                estimate = moments_of(config, toy, n, expert)
                exact = gradient(toy, tilted(toy, expert, config))
                table[name][f"{n}, {num_select}"][tilt] = compare(estimate, exact)
    return table


def worst_error() -> dict[str, float]:
    """Objective -> largest |E g - G| over toys, sizes, baselines, entries: 0 but for rounding if unbiased."""
    worst: dict[str, float] = {}
    for toy in (toy for toys in TOYS.values() for toy in toys):
        for config, n in unbiased_configs(toy):
            value = own_value(config, toy, n)
            assert value is not None
            error = float((moments_of(config, toy, n).mean - gradient(toy, value)).abs().max())
            worst[config.name] = max(worst.get(config.name, 0.0), error)
        for config in (ObjectiveConfig(name="bon_sft", num_select=k) for k in (4, 16)):
            for expert in (0.5, 1.5, 2.5):  # between the toys' scores, where tie_smoothed is unbiased
                estimate = moments_of(config, toy, SAMPLES, expert)
                exact = gradient(toy, tilted(toy, expert, config))
                error = float((estimate.mean - exact).abs().max())
                worst["bon_sft, no tie"] = max(worst.get("bon_sft, no tie", 0.0), error)
    return worst


def unbiased_configs(toy: Toy) -> list[tuple[ObjectiveConfig, int]]:
    configs: list[tuple[ObjectiveConfig, int]] = []
    for n, num_select in BASELINE_SIZES:
        settings: list[dict[str, Any]] = [{}, {"baseline": "none"}, {"baseline_k": 1}]
        settings += [{"baseline": "loo"}] if n > num_select else []
        for name in ("bon", "pass_at_k", "max_at_k"):
            configs += [
                (ObjectiveConfig.model_validate({"name": name, "num_select": num_select, **given}), n)
                for given in settings
            ]
        others: list[dict[str, Any]] = [
            {"name": "majority", "num_select": num_select},
            {"name": "rloo"},
            {"name": "rft"},
            {"name": "maxrl"},
            {"name": "grpo_passk", "divide_by_std": False},
        ]
        configs += [(ObjectiveConfig.model_validate(given), n) for given in others]
    return [(config, n) for config, n in configs if toy.is_binary or not needs_binary(config.name)]


def measure() -> dict[str, Any]:
    worst = worst_error()
    return {
        "machine": f"one thread, torch {torch.__version__}; exact sums, no random numbers",
        "worst_error_of_unbiased": {**worst, "all": max(worst.values())},
        "objectives": {"n": SAMPLES, "N": N, "table": objectives_table(SAMPLES)},
        "baselines": baselines_table(),
        "imitation": imitation_table(),
    }


# --- markdown -------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Two or three significant digits; what is 0 but for rounding is 0."""
    if abs(value) < 1e-9:
        return "0"
    return f"{value:.2f}" if 0.1 <= abs(value) < 10 else f"{value:.3g}"


def joined(cell: dict[str, float], *columns: str) -> str:
    return " · ".join(number(cell[column]) for column in columns)


def table_text(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def markdown(result: dict[str, Any]) -> dict[str, str]:
    """Name of a table -> its text in docs/objectives.md."""
    objectives = result["objectives"]["table"]
    own = [label for label, row in objectives.items() if any("own" in cell for cell in row.values())]

    def compared(label: str, against: str, *columns: str) -> list[str]:
        row = objectives[label]
        cells = [row.get(toy, {}).get(against) for toy in TOYS]
        return [f"`{label}`", *(joined(cell, *columns) if cell else "" for cell in cells)]

    def baselines(toy: str, sizes: str, cell: dict[str, Any]) -> list[str]:
        variances = [number(cell["variance"][rule]) if rule in cell["variance"] else "" for rule in RULES]
        return [toy, sizes, *variances[:-1], f"{variances[-1]} (k = {cell['best k']})"]

    return {
        "own estimand": table_text(
            ["objective", *TOYS], [compared(label, "own", "bias", "variance") for label in own]
        ),
        "best of N": table_text(
            ["objective", *TOYS],
            [compared(label, "best_of_n", "bias", "cosine", "noise") for label in objectives],
        ),
        "baselines": table_text(
            ["toy", "n, N", *RULES],
            [
                baselines(toy, sizes, cell)
                for toy, row in result["baselines"].items()
                for sizes, cell in row.items()
            ],
        ),
        "imitation": table_text(
            ["expert", "n, N", *(f"`{tilt}`" for tilt in TILTS)],
            [
                [expert, sizes, *(joined(cell[tilt], "bias", "noise") for tilt in TILTS)]
                for expert, row in result["imitation"].items()
                for sizes, cell in row.items()
            ],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables of the committed result")
    if parser.parse_args().markdown:
        for name, table in markdown(json.loads(RESULT.read_text())).items():
            print(f"{name}\n\n{table}\n")
        return
    torch.set_num_threads(1)
    result = measure()
    print(json.dumps(result, indent=1))
    worst = result["worst_error_of_unbiased"]["all"]
    print(f"worst error against exact enumeration: {worst:.1e}", file=sys.stderr)


if __name__ == "__main__":
    main()
