"""The evaluation's numbers, table and picture."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from cluster import report


def rewards_with(num_correct: list[int], num_samples: int) -> np.ndarray:
    return np.array([[1.0] * count + [0.0] * (num_samples - count) for count in num_correct])


def test_pass_at_k_is_the_share_of_subsets_with_a_success():
    (model,) = report.summarise({"base": rewards_with([1, 0, 4], 4)}, [1, 2, 4], seed=0)
    assert model.pass_at_k[1].mean == pytest.approx((1 / 4 + 0 + 1) / 3)
    assert model.pass_at_k[2].mean == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert model.pass_at_k[4].mean == pytest.approx(2 / 3)
    assert model.difference is None


def test_the_difference_is_paired_by_problem():
    counts = np.random.default_rng(0).integers(0, 5, 60)
    base = rewards_with(list(counts), 8)
    better = rewards_with([count + 1 for count in counts], 8)
    _, model = report.summarise({"base": base, "trained": better}, [1], seed=0)
    assert model.difference is not None
    difference = model.difference[1]
    assert difference.mean == pytest.approx(1 / 8)
    assert difference.low == pytest.approx(1 / 8) and difference.high == pytest.approx(1 / 8)
    assert model.pass_at_k[1].high - model.pass_at_k[1].low > 0.05


def test_the_table_fits_80_columns_with_every_number_whole():
    rewards = {"base": rewards_with([1, 0, 4], 4), "trained": rewards_with([2, 0, 4], 4)}
    console = Console(width=80, record=True, file=io.StringIO())
    reports = report.summarise(rewards, [1, 2, 4], seed=0)
    console.print(report.table(reports))
    text = console.export_text()
    assert "…" not in text
    for k in (1, 2, 4):
        mean = f"{reports[1].pass_at_k[k].mean:.3f}".removeprefix("0")
        assert mean in text


def test_report_json_holds_the_numbers_of_the_table(tmp_path):
    reports = report.summarise({"a": rewards_with([1, 2], 4), "b": rewards_with([2, 2], 4)}, [1, 4], seed=0)
    path = report.write(reports, tmp_path, num_select=4, about={"problems": 2})
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["problems"] == 2
    assert [model["name"] for model in written["models"]] == ["a", "b"]
    assert written["models"][1]["difference"]["1"]["mean"] == pytest.approx(1 / 8)
    assert not any(math.isnan(value) for value in written["models"][1]["pass_at_k"]["4"].values())
    assert path.read_bytes().startswith(b"\x89PNG")
