"""Small numbers of openpi that no whole network shows: masks, the law of the flow time, pictures as floats."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pi05_train.model.flow import flow_time
from pi05_train.model.plan import Segments
from pi05_train.model.siglip import VisionTower
from tests.golden_numbers import golden
from tests.model.batches import TINY
from tests.model.test_attention import HORIZON, dense_mask

ROLES = {
    # first target token and first row of the chunk; openpi marks where a new block begins
    "causal": (0, None),
    "prefixlm": (3, None),
    "fast_like": (6, None),
    "pi05_like": (None, 7),
    "pi0_like": (None, 4),
}


@pytest.mark.parametrize("name", ROLES)
def test_our_three_roles_are_openpis_masks(name: str) -> None:
    """What openpi's mask hides is not in our sequences; of what is left, who sees whom is the same.

    "blocks" is left out: a sequence of many blocks of both kinds, which no model has.
    """
    numbers = golden("preprocessing/numerics")
    first_target, first_action = ROLES[name]
    for valid, attends in zip(numbers[f"mask.{name}.input_mask"], numbers[f"mask.{name}.attn"], strict=True):
        rows = np.flatnonzero(valid)
        end_of_prefix = first_target if first_target is not None else first_action
        prefix = int((rows < end_of_prefix).sum())
        target = 0 if first_target is None else len(rows) - prefix
        chunk = [] if first_action is None else [0]
        state_token = len(rows) - prefix - target == HORIZON + 1
        mask = dense_mask(Segments((prefix,), (target,)), chunk, state_token=state_token)
        np.testing.assert_array_equal(mask.numpy(), attends[np.ix_(rows, rows)])
        assert not np.delete(attends, rows, axis=0).any()
        assert not np.delete(attends, rows, axis=1).any()


def test_flow_times_have_openpis_law() -> None:
    numbers = golden("preprocessing/numerics")
    got = flow_time(torch.from_numpy(numbers["time.q"])).numpy()
    np.testing.assert_allclose(got, numbers["time.analytic_quantiles"], rtol=1e-12)
    for theirs in ("jax", "torch"):
        np.testing.assert_allclose(got, numbers[f"time.{theirs}_empirical_quantiles_n2e6"], atol=1.2e-3)
    times = flow_time((torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000)
    np.testing.assert_allclose([times.mean(), times.std()], numbers["time.analytic_mean_std"], atol=1e-5)
    np.testing.assert_allclose([times.mean(), times.std()], numbers["time.jax_mean_std"], atol=5e-4)
    low, high = numbers["time.jax_min_max"]
    ends = flow_time(torch.tensor([0.0, 1.0]))
    assert ends[0] < low
    assert high < ends[1] <= 1


def test_every_grey_level_becomes_openpis_float() -> None:
    table = golden("preprocessing/numerics")["u8_to_f32"]
    tower = VisionTower(TINY.vision, TINY.backbone.width)
    seen: list[torch.Tensor] = []
    tower.patch_embedding.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    tower(torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16).expand(1, 3, 16, 16))
    np.testing.assert_array_equal(seen[0][0, 2].flatten().numpy(), table)
