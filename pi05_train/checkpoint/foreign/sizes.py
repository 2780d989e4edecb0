"""What the arrays of a foreign checkpoint tell of its network, and how that differs from a configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from pi05_train.checkpoint.foreign.layout import Shape
from pi05_train.checkpoint.foreign.torch_names import PADDING_ROWS, TorchNames
from pi05_train.checkpoint.storage.source import TensorSpec
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig, LoraRule
from pi05_train.model.config import ModelConfig, TowerConfig, VisionConfig

Specs = Mapping[str, TensorSpec]
_PROMPT_TOKENS = {"pi05": 200, "pi0": 48, "pi0_fast": 250}
_MOST_NAMED = 4
_PALIGEMMA_VOCABULARY = 257_152
_ROWS = {"heads * head_dim": ("heads", "head_dim"), "kv_heads * head_dim": ("kv_heads", "head_dim")}


@dataclass(frozen=True)
class Sizes:
    """Facts about a network; what is not told is not there."""

    family: str | None
    """None without an expert: the backbones of all families look alike."""
    numbers: Mapping[str, int]
    """By the key in `ModelConfig`, such as "vision.width"; "heads * head_dim" where only the product is known."""
    lora: Mapping[str, int] = field(default_factory=dict)
    """LoRA ranks by the part that has them: "backbone.attention", "backbone.mlp", "expert.attention", "expert.mlp"."""

    @property
    def expert(self) -> bool:
        return self.family is not None


def openpi_sizes(specs: Specs, where: str, root: str = "PaliGemma/") -> Sizes:
    """The facts in openpi's JAX tree, or with the root "" in PaliGemma's npz files."""
    shape = _reader(specs, where)
    suffix_of = {"backbone": ""} | ({"expert": "_1"} if "action_in_proj/kernel" in specs else {})
    layers = f"{root}llm/layers"
    vision = f"{root}img/Transformer/encoderblock"
    patch, _, _, width = shape(f"{root}img/embedding/kernel")
    numbers = _vision(patch, width, shape(f"{root}img/pos_embedding")[1])
    numbers["vision.depth"], _, numbers["vision.mlp_dim"] = shape(f"{vision}/MlpBlock_0/Dense_0/kernel")
    numbers["vision.heads"] = shape(f"{vision}/MultiHeadDotProductAttention_0/query/kernel")[2]
    numbers["vocab_size"] = shape(f"{root}llm/embedder/input_embedding")[0]
    joint = f"{layers}/attn/qkv_einsum/w"
    query = shape(joint if joint in specs else f"{layers}/attn/q_einsum/w")
    numbers["depth"], (numbers["heads"], _, numbers["head_dim"]) = query[0], query[-3:]
    numbers["kv_heads"] = query[-3] if joint in specs else shape(f"{layers}/attn/kv_einsum/w")[2]
    lora = {}
    for tower, suffix in suffix_of.items():
        _, _, numbers[f"{tower}.width"], numbers[f"{tower}.mlp_dim"] = shape(f"{layers}/mlp{suffix}/gating_einsum")
        for part, path in (("attention", f"attn/attn_vec_einsum{suffix}/"), ("mlp", f"mlp{suffix}/linear_")):
            if f"{layers}/{path}lora_a" in specs:
                lora[f"{tower}.{part}"] = shape(f"{layers}/{path}lora_a")[-1]
    if "expert" not in suffix_of:
        return Sizes(None, numbers, lora)
    numbers["action_dim"] = shape("action_in_proj/kernel")[0]
    adaptive = f"{layers}/pre_attention_norm_1/Dense_0/kernel" in specs
    return Sizes("pi05" if adaptive else "pi0", numbers, lora)


def torch_sizes(specs: Specs, where: str, names: TorchNames, config_json: Mapping[str, Any] | None = None) -> Sizes:
    """The facts in a PyTorch checkpoint and in the `config.json` beside it: heads are in no array's shape."""
    shape = _reader(specs, where)
    patches, positions = (f"{names.vision}embeddings.{name}_embedding.weight" for name in ("patch", "position"))
    width, _, patch, _ = shape(patches)
    numbers = _vision(patch, width, shape(positions)[0])
    numbers["vision.depth"] = _count(specs, f"{names.vision}encoder.layers.")
    numbers["vision.mlp_dim"] = shape(f"{names.vision}encoder.layers.0.mlp.fc1.weight")[0]
    rows = shape(names.embedding if names.embedding in specs else names.head)[0]
    numbers["vocab_size"] = _vocabulary(rows, config_json or {})
    numbers["depth"] = _count(specs, f"{names.language}layers.")
    towers = {"backbone": names.language}
    if names.expert and f"{names.ends}action_in_proj.weight" in specs:
        towers["expert"] = f"{names.expert}model."
    for tower, prefix in towers.items():
        block = f"{prefix}layers.0"
        numbers[f"{tower}.mlp_dim"], numbers[f"{tower}.width"] = shape(f"{block}.mlp.gate_proj.weight")
    attention = f"{names.language}layers.0.self_attn"
    numbers["heads * head_dim"] = shape(f"{attention}.q_proj.weight")[0]
    numbers["kv_heads * head_dim"] = shape(f"{attention}.k_proj.weight")[0]
    numbers |= declared_numbers(config_json or {})
    if "expert" not in towers:
        return Sizes(None, numbers)
    numbers["action_dim"] = shape(f"{names.ends}action_in_proj.weight")[1]
    adaptive = f"{towers['expert']}norm.dense.weight" in specs
    return Sizes("pi05" if adaptive else "pi0", numbers)


def declared_numbers(config_json: Mapping[str, Any]) -> dict[str, int]:
    """What a `config.json` says that arrays do not, as Hugging Face's PaliGemma, openpi or LeRobot write it."""
    text, vision = config_json.get("text_config") or {}, config_json.get("vision_config") or {}
    told = {
        "heads": text.get("num_attention_heads"),
        "kv_heads": text.get("num_key_value_heads"),
        "vision.heads": vision.get("num_attention_heads"),
        "action_horizon": config_json.get("action_horizon", config_json.get("chunk_size")),
        "max_prompt_tokens": config_json.get("tokenizer_max_length"),
    }
    return {key: value for key, value in told.items() if value is not None}


def differences(sizes: Sizes, config: ModelConfig, *, expert: bool) -> dict[str, str]:
    """One sentence for each fact that is not so in the configured model -> the override that mends it."""
    found = {}
    if sizes.family not in (None, config.family):
        how = {"pi05": "the flow time modulates its norms", "pi0": "it has a state token and plain norms"}[sizes.family]
        sentence = f"its family is {sizes.family} ({how}), the configuration's is {config.family}"
        found[sentence] = f"model={sizes.family} (or model.family={sizes.family} at other sizes)"
    if sizes.expert != expert:
        has, wants = ("an", "none") if sizes.expert else ("no", "one")
        found[f"it has {has} action expert, the configured model has {wants}"] = (
            f"stage.objective.expert={str(sizes.expert).lower()}"
        )
    for key, value in sizes.numbers.items():
        factors = _ROWS.get(key, (key,))
        configured = math.prod(attrgetter(*factors)(config)) if key in _ROWS else attrgetter(key)(config)
        if configured != value:
            override = f"model.{key}={value}" if key not in _ROWS else " and ".join(f"model.{name}" for name in factors)
            found[f"its {key} is {value}, the configuration's is {configured}"] = override
    return found


def check_sizes(where: str, sizes: Sizes, config: ModelConfig, *, expert: bool) -> None:
    """Refuse a checkpoint of another network than the configured one, in one sentence that names the overrides."""
    found = differences(sizes, config, expert=expert)
    if found:
        more = len(found) - _MOST_NAMED
        raise UserError(
            f"checkpoint {where}",
            got="; ".join([*found][:_MOST_NAMED]) + (f"; and {more} more" if more > 0 else ""),
            expected=f"the network of model {config.name}",
            do=f"override {', '.join([*found.values()][:_MOST_NAMED])}",
        )


def check_lora(where: str, sizes: Sizes, adaptation: AdaptationConfig | None) -> None:
    """Refuse LoRA in a checkpoint alone, or in a configuration alone; other ranks are arrays of another shape."""
    wanted = adaptation is not None and bool(adaptation.lora)
    if bool(sizes.lora) != wanted:
        ranks = ", ".join(f"rank {rank} in {part}" for part, rank in sizes.lora.items())
        raise UserError(
            f"LoRA of checkpoint {where}",
            got=ranks or "none",
            expected="LoRA, as the configuration says" if wanted else "none, as the configuration says",
            do=f"override adaptation={'none' if wanted else 'openpi_lora (or one with these ranks)'}",
        )


def config_of(sizes: Sizes, name: str) -> ModelConfig:
    """A configuration with these sizes, to look at a checkpoint with.

    Numbers that nothing tells are openpi's; heads that only a product tells are as few and as wide as it allows, which
    makes no difference to the names and shapes of PyTorch formats.
    """
    told = sizes.numbers
    family = sizes.family or "pi0_fast"
    heads, kv_heads, head_dim = _heads(told)
    vision = {key.removeprefix("vision."): value for key, value in told.items() if key.startswith("vision.")}
    return ModelConfig(
        name=name,
        vision=VisionConfig(**{"heads": 1} | vision),
        backbone=TowerConfig(told["backbone.width"], told["backbone.mlp_dim"]),
        expert=TowerConfig(told.get("expert.width", 1024), told.get("expert.mlp_dim", 4096)),
        depth=told["depth"],
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=told["vocab_size"],
        action_dim=told.get("action_dim", 32),
        action_horizon=told.get("action_horizon", 50),
        family=family,
        max_prompt_tokens=told.get("max_prompt_tokens", _PROMPT_TOKENS[family]),
    )


def adaptation_of(sizes: Sizes) -> AdaptationConfig:
    """openpi's LoRA with the ranks that were found. Alpha is in no checkpoint: here it is the rank, as in openpi."""
    rules = []
    for part, rank in sizes.lora.items():
        tower, _, kind = part.partition(".")
        if kind == "attention":
            rules.append(LoraRule(f"layers.*.{tower}.[qkvo]_proj", rank, float(rank), per_head=True))
        else:
            rules.append(LoraRule(f"layers.*.{tower}.[gud]*_proj", rank, float(rank), "openpi_ffn"))
    return AdaptationConfig(rules)


def _heads(told: Mapping[str, int]) -> tuple[int, int, int]:
    """Heads, key-value heads and head_dim."""
    if "head_dim" in told:
        return told["heads"], told["kv_heads"], told["head_dim"]
    rows, kv_rows = told["heads * head_dim"], told["kv_heads * head_dim"]
    head_dim = rows // told["heads"] if "heads" in told else math.gcd(rows, kv_rows)
    return rows // head_dim, kv_rows // head_dim, head_dim


def _vocabulary(rows: int, config_json: Mapping[str, Any]) -> int:
    """The rows of the embedding without padding; its first row is that of the image token, which has no embedding."""
    padded = rows - PADDING_ROWS
    return padded if padded in (_PALIGEMMA_VOCABULARY, config_json.get("image_token_index")) else rows


def _vision(patch: int, width: int, tokens: int) -> dict[str, int]:
    return {"vision.image_size": patch * math.isqrt(tokens), "vision.patch_size": patch, "vision.width": width}


def _reader(specs: Specs, where: str) -> Callable[[str], Shape]:
    def shape(name: str) -> Shape:
        if name not in specs:
            raise UserError(
                f"checkpoint {where}",
                got=f"no array {name} among {len(specs)}",
                expected="all arrays of a pi0.5, pi0, pi0-FAST or PaliGemma network",
                do="check that it is one, and fetch it again if a download was cut off",
            )
        return specs[name].shape

    return shape


def _count(names: Iterable[str], prefix: str) -> int:
    """Layers whose number stands right behind `prefix`."""
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    return len({match.group(1) for name in names if (match := pattern.match(name))})
