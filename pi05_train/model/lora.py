"""Low-rank updates of linear layers (LoRA, arXiv 2106.09685), frozen parameters, and updates merged into weights.

A layer with LoRA keeps its `weight` (and `bias`) and gains `lora_a` [groups, in, rank] and `lora_b` [groups, rank,
out]. groups is 1, or with `per_head` the number of heads, as openpi's einsums have it (models/lora.py): q, k and v
split their output, head h being (x A_h) B_h; o splits its input and is (sum_h x_h A_h)(sum_h B_h), each sum on its
own. So `in` or `out` is that of one head where that side is split.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn import functional

from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, LoraRule, is_lora, rule_for
from pi05_train.model.config import ModelConfig
from pi05_train.model.pi05 import Pi05
from pi05_train.model.precision import UncastLinear, at_least_float32

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


class LoraLinear(nn.Linear):
    """A linear layer and its update; fresh, the update is zero."""

    def __init__(self, linear: nn.Linear, rule: LoraRule, heads: int, *, split_input: bool) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.scale = rule.scale
        self.split_input = split_input
        rows, columns = linear.in_features, linear.out_features
        rows, columns = (rows // heads, columns) if split_input else (rows, columns // heads)
        self.lora_a = nn.Parameter(self.weight.new_zeros(heads, rows, rule.rank))
        self.lora_b = nn.Parameter(self.weight.new_zeros(heads, rule.rank, columns))

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.weight, self.bias) + self._update(input)

    def _update(self, x: Tensor) -> Tensor:
        """Letters: h heads, i in, r rank, o out."""
        if self.split_input:
            low = torch.einsum("...hi,hir->...r", torch.unflatten(x, -1, (self.lora_a.shape[0], -1)), self.lora_a)
            return torch.einsum("...r,hro->...o", low * self.scale, self.lora_b)
        low = torch.einsum("...i,hir->...hr", x, self.lora_a)
        return torch.einsum("...hr,hro->...ho", low * self.scale, self.lora_b).flatten(-2)


class UncastLoraLinear(LoraLinear, UncastLinear):
    """The same on a layer that autocast leaves alone."""

    def forward(self, input: Tensor) -> Tensor:
        with torch.autocast(self.weight.device.type, enabled=False):
            return LoraLinear.forward(self, input.to(self.weight.dtype))


def adapt(model: Pi05, adaptation: AdaptationConfig) -> None:
    """Add LoRA to `model` and freeze what is to stay. Refuses patterns that fit nothing, and freezing everything."""
    apply_lora(model, adaptation.lora)
    freeze(model, adaptation.freeze)


def apply_lora(model: Pi05, rules: Sequence[LoraRule]) -> None:
    """Replace every linear layer that a rule fits by one with LoRA; the numbers stay as they were.

    `lora_a` and `lora_b` are zero until `init_parameters` draws them or a checkpoint fills them.
    """
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert not any(isinstance(linear, LoraLinear) for linear in linears.values()), "this model has LoRA already"
    for i, written in enumerate(rules):
        if not any(map(written.fits, linears)):
            raise _fits_nothing(f"adaptation.lora.{i}.pattern", written.pattern, linears, "linear layer")
    for name, linear in linears.items():
        if (rule := rule_for(name, rules)) is not None:
            path, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(path), leaf, _with_lora(name, linear, rule, model.config))


def _with_lora(name: str, linear: nn.Linear, rule: LoraRule, config: ModelConfig) -> LoraLinear:
    leaf = name.rpartition(".")[2]
    heads = 1
    if rule.per_head:
        if leaf not in _ATTENTION:
            raise UserError(
                f"adaptation.lora {rule.pattern!r}",
                got=f"per_head=true for {name}",
                expected="layers that have heads: " + ", ".join(_ATTENTION),
                do="give the other layers a rule of their own",
            )
        in_tower = config.kv_heads if leaf in ("k_proj", "v_proj") else config.heads
        heads = config.vision.heads if name.startswith("vision.") else in_tower
    made = UncastLoraLinear if isinstance(linear, UncastLinear) else LoraLinear
    return made(linear, rule, heads, split_input=leaf == "o_proj")


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Parameters that a pattern fits need no gradient any more, except LoRA's."""
    names = [name for name, _ in model.named_parameters() if not is_lora(name)]
    for i, pattern in enumerate(patterns):
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise _fits_nothing(f"adaptation.freeze.{i}", pattern, names, "parameter")
        for name in fitting:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise UserError(
            "adaptation.freeze",
            got="every parameter frozen",
            expected="something left to train",
            do="remove a pattern, or add LoRA",
        )


def _fits_nothing(key: str, pattern: str, names: Iterable[str], what: str) -> UserError:
    """Layers are named once, not once per number."""
    known = list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names))
    close = difflib.get_close_matches(pattern, known, n=3, cutoff=0.0)
    return UserError(
        key,
        got=f"{pattern!r}, which fits no {what}",
        expected=f"a pattern of {what} names",
        do=f"the nearest are {', '.join(close)}",
    )


def merged_weight(weight: Tensor, lora_a: Tensor, lora_b: Tensor, rule: LoraRule) -> Tensor:
    """The weight [out, in] of a plain linear layer that computes the same, in the dtype of `weight`."""
    a, b = at_least_float32(lora_a), at_least_float32(lora_b)
    if lora_a.shape[1] == weight.shape[1]:
        update = torch.einsum("hir,hro->hoi", a, b).flatten(0, 1)
    else:
        update = torch.einsum("hir,ro->ohi", a, b.sum(0)).flatten(1)
    return (at_least_float32(weight) + rule.scale * update).to(weight.dtype)
