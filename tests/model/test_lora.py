"""LoRA changes nothing until it is trained, merges into plain weights, and is openpi's where openpi has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from pi05_train.checkpoint.foreign.merged import Merged
from pi05_train.config.convert import build
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, LoraRule, check_adaptation, is_lora
from pi05_train.model.batch import Batch
from pi05_train.model.config import ModelConfig
from pi05_train.model.lora import LoraLinear, adapt, apply_lora, merged_weight
from pi05_train.model.pi05 import Pi05
from pi05_train.model.precision import UncastLinear
from pi05_train.objective.losses import flow_loss_per_segment
from pi05_train.policy.sampler import Sampler
from pi05_train.resources import resource
from tests.checkpoint.foreign.dict_source import DictSource
from tests.golden_numbers import EXTRACT, assert_golden, golden, golden_json, tiny_parameters
from tests.model.batches import TINY, pack, random_segments
from tests.model.golden_model import flow_batch, golden_config, in_openpis_layout, tensor
from tests.model.openpi_names import to_our_names


def merged(state: dict[str, Tensor], rules: list[LoraRule]) -> dict[str, Tensor]:
    """The parameters of the plain network."""
    view = Merged(DictSource(state), rules)
    return {name: view.read(name) for name in view.specs}


ATTENTION = LoraRule("layers.*.[qkvo]_proj", 3, 5.0, "alpha_over_rank", per_head=True)
EVERYWHERE = [ATTENTION, LoraRule("layers.*.expert.*_norm.modulation", 2, 1.0), LoraRule("action.*", 2, 3.0)]
PRESETS = {
    "none": "gemma_2b+gemma_300m",
    "openpi_lora": "gemma_2b_lora+gemma_300m_lora",
    "openpi_lora_backbone": "gemma_2b_lora+gemma_300m",
    "openpi_lora_expert": "gemma_2b+gemma_300m_lora",
}
"""Our presets and openpi's variants."""


def preset(name: str) -> AdaptationConfig:
    path = resource("conf") / "adaptation" / f"{name}.yaml"
    return build(AdaptationConfig, yaml.safe_load(path.read_text()), "adaptation")


def adapted(config: ModelConfig, adaptation: AdaptationConfig, *, seed: int = 0) -> Pi05:
    """A freshly initialised network, its LoRA too."""
    model = Pi05(config, expert=True)
    adapt(model, adaptation)
    model.init_weights(seed)
    return model


@torch.no_grad()
def shake(model: nn.Module) -> None:
    """No parameter keeps a special value."""
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=random, dtype=parameter.dtype) * 0.2)


def outputs(model: Pi05, batch: Batch) -> list[Tensor]:
    out = model(batch)
    return [out.logits_LV, out.velocity_AKHD]


rules = st.builds(
    LoraRule,
    pattern=st.just(""),
    rank=st.integers(1, 5),
    alpha=st.floats(0.5, 8.0),
    scaling=st.sampled_from(["alpha_over_rank", "rank_stabilised", "openpi_ffn"]),
)
sizes = st.builds(
    lambda kv_heads, groups, half, family: replace(
        TINY, heads=kv_heads * groups, kv_heads=kv_heads, head_dim=2 * half, family=family
    ),
    kv_heads=st.integers(1, 3),
    groups=st.integers(1, 3),
    half=st.integers(1, 5),
    family=st.sampled_from(["pi05", "pi0"]),
)


@settings(max_examples=8, deadline=None)
@given(config=sizes, rule=rules, per_head=st.booleans(), seed=st.integers(0, 3))
def test_merged_weights_compute_the_same(config: ModelConfig, rule: LoraRule, per_head: bool, seed: int) -> None:
    """On every kind of linear layer there is: towers, vision, projections of actions, modulations."""
    patterns = ("[qkvo]_proj", "gate_proj", "up_proj", "down_proj", "modulation", "fc[12]")
    split = [replace(rule, pattern=f"*.{p}", per_head=per_head and p == "[qkvo]_proj") for p in patterns]
    split += [replace(rule, pattern=p) for p in ("action.*_proj", "action.time_mlp_*", "vision.head")]
    split = [r for r in split if config.family == "pi05" or "modulation" not in r.pattern]
    model = adapted(config, AdaptationConfig(split), seed=seed).double()
    shake(model)
    assert all(isinstance(m, LoraLinear) for m in model.modules() if isinstance(m, nn.Linear))
    plain = Pi05(config, expert=True).double()
    plain.load_state_dict(merged(model.state_dict(), split), strict=True)
    batch = pack(random_segments(seed), config)
    with torch.no_grad():
        for got, expected in zip(outputs(plain, batch), outputs(model, batch), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-10)


@settings(max_examples=8, deadline=None)
@given(config=sizes, rank=st.integers(1, 5), seed=st.integers(0, 3), bf16=st.booleans())
def test_a_fresh_adapter_changes_no_bit(config: ModelConfig, rank: int, seed: int, bf16: bool) -> None:
    adaptation = AdaptationConfig([replace(ATTENTION, rank=rank), LoraRule("action.*", rank, 1.0)])
    fresh, plain = (adapted(config, a, seed=seed) for a in (adaptation, AdaptationConfig()))
    batch = pack(random_segments(seed), config)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        for got, expected in zip(outputs(fresh, batch), outputs(plain, batch), strict=True):
            assert torch.equal(got, expected)


def test_a_fresh_adapter_leaves_gradients_and_has_its_own() -> None:
    fresh, plain = (adapted(TINY, AdaptationConfig(r)).double() for r in (EVERYWHERE, []))
    batch = pack(random_segments(0))
    for model in (fresh, plain):
        torch.stack([x.square().sum() for x in outputs(model, batch)]).sum().backward()
    gradients = {name: p.grad for name, p in fresh.named_parameters()}
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-10, atol=1e-12)
    assert gradients["action.out_proj.lora_b"].abs().max() > 0


@settings(max_examples=30, deadline=None)
@given(heads=st.integers(1, 4), size=st.integers(1, 4), width=st.integers(1, 6), rank=st.integers(1, 4))
def test_heads_are_those_of_openpis_einsums(heads: int, size: int, width: int, rank: int) -> None:
    """Written out head by head: q's heads apart, o's two sums over heads each on its own."""
    random, rule = torch.Generator().manual_seed(heads * size), LoraRule("*", rank, 3.0, per_head=True)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    q, o = (nn.Linear(*s, bias=False).double() for s in ((width, heads * size), (heads * size, width)))
    q, o = LoraLinear(q, rule, heads, split_input=False), LoraLinear(o, rule, heads, split_input=True)
    with torch.no_grad():
        for parameter in (*q.parameters(), *o.parameters()):
            parameter.copy_(draw(*parameter.shape))
        x, y = draw(5, width), draw(5, heads * size)
        each = [x @ q.lora_a[h] @ q.lora_b[h] for h in range(heads)]
        torch.testing.assert_close(q(x), x @ q.weight.T + 3.0 / rank * torch.cat(each, dim=-1))
        down = sum(y[:, h * size : (h + 1) * size] @ o.lora_a[h] for h in range(heads))
        torch.testing.assert_close(o(y), y @ o.weight.T + 3.0 / rank * down @ sum(o.lora_b))
        for layer, value in ((q, x), (o, y)):
            merged = merged_weight(layer.weight, layer.lora_a, layer.lora_b, rule)
            torch.testing.assert_close(layer(value), value @ merged.T)


def test_scalings() -> None:
    scale = {s: LoraRule("*", 16, 8.0, s).scale for s in ("alpha_over_rank", "rank_stabilised", "openpi_ffn")}
    assert scale == {"alpha_over_rank": 0.5, "rank_stabilised": 2.0, "openpi_ffn": 1.0}


def test_initial_values_depend_on_seed_and_name_alone() -> None:
    one, more = (dict(adapted(TINY, AdaptationConfig(r)).named_parameters()) for r in ([ATTENTION], EVERYWHERE))
    a = "layers.1.expert.q_proj.lora_a"
    assert torch.equal(one[a], more[a])
    assert not torch.equal(one[a], one["layers.2.expert.q_proj.lora_a"])
    values = torch.cat([p.flatten() for name, p in more.items() if name.endswith("lora_a")])
    assert values.std().item() == pytest.approx(0.01, rel=0.05)
    assert all(not p.any() for name, p in more.items() if name.endswith("lora_b"))


def test_layers_that_autocast_leaves_alone_stay_so() -> None:
    model = adapted(TINY, AdaptationConfig(EVERYWHERE))
    assert model.action is not None
    shake(model)
    layer, x = model.action.in_proj, torch.randn(7, TINY.action_dim)
    assert isinstance(layer, UncastLinear)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer(x), layer(x.double()))
        inside = layer(x)
        assert model.get_submodule("layers.0.expert.q_proj")(torch.randn(2, 24)).dtype == torch.bfloat16
    assert torch.equal(inside, layer(x))
    assert inside.dtype == torch.float32


def test_a_merge_reads_one_layer_at_a_time_and_keeps_the_dtype() -> None:
    model = adapted(TINY, AdaptationConfig(EVERYWHERE)).to(torch.bfloat16)
    shake(model)
    plain = merged(model.state_dict(), EVERYWHERE)
    assert list(plain) == [name for name, _ in Pi05(TINY, expert=True).named_parameters()]
    assert {value.dtype for value in plain.values()} == {torch.bfloat16}
    with pytest.raises(UserError, match=r"^LoRA of layers\.0\.expert.*no rule"):
        merged(model.state_dict(), [ATTENTION])


@pytest.mark.parametrize(
    ("adaptation", "match"),
    [
        (AdaptationConfig([LoraRule("layers.*.bakbone.q_proj", 1, 1.0)]), r"lora\.0.*layers\.\*\.backbone\.q_proj"),
        (AdaptationConfig([LoraRule("layers.0.backbone", 1, 1.0)]), "fits no linear layer"),
        (AdaptationConfig([LoraRule("embedding", 1, 1.0)]), "fits no linear layer"),
        (AdaptationConfig([ATTENTION, LoraRule("layers.2.*.q_proj", 1, 1.0)]), r"layers\.2\.backbone\.q_proj"),
        (AdaptationConfig([LoraRule("layers.*_proj", 1, 1.0, per_head=True)]), "per_head=true for .*gate_proj"),
        (AdaptationConfig(freeze=["vision.*", "layers.*.backbone.mlp_nrom.*"]), r"freeze\.1.*mlp_norm\.scale"),
        (AdaptationConfig([ATTENTION], freeze=["*.lora_a"]), "fits no parameter"),
        (AdaptationConfig(freeze=["*"]), "every parameter"),
    ],
)
def test_what_cannot_be_meant_is_refused(adaptation: AdaptationConfig, match: str) -> None:
    with pytest.raises(UserError, match=match):
        adapt(Pi05(TINY, expert=True), adaptation)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rank": 0}, "rank"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": 0.0}, "alpha"),
        ({"scaling": "x"}, "scaling"),
    ],
)
def test_impossible_rules_are_refused_by_key(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=rf"^adaptation\.lora\.1\.{named}: "):
        check_adaptation(AdaptationConfig([ATTENTION, replace(ATTENTION, **change)]))


@pytest.mark.parametrize("name", PRESETS)
def test_presets_freeze_what_openpi_freezes(name: str) -> None:
    """openpi's filters, as openpi evaluated them; a leaf's number, as its value, finds our names for it."""
    filters = golden_json("openpi_jax/lora_freeze_filters")[PRESETS[name]]
    paths = [*filters["frozen"], *filters["trainable"]]
    check_adaptation(preset(name))
    everything = tiny_parameters("pi05_lora_tiny")
    marked = {path: np.full_like(everything[path], i) for i, path in enumerate(paths)}
    numbers = {ours: set(value.unique().int().tolist()) for ours, value in to_our_names(marked).items()}
    model = adapted(golden_config(golden_json("configs")["pi05_lora_tiny"]), preset(name))
    assert {ours for ours, _ in model.named_parameters()} == numbers.keys()
    for ours, parameter in model.named_parameters():
        (number,) = numbers[ours]
        assert parameter.requires_grad == (number >= len(filters["frozen"])), f"{ours}, theirs {paths[number]}"


def with_sizes(rules: Sequence[LoraRule], towers: dict[str, Any]) -> list[LoraRule]:
    """openpi's rules with the ranks and alphas of an entry of `configs.json`."""
    sized = []
    for rule in rules:
        lora = towers["expert" if "expert" in rule.pattern else "backbone"]["lora"]["attn" if rule.per_head else "ffn"]
        sized.append(replace(rule, rank=lora["rank"], alpha=lora["alpha"]))
    return sized


@pytest.fixture(scope="module")
def io() -> dict[str, Any]:
    return golden("openpi_jax/pi05_lora_tiny_io")


@pytest.fixture(scope="module")
def model() -> Pi05:
    """openpi's own LoRA model: both towers, attention scaled by alpha / rank, feed-forward unscaled."""
    entry = golden_json("configs")["pi05_lora_tiny"]
    model = Pi05(golden_config(entry), expert=True)
    apply_lora(model, with_sizes(preset("openpi_lora").lora, entry))
    model.load_state_dict(to_our_names(tiny_parameters("pi05_lora_tiny")), strict=True)
    return model


@pytest.fixture(scope="module")
def batch(io: dict[str, Any], model: Pi05) -> Batch:
    return flow_batch(io, model.config, golden_json("configs")["pi05_lora_tiny"]["camera_order"])


@torch.no_grad()
def test_openpis_velocity_and_loss(io: dict[str, Any], model: Pi05, batch: Batch) -> None:
    velocity = model(batch).velocity_AKHD
    assert_golden(velocity[:, 0], io["out.v_t"], rtol=0, atol=2e-5)
    squared = (velocity[:, 0] - tensor(io["mid.u_t"])).square()
    assert_golden(squared.mean(-1), io["out.loss"], rtol=1e-4, atol=0)


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 4, 10])
def test_openpis_sampled_actions(io: dict[str, Any], model: Pi05, batch: Batch, steps: int) -> None:
    path = list(Sampler(model, steps=steps).path(batch, tensor(io["in.noise_sample"])))
    assert_golden(path[-1][1], io[f"out.sample_actions_n{steps}"], rtol=0, atol=5e-5)


def test_openpis_gradients(io: dict[str, Any], model: Pi05, batch: Batch) -> None:
    """The norm over all, and every LoRA leaf; openpi's gradients are kept at every n-th element of an axis."""
    model.zero_grad()
    velocity = model(batch, insulation=False).velocity_AKHD
    flow_loss_per_segment(velocity, batch, openpi_exact=True).mean().backward()
    norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
    np.testing.assert_allclose(norm, io["out.grad_global_norm"], rtol=1e-4)
    got = in_openpis_layout(model, {name: p.grad for name, p in model.named_parameters()})
    with np.load(EXTRACT / "pi05_lora_tiny_grads.npz") as expected:
        assert set(expected) == {path for path in got if "lora" in path}
        for path in expected:
            whole, some = got[path], tensor(expected[path])
            every = tuple(slice(None, None, n // m) for n, m in zip(whole.shape, some.shape, strict=True))
            # Where a sum over tokens cancels, float32's rounding is that of its largest terms, theirs as ours.
            atol = 1e-6 + 4e-6 * float(whole.abs().max())
            torch.testing.assert_close(whole[every], some, rtol=1e-4, atol=atol, msg=lambda m, p=path: f"{p}: {m}")


@torch.no_grad()
def test_openpis_velocity_from_merged_weights(io: dict[str, Any], model: Pi05, batch: Batch) -> None:
    plain = Pi05(model.config, expert=True)
    rules = with_sizes(preset("openpi_lora").lora, golden_json("configs")["pi05_lora_tiny"])
    plain.load_state_dict(merged(model.state_dict(), rules), strict=True)
    assert not any(is_lora(name) for name in plain.state_dict())
    assert_golden(plain(batch).velocity_AKHD[:, 0], io["out.v_t"], rtol=0, atol=2e-5)
