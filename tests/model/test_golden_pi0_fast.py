"""The same weights give openpi's numbers for pi0-FAST: prefix-LM logits, loss, decoding with its skipped position."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from pi05_train.model.pi05 import Pi05
from pi05_train.objective.losses import text_loss_per_segment
from pi05_train.policy.writing import write_most_likely
from tests.golden_numbers import assert_golden, golden, golden_json
from tests.model.dense_decoding import dense_greedy_decoding
from tests.model.golden_model import golden_model, in_openpis_layout, run_layers, tensor, text_batch

Arrays = dict[str, Any]


@pytest.fixture(scope="module")
def io() -> Arrays:
    return golden("openpi_jax/pi0_fast_tiny_io")


@pytest.fixture(scope="module")
def model() -> Pi05:
    return golden_model("pi0_fast_tiny")


@pytest.fixture(scope="module")
def cameras() -> list[str]:
    return list(golden_json("configs")["pi0_fast_tiny"]["camera_order"])


@torch.no_grad()
def test_hidden_states_and_logits(model: Pi05, io: Arrays, cameras: list[str]) -> None:
    batch = text_batch(io, model.config, cameras)
    valid = io["mid.input_mask"]
    xs, _, _ = run_layers(model, batch)
    assert_golden(xs[0], io["mid.emb"][valid], rtol=0, atol=1e-5)
    hidden, _ = model.final_norm(xs[-1])
    # openpi's forward leaves out the last token, here always padding. These weights are larger than pi0.5's.
    assert_golden(hidden, io["out.pre_logits"][valid[:, :-1]], rtol=0, atol=2e-5)
    logits = torch.zeros(*valid.shape, model.config.vocab_size)
    logits[tensor(valid)] = functional.linear(hidden, model.embedding.weight)
    text = slice(-io["out.logits"].shape[1] - 1, -1)
    assert_golden(logits[:, text][valid[:, text]], io["out.logits"][valid[:, text]], rtol=0, atol=5e-5)


def test_loss_and_gradients(model: Pi05, io: Arrays, cameras: list[str]) -> None:
    batch = text_batch(io, model.config, cameras)
    model.zero_grad()
    logits = model(batch).logits_LV
    labelled = io["in.token_loss_mask"][:, 1:].astype(bool)
    log_p = logits.log_softmax(-1).gather(1, batch.labels_L[:, None])[:, 0]
    assert_golden(log_p, io["out.token_logp"][labelled], rtol=0, atol=5e-5)
    loss = text_loss_per_segment(logits, batch)
    np.testing.assert_allclose(loss.detach(), io["out.loss"], rtol=1e-4)
    loss.mean().backward()
    got = in_openpis_layout(model, {n: p.grad for n, p in model.named_parameters()})
    for path, gradient in got.items():
        norm = io[f"out.grad_l2/{path}"]
        np.testing.assert_allclose(gradient.norm(), norm, rtol=1e-4, atol=1e-6, err_msg=path)
    key = "PaliGemma/llm/embedder/input_embedding"
    assert_golden(got[key], io[f"out.grad/{key}"], rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_decoding_with_every_camera(model: Pi05, io: Arrays, cameras: list[str]) -> None:
    """Sample 1: generation as the policy does it."""
    one = {key: value[1:] for key, value in io.items() if key.startswith("in.")}
    one["in.sample.token_ar_mask"] = np.zeros_like(one["in.sample.token_mask"])
    batch = text_batch(one, model.config, cameras, inputs="in.sample", gaps=False)
    cache = model.prefill(batch)
    assert_golden(model.first_logits(cache)[0], io["out.sample.prefill_last_logits"][1], rtol=0, atol=2e-5)
    written = io["out.sample.tokens"][1].astype(np.int64)
    assert write_most_likely(model, batch, max_tokens=12, stop_id=-1) == [written.tolist()]
    for step, token in enumerate(written[:-1]):
        logits = model.decode(cache, torch.tensor([token]))
        assert_golden(logits[0], io["mid.sample.step_logits"][step + 1][1], rtol=0, atol=5e-5)


@torch.no_grad()
def test_decoding_with_a_masked_camera_in_the_middle(model: Pi05, io: Arrays) -> None:
    """Sample 0: openpi's decoding mask lets tokens see the masked camera instead of the first one.

    No policy of openpi's masks a camera for pi0-FAST, and ours leaves absent ones out or black; that the numbers
    come from that mask alone is shown with a dense one.
    """
    logits, tokens = dense_greedy_decoding(model, io)
    assert_golden(logits[0], io["out.sample.prefill_last_logits"], rtol=0, atol=2e-5)
    assert_golden(logits, io["mid.sample.step_logits"], rtol=0, atol=5e-5)
    np.testing.assert_array_equal(tokens, io["mid.sample.step_tokens"])
    np.testing.assert_array_equal(tokens.T, io["out.sample.tokens"])
