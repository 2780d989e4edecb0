"""The extract in the repository holds openpi's reference numbers, and the drawn weights are the stored ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests import golden_numbers
from tests.golden_numbers import (
    COMPLETE,
    EXTRACT,
    EXTRACTED,
    assert_golden,
    extract_of,
    golden,
    openpi_shapes,
    thinned,
    tiny_parameters,
)

MODELS = {
    "pi05_tiny": ["pi05_tiny_params"],
    "pi0_tiny": ["pi05_tiny_params", "pi0_tiny_params_diff"],
    "pi05_lora_tiny": ["pi05_tiny_params", "pi05_lora_tiny_params_diff"],
    "pi0_fast_tiny": ["pi0_fast_tiny_params"],
}
complete = pytest.mark.skipif(not COMPLETE, reason="the complete reference numbers (shared/golden) are absent")


@complete
@pytest.mark.parametrize("model", MODELS)
def test_drawn_weights_are_the_stored_ones(model: str) -> None:
    stored = {path: leaf for file in MODELS[model] for path, leaf in golden(f"openpi_jax/{file}").items()}
    for path, leaf in tiny_parameters(model).items():
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, stored[path], err_msg=path)


@complete
@pytest.mark.parametrize("name", EXTRACTED)
def test_the_extract_is_what_the_complete_numbers_hold(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = golden(name)
    kept = extract_of(name, whole)
    monkeypatch.setattr(golden_numbers, "COMPLETE", False)
    extract = golden(name)
    assert extract.keys() >= kept.keys()
    for key, array in extract.items():
        assert array.dtype == whole[key].dtype, key
        assert_golden(whole[key], array, rtol=0, atol=0, name=key)


@pytest.mark.parametrize("model", MODELS)
def test_weights_have_the_shapes_of_openpis_tree(model: str) -> None:
    shapes = openpi_shapes(golden_numbers.golden_json("configs")[model])
    assert {path: leaf.shape for path, leaf in tiny_parameters(model).items()} == shapes


def test_the_extract_stays_small() -> None:
    assert sum(path.stat().st_size for path in EXTRACT.rglob("*") if path.is_file()) < 2_500_000


def test_every_second_element_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(golden_numbers, "COMPLETE", False)
    whole = np.arange(48.0).reshape(3, 16)
    few = thinned(whole, 12, last_axis_only=True)
    assert few.shape == (3, 4)
    assert_golden(torch.from_numpy(whole), few, rtol=0, atol=0)
    whole[1, 4] += 1
    with pytest.raises(AssertionError, match="a name"):
        assert_golden(whole, few, rtol=0, atol=0, name="a name")
