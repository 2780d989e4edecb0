"""No reference number is forgotten: every array of preprocessing and FAST is compared by a named test, or excused."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.golden_numbers import complete_path, golden

ROOT = Path(__file__).resolve().parent
NORMALISATION, IMAGES = "processing/test_normalisation.py", "processing/test_images.py"
NUMBERS, NUMERICS, GOLDEN = "processing/test_numbers.py", "model/test_numerics.py", "model/test_golden.py"
FAST = "tokenization/test_fast.py"
COMPARED: dict[str, dict[str, tuple[str, str]]] = {
    "preprocessing/normalization": {
        r"(x_.*|q01|q99|mean|std|quantile\..*|zscore\..*)": (
            NORMALISATION, "test_the_formulas_are_openpis_bit_for_bit",
        ),
        r"rs\..*": (NORMALISATION, "test_our_exact_statistics_lie_within_openpis_histogram_bins"),
    },
    "preprocessing/resize_with_pad": {
        r"[ABC]\.(in_u8|pil_u8.*)": (IMAGES, "test_resizing_is_openpis_data_pipeline_bit_for_bit"),
        r"[ABC]\.jax_u8.*": (IMAGES, "test_resizing_is_openpis_jax_within_a_grey_level"),
        r"[ABC]\.(jax|torch)_f32_64x96": (IMAGES, "test_floats_are_resized_alike_but_not_like_openpis_torch"),
    },
    "preprocessing/numerics": {
        r"(posemb|rope|rope256)\..*": (GOLDEN, "test_time_embedding_and_rotation"),
        r"mask\.(causal|prefixlm|fast_like|pi05_like|pi0_like)\.(input_mask|attn)": (
            NUMERICS, "test_our_three_roles_are_openpis_masks",
        ),
        r"time\..*": (NUMERICS, "test_flow_times_have_openpis_law"),
        r"u8_to_f32": (NUMERICS, "test_every_grey_level_becomes_openpis_float"),
        r"delta\..*": (NORMALISATION, "test_relative_actions_are_openpis_bit_for_bit"),
        r"pad32\..*": (NUMBERS, "test_chunks_are_padded_as_openpi_pads"),
    },
    "fast_tokenizer/fast_chunks": {
        r".*\.(chunk|dct_coeff)": (FAST, "test_coefficients_are_the_published_ones"),
        r".*\.decoded": (FAST, "test_published_tokens_and_chunks_are_reproduced"),
    },
}  # fmt: skip
"""File -> pattern of array names -> the test that compares them."""
EXCUSED = {
    r"mask\.blocks\.(input_mask|attn)": "many alternating blocks; no model has them, and our roles cannot say it",
    r"mask\..*\.ar_mask": "an input of openpi's mask: where a role begins, which the test's table says in our words",
}


def compared_by(file: str, name: str) -> list[tuple[str, str]]:
    return [test for pattern, test in COMPARED[file].items() if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("file", COMPARED)
def test_every_array_is_compared_or_excused(file: str) -> None:
    for name in golden(file):
        excused = [pattern for pattern in EXCUSED if re.fullmatch(pattern, name)]
        assert len(compared_by(file, name)) + len(excused) == 1, name


def test_no_file_of_reference_numbers_is_forgotten() -> None:
    folders = [complete_path(name) for name in ("preprocessing", "fast_tokenizer")]
    found = {f"{folder.name}/{path.stem}" for folder in folders for path in folder.rglob("*.npz")}
    assert found == COMPARED.keys()


@pytest.mark.parametrize(("path", "function"), sorted({test for tests in COMPARED.values() for test in tests.values()}))
def test_the_named_tests_exist(path: str, function: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
