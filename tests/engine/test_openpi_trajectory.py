"""Six steps of openpi's own training step (JAX) and six of our engine end at the same weights and averages.

openpi's defaults (AdamW, one clipped norm, average 0.99 from the first step) on its tiny pi0.5, a new batch each step,
with noise and time given. Three runs: its default schedule, whose first steps barely move the weights; a fast one that
moves them by 1 to 13 percent, clipped; and the same unclipped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pi05_train.config.run_parts import EngineConfig, OptimizerConfig, ScheduleConfig
from pi05_train.engine.pytorch import PyTorchEngine
from pi05_train.engine.schedule import learning_rate
from pi05_train.engine.world import ALONE
from pi05_train.objective.config import ObjectiveConfig
from tests.golden_numbers import EXTRACT, golden_json
from tests.model.golden_model import flow_batch, golden_model, in_openpis_layout, tensor

OBJECTIVE = ObjectiveConfig(alpha=1.0, insulation=False, expert=True, text=False, openpi_exact=True)
SHIFTS_NOTHING = "PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/bias"
"""Softmax ignores this one: its gradient is rounding alone, of which Adam makes steps of the learning rate."""
ROUNDING = 2.4e-7
"""Of a float32 weight near 1."""
Arrays = Mapping[str, Any]


@cache
def reference() -> tuple[Arrays, Arrays]:
    """Arrays by name, and the layout of the picked elements."""
    with np.load(EXTRACT / "train_steps.npz") as file:
        arrays = dict(file)
    return arrays, json.loads(str(arrays["layout_json"]))


def config_of(plan: Arrays) -> tuple[OptimizerConfig, ScheduleConfig]:
    optimizer = OptimizerConfig(
        name="adamw",
        learning_rate=plan["peak_lr"],
        betas=(plan["b1"], plan["b2"]),
        eps=plan["eps"],
        weight_decay=plan["weight_decay"],
        clip_backbone=1.0,
        clip_expert=1.0,
        ema_decay=plan["ema_decay"],
        clip_together=plan["clip_gradient_norm"],
    )
    return optimizer, ScheduleConfig("warmup_cosine", plan["warmup_steps"], plan["decay_steps"], plan["decay_lr"])


@pytest.mark.parametrize("run", ["default", "moving", "moving_unclipped"])
def test_same_losses_norms_weights_and_averages(run: str) -> None:
    arrays, layout = reference()
    plan = layout["plans"][run]
    optimizer, schedule = config_of(plan)
    model = golden_model("pi05_tiny")
    initial = {name: p.detach().clone() for name, p in model.named_parameters()}
    engine = PyTorchEngine(model, OBJECTIVE, optimizer, EngineConfig("single", "fp32", "cpu"), ALONE)
    rates: list[float] = []
    for step in range(6):
        inputs = {name: array[step] for name, array in arrays.items() if name.startswith("in.")}
        batch = flow_batch(inputs, model.config, golden_json("configs")["pi05_tiny"]["camera_order"])
        rates.append(learning_rate(step, optimizer.learning_rate, schedule))
        result = engine.train_step([batch], learning_rate=rates[-1])
        assert result.expert_norm is not None
        norm = np.hypot(result.backbone_norm, result.expert_norm)
        np.testing.assert_allclose(rates[-1], arrays[f"{run}.lr"][step], rtol=1e-4)
        np.testing.assert_allclose(result.loss, arrays[f"{run}.loss"][step], rtol=1e-4, err_msg=f"step {step}")
        np.testing.assert_allclose(norm, arrays[f"{run}.grad_norm"][step], rtol=1e-4, err_msg=f"step {step}")
        if step + 1 in layout["steps"]:
            row, state = layout["steps"].index(step + 1), engine.state()
            shares = {"params": 1.0, "ema": 1 - plan["ema_decay"] ** (step + 1)}
            for kind, ours in (("params", state["model"]), ("ema", state["ema"])):
                moved = in_openpis_layout(model, {name: ours[name] - initial[name] for name in ours})
                l2, picked = arrays[f"{run}.{kind}_delta_l2"][row], arrays[f"{run}.{kind}_delta"][row]
                farthest = sum(rates) * shares[kind]
                compare(moved, l2, picked, layout["leaves"], farthest=farthest, rounding=run == "default")


def compare(
    moved: Mapping[str, Tensor], l2: Any, picked: Any, leaves: list[Arrays], *, farthest: float, rounding: bool
) -> None:
    """Every leaf's way from its first value, at picked elements and, unless it is rounding, in its whole length.

    `farthest` is about the most that Adam goes.
    """
    atol = ROUNDING + 1e-3 * farthest
    assert moved.keys() == {leaf["path"] for leaf in leaves}
    for leaf, length in zip(leaves, l2, strict=True):
        path = leaf["path"]
        if path == SHIFTS_NOTHING:
            continue
        ours = moved[path].flatten()[:: leaf["stride"]][: leaf["count"]]
        theirs = tensor(picked[leaf["at"] : leaf["at"] + leaf["count"]])
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=atol, msg=lambda text, p=path: f"{p}: {text}")
        if not rounding:
            np.testing.assert_allclose(moved[path].norm(), length, rtol=1e-3, atol=1e-7, err_msg=path)
