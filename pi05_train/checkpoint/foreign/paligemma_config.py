"""The `config.json` beside weights in Hugging Face's PaliGemma format, without which transformers cannot load them."""

from __future__ import annotations

from typing import Any

from pi05_train.model.config import ModelConfig

_EPSILON = 1e-6
_GELU = "gelu_pytorch_tanh"


def paligemma_config(config: ModelConfig, dtype: str = "float32") -> dict[str, Any]:
    """The sizes of the network's backbone in transformers' keys, for 4.53 and later.

    The image token is the first id behind the vocabulary, as in PaliGemma's tokenizer: it has no embedding.
    """
    vision, width = config.vision, config.backbone.width
    return {
        "architectures": ["PaliGemmaForConditionalGeneration"],
        "model_type": "paligemma",
        "torch_dtype": dtype,
        "image_token_index": config.vocab_size,
        "vocab_size": config.vocab_size,
        "hidden_size": width,
        "projection_dim": width,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "text_config": {
            "model_type": "gemma",
            "torch_dtype": dtype,
            "vocab_size": config.vocab_size,
            "hidden_size": width,
            "intermediate_size": config.backbone.mlp_dim,
            "num_hidden_layers": config.depth,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
            "hidden_activation": _GELU,
            "hidden_act": _GELU,
            "rms_norm_eps": _EPSILON,
        },
        "vision_config": {
            "model_type": "siglip_vision_model",
            "torch_dtype": dtype,
            "image_size": vision.image_size,
            "patch_size": vision.patch_size,
            "hidden_size": vision.width,
            "intermediate_size": vision.mlp_dim,
            "num_hidden_layers": vision.depth,
            "num_attention_heads": vision.heads,
            "hidden_act": _GELU,
            "layer_norm_eps": _EPSILON,
            "projection_dim": width,
            "vision_use_head": False,
        },
    }
