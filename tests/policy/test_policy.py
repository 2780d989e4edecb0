from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from pi05_train.model.pi05 import Pi05
from pi05_train.policy.policy import Policy
from pi05_train.policy.sampler import Sampler
from pi05_train.tokenization.vocabulary import EOS_ID
from tests.policy.toy_policy import ACTION_DIM, HORIZON, toy_policy, toy_processor, toy_samples
from tests.synthetic import CARDS


class Scribe:
    """A network that writes given ids, one list per segment, whatever it is asked."""

    def __init__(self, scripts: list[list[int]]) -> None:
        self.config = toy_processor().model
        self.embedding = torch.nn.Embedding(1, 1)
        self.action = None
        self.scripts, self.place = scripts, 0

    def prefill(self, batch: Any) -> Scribe:
        assert batch.num_segments == len(self.scripts)
        self.owners = range(batch.num_segments)
        return self

    def first_logits(self, _: Any) -> Tensor:
        return self.logits()

    def decode(self, _: Any, token_ids: Tensor) -> Tensor:
        assert len(token_ids) == len(self.scripts)
        self.place += 1
        return self.logits()

    def logits(self) -> Tensor:
        ids = torch.tensor([script[self.place] if self.place < len(script) else EOS_ID for script in self.scripts])
        return torch.nn.functional.one_hot(ids, self.config.vocab_size).float()


BOX = "<loc0010><loc0020><loc0030><loc0040>"


def scribe(scripts: list[list[int]]) -> Policy:
    return Policy(cast(Pi05, Scribe(scripts)), toy_processor())


@pytest.mark.parametrize("source", ["toy_mobile", "toy_bimanual"])
def test_actions_have_the_robots_width_and_are_physical(source: str) -> None:
    samples = toy_samples(source)[:3]
    policy = toy_policy()
    chunks = policy.actions(samples, [1, 2, 3])
    normalised = policy.normalised_actions(samples, [1, 2, 3])
    for chunk, same, sample in zip(chunks, normalised, samples, strict=True):
        assert chunk.shape == (HORIZON, CARDS[source].action_dim)
        assert same.shape == (HORIZON, ACTION_DIM)
        np.testing.assert_array_equal(chunk, policy.processor.physical_actions(same, source, sample.state))


def test_a_chunk_depends_on_its_own_sample_and_seed_alone() -> None:
    samples = toy_samples("toy_arm")[:4] + toy_samples("toy_bimanual")[:3]
    seeds = list(range(10, 17))
    together = toy_policy(batch_samples=16).actions(samples, seeds)
    in_threes = toy_policy(batch_samples=3).actions(samples, seeds)
    alone = [toy_policy().actions([s], [seed])[0] for s, seed in zip(samples, seeds, strict=True)]
    for a, b, c in zip(together, in_threes, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_allclose(a, c, atol=1e-4)
    other = toy_policy().actions(samples[:1], [99])[0]
    assert np.abs(other - together[0]).max() > 1e-2


def test_the_recorded_path_ends_in_the_sampled_actions() -> None:
    policy, sample = toy_policy(), toy_samples("toy_mobile")[0]
    denoising = policy.denoising(sample, 7)
    times, path = denoising.times, denoising.x_THD
    assert times == pytest.approx((1.0, 0.75, 0.5, 0.25, 0.0), abs=1e-6)
    noise = np.random.default_rng(7).standard_normal((HORIZON, ACTION_DIM), dtype=np.float32)
    dims = policy.processor.flow_dims(sample.source)
    np.testing.assert_array_equal(path[0][:, :dims], noise[:, :dims])
    assert not path[:, :, dims:].any()
    np.testing.assert_allclose(path[-1], policy.normalised_actions([sample], [7])[0], atol=1e-6)
    np.testing.assert_array_equal(path[1:], path[:-1] - denoising.velocity_THD / np.float32(4))


def test_a_backbone_that_writes_the_true_fast_tokens_gives_the_demonstrated_actions() -> None:
    samples = toy_samples("toy_arm")[:3]
    targets = [toy_processor()(sample, key=(0,), training=False).target_ids for sample in samples]
    chunks = scribe(targets).fast_actions(samples, max_tokens=200)
    for chunk, sample in zip(chunks, samples, strict=True):
        assert chunk is not None
        # FAST rounds coefficients to a tenth: errors stay within a few hundredths of the (about unit) range.
        np.testing.assert_allclose(chunk, sample.actions[:HORIZON], atol=0.1)


def test_undecodable_fast_tokens_give_none() -> None:
    samples = toy_samples("toy_arm")[:2]
    target = toy_processor()(samples[0], key=(0,), training=False).target_ids
    good, bad = scribe([target, target[:2] + target[4:]]).fast_actions(samples, max_tokens=200)
    assert good is not None
    assert bad is None


def test_text_is_what_the_backbone_writes() -> None:
    samples = toy_samples("toy_web")[:2] + toy_samples("toy_subtasks")[:1]
    said = ["red", "a very long answer about nothing", f"Bounding boxes:\n{BOX}cup\nSubtask: pick up the cup"]
    scripts = [toy_processor().tokens.text.encode(words, eos=True) for words in said]
    assert scribe(scripts).text(samples, max_tokens=60) == said


def test_text_never_holds_action_tokens() -> None:
    layout = toy_processor().tokens.layout
    model = toy_policy().model
    with torch.no_grad():  # every FAST token is more likely than any word
        taken = layout.fast_range
        model.embedding.weight[taken.start : taken.stop] *= 50
    policy = Policy(model, toy_processor())
    samples = toy_samples("toy_web")[:4]
    assert not any("<fast" in text for text in policy.text(samples, max_tokens=8))
    ids = policy._written(samples, 8, None)
    assert any(layout.is_fast(i) for answer in ids for i in answer)


def test_weights_for_one_robot_give_its_actions_in_a_runtime_that_moves_every_dim() -> None:
    """As openpi and LeRobot sample: noise in padded dims too, moved by the network's word."""
    policy, samples = toy_policy(), toy_samples("toy_mobile")[:2]
    dims = policy.processor.flow_dims("toy_mobile")
    assert dims < policy.model.config.action_dim
    expected = np.stack(policy.normalised_actions(samples, [1, 2]))
    weight = policy.model.get_parameter("action.in_proj.weight")
    ((_, batch),) = policy._batches(samples, 2)
    noise = policy._noise([1, 2])
    theirs = Sampler(policy.model, steps=policy.euler_steps).actions(batch, noise).numpy()
    assert np.abs(theirs[..., :dims] - expected[..., :dims]).max() > 1e-2
    with torch.no_grad():
        weight[:, dims:] = 0
    theirs = Sampler(policy.model, steps=policy.euler_steps).actions(batch, noise).numpy()
    np.testing.assert_allclose(theirs[..., :dims], expected[..., :dims], atol=1e-6)
