"""The ZeRO engines: ranks of DeepSpeed's train as one process of ours does, and take over each other's runs."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from pi05_train.checkpoint.run_state import save
from pi05_train.config.run_parts import EngineConfig
from pi05_train.engine.protocol import Engine
from pi05_train.engine.world import ALONE
from pi05_train.engine.zero_library import load_deepspeed
from pi05_train.errors import UserError
from tests.engine.forked import fork_ranks
from tests.engine.ranks import Case, make_engine, of_one_process, resumed, train_step
from tests.engine.test_pytorch import flat
from tests.engine.tiny import CPU_FP32
from tests.engine.zero_ranks import CASES, MOVES, RANKS, move_name

ADAPTED = Case(CPU_FP32, adapted=True)


def parts(kinds: dict[str, list[Any]]) -> list[Any]:
    """Parameters (part, one of its kinds); what takes minutes is run on request."""
    slow = {"thin": (), "matrix": (pytest.mark.slow,), "four": (pytest.mark.slow,)}
    return [
        pytest.param(part, kind, marks=slow[part], id=f"{part} {kind.name}")
        for part, of in kinds.items()
        for kind in of
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where ranks left what they did of a part; they start once for all its cases."""

    @cache
    def left(part: str) -> Path:
        folder = tmp_path_factory.mktemp(part)
        save(folder / "single", 1, after(1).state(), {})
        ended = fork_ranks(RANKS[part], "-m", "tests.engine.zero_ranks", str(folder), part)
        assert [process.returncode for process in ended] == [0] * RANKS[part], "\n".join(p.stderr for p in ended)
        assert [process.stdout + process.stderr for process in ended] == [""] * RANKS[part], "DeepSpeed talks"
        return folder

    return left


def found(folder: Path) -> dict[str, Any]:
    return torch.load(folder / "found.pt")  # type: ignore[no-any-return]


@cache
def after(steps: int) -> Engine:
    """One process with LoRA and frozen parameters."""
    engine = make_engine(ADAPTED, ALONE)
    for step in range(steps):
        train_step(engine, step)
    return engine


@pytest.mark.parametrize(("part", "case"), parts(CASES))
def test_as_one_process(folder: Callable[[str], Path], part: str, case: Case) -> None:
    """A rank may be without actions, text or pictures. bf16 is near, and not the same."""
    got = found(folder(part))[case.name]
    expected = of_one_process(insulation=case.insulation, adapted=case.adapted)
    exact = case.engine.precision == "fp32"
    assert got["moments"].keys() == expected["moments"].keys()
    for name, moment in expected["moments"].items() if exact else ():
        torch.testing.assert_close(got["moments"][name], moment, rtol=1e-5, atol=1e-7, msg=lambda m, n=name: f"{n} {m}")
    rel = 1e-4 if exact else 0.1
    for step, result in enumerate(got["results"]):
        whole = expected["results"][step]
        assert (result["samples"], result["tokens"]) == (whole["samples"], whole["tokens"])
        for number in ("loss", "backbone_norm", "expert_norm"):
            assert result[number] == pytest.approx(whole[number], rel=rel), (step, number)
    assert exact or got["results"][0]["loss"] != expected["results"][0]["loss"]
    assert got["dtypes"] == {key: ["torch.float32"] for key in ("model", "ema", "exp_avg", "exp_avg_sq", "step")}


@pytest.mark.parametrize(("part", "engine"), parts(MOVES))
def test_a_run_moves_between_one_process_zero_and_fsdp2(
    folder: Callable[[str], Path], part: str, engine: EngineConfig
) -> None:
    """With LoRA and frozen parameters: step 0 in one process, 1 with ZeRO, 2 with fsdp2, and in one process again."""
    for steps in (2, 3):
        expected = flat(after(steps).state())
        got = flat(resumed(folder(part) / f"{move_name(engine)}-{steps}", steps, ADAPTED, ALONE).state())
        assert got.keys() == expected.keys()
        for name, value in expected.items():
            # Where a gradient is rounding alone, Adam makes a step of up to the learning rate, 1e-3, of it.
            torch.testing.assert_close(got[name], value, rtol=1e-4, atol=5e-5, msg=lambda m, n=name: f"{n} {m}")


def test_every_rank_refuses_what_one_cannot_compute(folder: Callable[[str], Path]) -> None:
    first, last = found(folder("thin"))["refusals"]
    assert first == last
    assert "step 0: got a loss that is not finite in arm/00000000_000000" in first


def test_deepspeed_is_loaded_by_the_engines_alone(folder: Callable[[str], Path]) -> None:
    assert not found(folder("thin"))["loaded early"]


def test_absent_or_old_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _: "0.18.2")
    with pytest.raises(UserError, match=r"got deepspeed 0\.18\.2, expected deepspeed 0\.19 or newer"):
        load_deepspeed(torch.device("cpu"))

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(UserError, match=r"got no deepspeed.*pip install"):
        load_deepspeed(torch.device("cpu"))
