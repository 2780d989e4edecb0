"""Names of the PyTorch checkpoints: openpi's conversion, LeRobot's, and Hugging Face's PaliGemma.

They store our parameters one by one and in our shapes, so a table of names is all there is. All three keep PaliGemma's
parts under transformers' names, which changed with its versions: reading finds the prefixes in the checkpoint itself.
Sources: openpi examples/convert_jax_model_to_pytorch.py and models_pytorch/, lerobot policies/{pi0,pi05,pi0_fast}/,
transformers models/{paligemma,siglip}/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from pi05_train.checkpoint.foreign.layout import Layout, Leaf, Piece, Shape
from pi05_train.model.config import ModelConfig

PADDING_ROWS = 64
"""What transformers' conversion put behind PaliGemma's vocabulary of 257152."""
_BLOCK = {
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj", "attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm",
    "gate_proj": "mlp.gate_proj", "up_proj": "mlp.up_proj", "down_proj": "mlp.down_proj",
}  # fmt: skip
_VISION_BLOCK = {
    "q_proj": "self_attn.q_proj", "k_proj": "self_attn.k_proj", "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.out_proj", "attention_norm": "layer_norm1", "mlp_norm": "layer_norm2",
    "fc1": "mlp.fc1", "fc2": "mlp.fc2",
}  # fmt: skip
_VISION = {
    "patch_embedding": "embeddings.patch_embedding", "position_embedding": "embeddings.position_embedding.weight",
    "norm": "post_layernorm",
}  # fmt: skip
_ENDS = {"in_proj": "action_in_proj", "out_proj": "action_out_proj", "state_proj": "state_proj"}
_NORM = {"scale": "weight", "modulation.weight": "dense.weight", "modulation.bias": "dense.bias"}


@dataclass(frozen=True)
class TorchNames:
    """Under which prefix a checkpoint keeps each part."""

    language: str
    vision: str
    projector: str
    head: str
    """The output head, which is the token embedding once more."""
    expert: str = ""
    ends: str = ""

    @property
    def embedding(self) -> str:
        """The token embedding."""
        return f"{self.language}embed_tokens.weight"


def _with_expert(root: str) -> TorchNames:
    paligemma = f"{root}paligemma_with_expert.paligemma"
    return TorchNames(
        language=f"{paligemma}.model.language_model.",
        vision=f"{paligemma}.model.vision_tower.vision_model.",
        projector=f"{paligemma}.model.multi_modal_projector.linear.",
        head=f"{paligemma}.lm_head.weight",
        expert=f"{root}paligemma_with_expert.gemma_expert.",
        ends=root,
    )


OPENPI = _with_expert("")
LEROBOT = _with_expert("model.")
PALIGEMMA = TorchNames(
    "language_model.model.", "vision_tower.vision_model.", "multi_modal_projector.linear.", "lm_head.weight"
)
"""What every version of transformers loads; `save_pretrained` writes it, from 5.x on without `vision_model.`."""


def find_names(stored: Iterable[str], usual: TorchNames) -> TorchNames:
    """The prefixes a checkpoint uses; the usual one where it lacks the part."""
    names = list(stored)

    def before(suffix: str, otherwise: str, *, expert: bool = False) -> str:
        """What stands before `suffix` in the first name that has it; the vision tower's blocks lie in `encoder.`."""
        for name in names:
            prefix = name.removesuffix(suffix)
            if prefix != name and ("gemma_expert." in name) is expert and not prefix.endswith("encoder."):
                return prefix
        return otherwise

    attention, projector = "layers.0.self_attn.q_proj.weight", "multi_modal_projector.linear."
    head = "lm_head.weight"
    return TorchNames(
        language=before(attention, usual.language),
        vision=before("embeddings.patch_embedding.weight", usual.vision),
        projector=before(f"{projector}weight", usual.projector.removesuffix(projector)) + projector,
        head=before(head, usual.head.removesuffix(head)) + head,
        expert=before(f"model.{attention}", usual.expert, expert=True),
        ends=before("action_in_proj.weight", usual.ends),
    )


def openpi_layout(config: ModelConfig, ours: Mapping[str, Shape], names: TorchNames = OPENPI) -> Layout:
    """openpi's PyTorch checkpoints, as its converter writes and its `load_model` accepts them, without its copies.

    The embedding is stored under the output head's name alone. The expert's own head is never used: it is missing in
    openpi's JAX tree and random in converted checkpoints, but their loader asks for it.
    """
    return _layout("openpi's PyTorch checkpoint", config, ours, names, embedding_is_head=True)


def lerobot_layout(config: ModelConfig, ours: Mapping[str, Shape], names: TorchNames = LEROBOT) -> Layout:
    """LeRobot's checkpoints: openpi's names under `model.`, and the embedding under both of its names."""
    layout = _layout("LeRobot's checkpoint", config, ours, names, embedding_is_head=True)
    return replace(layout, writes_copies=True)


def paligemma_layout(
    config: ModelConfig, ours: Mapping[str, Shape], names: TorchNames = PALIGEMMA, *, vocab_rows: int | None = None
) -> Layout:
    """Hugging Face's PaliGemma, for a model without an expert.

    Its embedding has `vocab_rows`: where the vocabulary is padded, the rows behind ours are left out.
    """
    layout = _layout("Hugging Face's PaliGemma", config, ours, names, embedding_is_head=False)
    vocab = config.vocab_size
    if vocab_rows != vocab + PADDING_ROWS:
        return layout
    leaf = Leaf((vocab_rows, config.backbone.width), (Piece("embedding.weight", (slice(vocab),)),))
    unused = {f"{names.embedding}[{vocab}:{vocab_rows}]": "padding that transformers puts behind the vocabulary"}
    return replace(layout, leaves={**layout.leaves, names.embedding: leaf}, unused=unused)


def _layout(
    what: str, config: ModelConfig, ours: Mapping[str, Shape], names: TorchNames, *, embedding_is_head: bool
) -> Layout:
    theirs = {name: _their_name(name, names, mixing=config.state_token) for name in ours}
    copies = {names.head: names.embedding}
    if embedding_is_head:
        theirs["embedding.weight"], copies = names.head, {names.embedding: names.head}
    leaves = {their: Leaf(ours[name], (Piece(name),)) for name, their in theirs.items() if their is not None}
    unused, zeros = {}, {}
    if names.expert and "action.in_proj.weight" in ours:
        expert_head = f"{names.expert}lm_head.weight"
        unused = {expert_head: "the action expert's output head, which nothing uses"}
        zeros = {expert_head: (config.vocab_size, config.expert.width)}
    return Layout(f"{what} of a {config.family} model", ours, leaves, copies, unused, zeros=zeros)


def _their_name(name: str, names: TorchNames, *, mixing: bool) -> str | None:
    """What they call our parameter, None without a place for it; `mixing`: pi0's time MLP, which mixes actions in."""
    part, _, rest = name.partition(".")
    of_expert = part == "action" or ".expert." in name
    if ".lora_" in name or (of_expert and not names.expert):
        return None
    match part:
        case "embedding":
            return names.embedding
        case "final_norm":
            return f"{names.language}norm.weight"
        case "layers":
            index, _, leaf = rest.split(".", 2)
            root = f"{names.expert}model." if of_expert else names.language
            return f"{root}layers.{index}.{_renamed(leaf, _BLOCK)}"
        case "vision":
            return _vision_name(rest, names)
    if rest.startswith("final_norm."):
        return f"{names.expert}model.{_renamed(rest, {'final_norm': 'norm'})}"
    times = {time: f"action_{time}" if mixing else time for time in ("time_mlp_in", "time_mlp_out")}
    return f"{names.ends}{_renamed(rest, _ENDS | times)}"


def _vision_name(name: str, names: TorchNames) -> str:
    if name.startswith("head."):
        return names.projector + name.removeprefix("head.")
    if name.startswith("blocks."):
        _, index, leaf = name.split(".", 2)
        return f"{names.vision}encoder.layers.{index}.{_renamed(leaf, _VISION_BLOCK)}"
    return names.vision + _renamed(name, _VISION)


def _renamed(leaf: str, modules: Mapping[str, str]) -> str:
    """A parameter `module.rest` under the module's other name."""
    module, dot, rest = leaf.partition(".")
    return f"{modules[module]}{dot}{_NORM.get(rest, rest)}"
