"""Inference from a prefix cache equals computing everything anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from pi05_train.model.flow import noisy_actions
from tests.model.batches import open_model, pack, segment, without_target

SEGMENTS = [
    segment(cameras, prompt, 5, actions=True, seed=s) for s, (cameras, prompt) in enumerate([(2, 3), (0, 1), (1, 6)])
]


def test_decoding_token_by_token_equals_one_pass_over_the_target() -> None:
    model = open_model()
    expected = model(pack(SEGMENTS)).logits_LV.unflatten(0, (3, 5))
    cache = model.prefill(pack([without_target(s) for s in SEGMENTS]))
    logits = [model.first_logits(cache)]
    logits += [model.decode(cache, torch.tensor([s.target[step] for s in SEGMENTS])) for step in range(4)]
    torch.testing.assert_close(torch.stack(logits, dim=1), expected, rtol=0, atol=1e-5)
    assert cache.decoded == 4


@pytest.mark.parametrize("family", ["pi05", "pi0"])
def test_cached_velocity_equals_training_and_ignores_decoded_tokens(family: str) -> None:
    model = open_model(family)
    # Every segment with every time, since a step of inference has one for all.
    times = torch.tensor([1.0, 0.4, 0.05])
    segments = [replace(s, time_K=times, noise_KHD=s.noise_KHD.expand(3, -1, -1)) for s in SEGMENTS]
    batch = pack(segments)
    expected = model(batch).velocity_AKHD
    noisy = noisy_actions(batch.actions_AHD, batch.noise_AKHD, batch.time_AK)
    cache = model.prefill(pack([without_target(s) for s in SEGMENTS]))
    before = [model.denoiser(cache, times).velocity(noisy[:, step], step) for step in range(3)]
    torch.testing.assert_close(torch.stack(before, dim=1), expected, rtol=0, atol=1e-5)
    model.decode(cache, torch.tensor([s.target[0] for s in SEGMENTS]))
    assert torch.equal(model.denoiser(cache, times).velocity(noisy[:, 1], 1), before[1])


def test_a_prompt_is_answered_the_same_alone_and_in_company() -> None:
    model = open_model()
    together = model.first_logits(model.prefill(pack([without_target(s) for s in SEGMENTS])))
    for row, s in zip(together, SEGMENTS, strict=True):
        alone = model.first_logits(model.prefill(pack([replace(without_target(s), actions_HD=None)])))[0]
        torch.testing.assert_close(row, alone, rtol=0, atol=1e-5)
