"""What a run adapts and what it leaves alone: LoRA rules and frozen parameters. No torch here.

Patterns are those of a shell (Python's fnmatch): `*` any characters, dots included, `?` one, `[abc]` one of these.
A pattern must fit the whole name, and case counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from pi05_train.errors import UserError

SCALINGS = ("alpha_over_rank", "rank_stabilised", "openpi_ffn")
"""What the update is multiplied by. openpi_ffn: 1, whatever alpha is, as openpi's feed-forward layers compute it
(models/lora.py; its attention layers take alpha / rank). rank_stabilised: alpha / sqrt(rank) (arXiv 2312.03732)."""

LORA_A, LORA_B = "lora_a", "lora_b"


@dataclass(frozen=True)
class LoraRule:
    """A low-rank update on every linear layer that the pattern fits."""

    pattern: str
    """Names of linear layers, such as `layers.3.backbone.q_proj` or `layers.*.expert.*_proj`."""
    rank: int
    alpha: float
    scaling: str = "alpha_over_rank"
    """One of `SCALINGS`."""
    per_head: bool = False
    """Every attention head has factors of its own, as in openpi; for q_proj, k_proj, v_proj and o_proj only."""

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        if self.scaling == "openpi_ffn":
            return 1.0
        return self.alpha / (math.sqrt(self.rank) if self.scaling == "rank_stabilised" else self.rank)

    def fits(self, module: str) -> bool:
        return fnmatchcase(module, self.pattern)


@dataclass(frozen=True)
class AdaptationConfig:
    """Which layers get LoRA and which parameters keep their values; by default none."""

    lora: list[LoraRule] = field(default_factory=list)
    freeze: list[str] = field(default_factory=list)
    """Patterns of parameter names, such as `layers.*.backbone.*`; LoRA's own parameters always train."""


def is_lora(parameter: str) -> bool:
    """Whether a parameter's name is one that LoRA added."""
    return parameter.rpartition(".")[2] in (LORA_A, LORA_B)


def rule_for(module: str, rules: Sequence[LoraRule]) -> LoraRule | None:
    """The rule of a linear layer; refuses two, since only one of them could be meant."""
    fitting = [i for i, rule in enumerate(rules) if rule.fits(module)]
    if len(fitting) > 1:
        raise UserError(
            "adaptation.lora",
            got=" and ".join(f"{rules[i].pattern!r} (rule {i})" for i in fitting) + f" for {module}",
            expected="at most one rule per layer",
            do="narrow one of the patterns",
        )
    return rules[fitting[0]] if fitting else None


def check_adaptation(adaptation: AdaptationConfig) -> None:
    """Refuse rules that no layer could have; whether a pattern fits anything only the network can tell."""
    for i, rule in enumerate(adaptation.lora):
        key = f"adaptation.lora.{i}"
        if rule.rank < 1:
            raise UserError(f"{key}.rank", got=rule.rank, expected="at least 1", do="raise it, or remove the rule")
        if not 0 < rule.alpha < math.inf:
            raise UserError(f"{key}.alpha", got=rule.alpha, expected="a positive number", do="correct it")
        if rule.scaling not in SCALINGS:
            raise UserError(
                f"{key}.scaling", got=repr(rule.scaling), expected="one of " + ", ".join(SCALINGS), do="correct it"
            )
