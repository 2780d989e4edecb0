"""Losses: averages within a segment, then over segments; the same however the batch is cut."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from pi05_train.model.batch import Batch
from pi05_train.model.pi05 import Output
from pi05_train.objective.config import ObjectiveConfig
from pi05_train.objective.losses import Counts, count, flow_loss_per_segment, text_loss_per_segment, total_loss
from tests.model.batches import TINY, Segment, pack, random_segments, segment

OBJECTIVE = ObjectiveConfig(alpha=10.0, insulation=True, expert=True, flow_draws=2)


def made_up_output(batch: Batch, seed: int = 0) -> Output:
    random = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(batch.labels_L), TINY.vocab_size, generator=random, dtype=torch.float64)
    return Output(logits, torch.randn(batch.noise_AKHD.shape, generator=random, dtype=torch.float64))


def test_text_loss_is_the_mean_over_each_segments_own_labels() -> None:
    segments = random_segments(0)
    batch = pack(segments)
    logits = made_up_output(batch).logits_LV
    losses = text_loss_per_segment(logits, batch)
    offset = 0
    for s, loss in zip(segments, losses, strict=True):
        n = len(s.target)
        labels = torch.tensor(s.target, dtype=torch.int64)
        expected = functional.cross_entropy(logits[offset : offset + n], labels) if n else torch.zeros(())
        torch.testing.assert_close(loss, expected.to(loss.dtype))
        offset += n


def test_long_answers_do_not_outweigh_short_ones() -> None:
    batch = pack([segment(0, 2, 1, False, seed=0), segment(0, 2, 9, False, seed=1)])
    right = torch.full((10, TINY.vocab_size), 0.0)
    right[torch.arange(1, 10), batch.labels_L[1:]] = 100.0
    loss = total_loss(Output(right, None), batch, OBJECTIVE, count(batch)).total
    torch.testing.assert_close(loss, torch.tensor(TINY.vocab_size).log() / 2)


def flow_by_hand(batch: Batch, velocity: Tensor, *, openpi_exact: bool) -> list[float]:
    losses = []
    for a in range(len(batch.action_segments)):
        errors = []
        for k in range(velocity.shape[1]):
            squared = (velocity[a, k] - (batch.noise_AKHD[a, k] - batch.actions_AHD[a])) ** 2
            errors.append(squared.mean() if openpi_exact else squared[batch.action_mask_AHD[a]].mean())
        losses.append(float(torch.stack(errors).mean()))
    return losses


@pytest.mark.parametrize("openpi_exact", [False, True])
def test_flow_loss_averages_over_real_entries_and_draws(openpi_exact: bool) -> None:
    batch = pack(random_segments(1, draws=3))
    velocity = made_up_output(batch).velocity_AKHD
    assert velocity is not None
    losses = flow_loss_per_segment(velocity, batch, openpi_exact=openpi_exact)
    assert losses.tolist() == pytest.approx(flow_by_hand(batch, velocity, openpi_exact=openpi_exact), rel=1e-6)


def test_masked_entries_do_not_matter() -> None:
    batch = pack(random_segments(2))
    velocity = made_up_output(batch).velocity_AKHD
    assert velocity is not None
    changed = torch.where(batch.action_mask_AHD[:, None], velocity, velocity + 100)
    assert not torch.equal(changed, velocity)
    assert torch.equal(flow_loss_per_segment(changed, batch), flow_loss_per_segment(velocity, batch))


def slice_output(output: Output, batch: Batch, segments: range) -> Output:
    assert output.velocity_AKHD is not None
    labels = torch.isin(batch.label_segments_L, torch.tensor(segments))
    actions = [a for a, s in enumerate(batch.action_segments) if s in segments]
    return Output(output.logits_LV[labels], output.velocity_AKHD[actions])


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_micro_batches_add_up_to_the_whole_batch(cut: int) -> None:
    segments: list[Segment] = random_segments(3, draws=2)
    batch = pack(segments)
    output = made_up_output(batch)
    whole = total_loss(output, batch, OBJECTIVE, count(batch))
    parts = [range(cut), range(cut, len(segments))]
    batches = [pack([segments[i] for i in part]) for part in parts]
    counts = count(batches[0]) + count(batches[1])
    assert counts == count(batch)
    terms = [
        total_loss(slice_output(output, batch, part), b, OBJECTIVE, counts)
        for part, b in zip(parts, batches, strict=True)
    ]
    torch.testing.assert_close(terms[0].total + terms[1].total, whole.total, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([t.text_B for t in terms]), whole.text_B)
    torch.testing.assert_close(torch.cat([t.flow_A for t in terms]), whole.flow_A)


def test_a_term_without_samples_is_exactly_zero_and_has_zero_gradient() -> None:
    batch = pack([segment(1, 2, 0, False, seed=0)])
    assert count(batch) == Counts(text=0, flow=0)
    logits = torch.zeros(0, TINY.vocab_size, requires_grad=True)
    velocity = torch.zeros(batch.noise_AKHD.shape, requires_grad=True)
    terms = total_loss(Output(logits, velocity), batch, OBJECTIVE, count(batch))
    assert terms.total.item() == 0.0
    terms.total.backward()
    assert logits.grad is not None
    assert velocity.grad is not None


def test_alpha_weighs_the_flow_term() -> None:
    batch = pack(random_segments(4))
    output = made_up_output(batch)
    totals = [
        total_loss(output, batch, ObjectiveConfig(alpha, insulation=True, expert=True), count(batch)).total
        for alpha in (0.0, 1.0, 10.0)
    ]
    torch.testing.assert_close(totals[2] - totals[0], 10 * (totals[1] - totals[0]))
    assert torch.equal(totals[0], total_loss(Output(output.logits_LV, None), batch, OBJECTIVE, count(batch)).total)


def test_half_precision_logits_are_scored_in_float32() -> None:
    batch = pack([segment(0, 1, 3, False, seed=0)])
    logits = (torch.randn(3, TINY.vocab_size, generator=torch.Generator().manual_seed(0)) * 20).bfloat16()
    losses = text_loss_per_segment(logits, batch)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, text_loss_per_segment(logits.float(), batch), rtol=0, atol=0)
