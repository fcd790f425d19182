"""Scores measured by the base policy: the rank of a score among those of the run's model before training.

A reward model's scores have a scale of their own for every prompt. Their rank among scores of the base policy on the same
prompt has one meaning: the share of base samples that a sample beats, ties counting a half. Its mean is the win rate.
Source: InfAlign, arXiv 2412.19792. Shapes: `B` prompts, `N` samples of each, `M` base samples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from learner.objectives.groups import Groups

SCHEMA = pa.schema([("problem_id", pa.string()), ("scores", pa.list_(pa.float64()))])
"""Of a file of base scores; columns beside these are not looked at."""


def rank_vs_base(scores_BN: Tensor, base_scores_BM: Tensor) -> Tensor:
    """[B, N] share of the base's samples below each score, ties by half; NaN counts as -inf on both sides.

    The expectation over base samples is the probability to win against one, P(r(z) < r) + P(r(z) = r) / 2: unbiased
    for any M >= 1. A strictly increasing function of a prompt's scores changes nothing.
    """
    base_BM, _ = (
        base_scores_BM.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).sort(dim=1)
    )
    scores_BN = scores_BN.double().nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).contiguous()
    below_BN = torch.searchsorted(base_BM, scores_BN)
    upto_BN = torch.searchsorted(base_BM, scores_BN, right=True)
    return (below_BN + upto_BN).double() / (2 * base_BM.shape[1])


def calibrate(groups: Groups, base_scores_BM: Tensor) -> Groups:
    """The groups with the rank of its score as the reward of every sample.

    The scores themselves still select: their order is that of the ranks, which would make ties of what lies between two
    base samples. So `bon` maximises the win rate of the selected sample against a base sample, rloo that of a single one.
    """
    return replace(groups, rewards_BN=rank_vs_base(groups.scores_BN, base_scores_BM))


def read_base_scores(path: str | Path) -> dict[str, Tensor]:
    """[M] float64 by problem. Raises ValueError, one line, for a file that is none or has problems of different M."""
    try:
        table = pq.read_table(path, schema=SCHEMA)
    except FileNotFoundError:
        raise ValueError(
            f"base scores {path} are not there, seen from the learner's machine: give run_dir a path on a file system that "
            "all machines have"
        ) from None
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"base scores {path} cannot be read ({reason}): delete the file, and they are drawn again"
        ) from None
    numbers = pc.list_value_length(table["scores"]).unique().to_pylist()
    if len(numbers) > 1 or not all(numbers):
        raise ValueError(
            f"base scores {path} have {', '.join(map(str, numbers))} samples a problem: delete the file, and equally many are "
            "drawn of each"
        )
    flat = torch.from_numpy(table["scores"].combine_chunks().flatten().to_numpy().copy())
    scores_PM = flat.reshape(table.num_rows, *numbers)
    return dict(zip(table["problem_id"].to_pylist(), scores_PM, strict=True))


def base_scores_of(problem_ids: Sequence[str], scores: Mapping[str, Tensor]) -> Tensor:
    """[B, M] in the order of the problems. Raises ValueError for the first that has none."""
    for problem_id in problem_ids:
        if problem_id not in scores:
            raise ValueError(
                f"problem {problem_id!r} has no base scores, so that its scores have no rank: have them drawn by --resume, or "
                "leave the problem out"
            )
    return torch.stack([scores[problem_id] for problem_id in problem_ids])
