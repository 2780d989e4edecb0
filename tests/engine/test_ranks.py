"""Several ranks train as one process does: the same gradients, losses, norms and counts, whatever engine shards them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pi05_train.engine.world import ALONE
from tests.engine.launched import run_ranks
from tests.engine.ranks import Case, cases, outcome
from tests.engine.tiny import CPU_FP32

SIZES = (2, 4)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Any]]:
    """By number of ranks and name of case; the processes start once for all of them."""
    folder = tmp_path_factory.mktemp("ranks")
    outcomes = {}
    for size in SIZES:
        ended = run_ranks(size, "-m", "tests.engine.ranks", str(folder))
        assert [process.returncode for process in ended] == [0] * size, "\n".join(p.stderr for p in ended)
        outcomes[size] = torch.load(folder / f"ranks-{size}.pt")
    return outcomes


@cache
def of_one_process(*, insulation: bool) -> dict[str, Any]:
    return outcome(Case(CPU_FP32, accumulate=False, insulation=insulation), ALONE)


@pytest.mark.parametrize(
    ("size", "case"), [(n, case) for n in SIZES for case in cases(n)], ids=lambda x: getattr(x, "name", x)
)
def test_as_one_process(found: dict[int, dict[str, Any]], size: int, case: Case) -> None:
    """A rank may be without actions, text or pictures."""
    got, expected = found[size][case.name], of_one_process(insulation=case.insulation)
    assert got["moments"].keys() == expected["moments"].keys()
    for name, moment in expected["moments"].items():
        torch.testing.assert_close(got["moments"][name], moment, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
    for step, (result, whole) in enumerate(zip(got["results"], expected["results"], strict=True)):
        for exact in ("samples", "tokens"):
            assert result[exact] == whole[exact]
        for number in ("loss", "backbone_norm", "expert_norm"):
            assert result[number] == pytest.approx(whole[number], rel=1e-4), (step, number)
        for term in ("text", "flow"):
            assert result[term].keys() == whole[term].keys()
            for source, tally in whole[term].items():
                assert result[term][source]["count"] == tally["count"]
                assert result[term][source]["total"] == pytest.approx(tally["total"], rel=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_masters_moments_and_averages_are_fp32(found: dict[int, dict[str, Any]], size: int) -> None:
    for name, got in found[size].items():
        assert set(got["dtypes"]) == {"model", "ema", "step", "exp_avg", "exp_avg_sq"}
        assert all(dtypes == ["torch.float32"] for dtypes in got["dtypes"].values()), name
