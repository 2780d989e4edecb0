"""README.md of exported weights: what they are, how they came about, and how the other program loads them.

Made of plain values, such as a run's `config.yaml` and `code_version.json` hold them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

Json = Mapping[str, Any]

FAMILIES = {"pi05": "π0.5", "pi0": "π0", "pi0_fast": "π0-FAST"}
FORMATS = {
    "openpi": "openpi (JAX)",
    "openpi_torch": "openpi (PyTorch)",
    "lerobot": "LeRobot",
    "paligemma": "Hugging Face PaliGemma",
}
GEMMA_NOTICE = "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
"""What the terms ask to stand in a file "Notice" beside distributed weights that descend from Gemma."""

_LOAD_OPENPI = """\
```python
from openpi.models.{module} import {config}
from openpi.policies import policy_config
from openpi.training import config as training_config

# A TrainConfig of yours: the robot's data config with asset_id="{source}", and
# model={config}({arguments})
policy = policy_config.create_trained_policy(training_config.get_config("<its name>"), "<this folder>")
```
"""
_LOAD_LEROBOT = """\
```python
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

policy = get_policy_class("{family}").from_pretrained("<this folder>")
device = {{"device_processor": {{"device": str(policy.config.device)}}}}
before, after = make_pre_post_processors(
    policy.config, pretrained_path="<this folder>", preprocessor_overrides=device
)
actions = after(policy.predict_action_chunk(before(observation)))
```

For LeRobot 0.4.4 with transformers 4.53.2 and openpi's `transformers_replace` copied over it. `observation` holds
`observation.images.<camera>` (float, [3, height, width], 0 to 1), `observation.state` and `task`. The folder says
`"device": "cpu"`; pass `--policy.device=cuda` to LeRobot's commands, or change it in `config.json`. The tokenizer
`google/paligemma-3b-pt-224` comes from the Hugging Face Hub; another one is handed over as
`preprocessor_overrides={{"tokenizer_processor": {{"tokenizer": tokenizer}}}}`.

LeRobot goes on with a warning where weights do not fit, so look for `All keys loaded successfully!`. The token
embedding is stored under both of its names, and the expert's output head, which nothing uses, as zeros: LeRobot asks
for them.
"""
_LOAD_PALIGEMMA = """\
```python
from transformers import PaliGemmaForConditionalGeneration

model = PaliGemmaForConditionalGeneration.from_pretrained("<this folder>")
```

The backbone alone: no action expert.
"""
_FORMULAS = {
    "quantile": "(x - q01) / (q99 - q01 + 1e-6) * 2 - 1, not clipped",
    "z_score": "(x - mean) / (std + 1e-6)",
}


@dataclass(frozen=True)
class Exported:
    """What was exported, in plain values."""

    name: str
    """The heading, such as the run folder's name."""
    format: str
    """A key of `FORMATS`."""
    weights: str
    """"averaged", "raw", or where they came from if not out of a run."""
    dtype: str
    model: Json
    """`ModelConfig` as a dictionary."""
    source: str = ""
    """The source whose statistics lie beside the weights."""
    normalisation: str = ""
    """"quantile" or "z_score"; "": as `config` says, nothing if that is empty."""
    step: int | None = None
    """Optimizer steps taken."""
    config: Json = field(default_factory=dict)
    """The run's `config.yaml`; {} without a run."""
    versions: Sequence[Json] = ()
    """The run's `code_version.json`: one entry per change of code."""
    origin: Json = field(default_factory=dict)
    """Whatever else is known of where the weights come from."""
    limits: Sequence[str] = ()
    """Sentences on what the other program does not do by itself."""
    gemma: bool = True
    """Whether the weights descend from PaliGemma's or another Gemma's; False only for weights trained from nothing."""


def model_card(exported: Exported) -> str:
    """The text of README.md, with Hugging Face's front matter."""
    sections = (
        ("Recipe", _recipe(exported.config)),
        ("Mixture", _mixture(exported.config)),
        ("Weights", _weights(exported)),
        ("Normalisation", _normalisation(exported)),
        ("How to load", _loading(exported)),
        ("Limits", "".join(f"- {sentence}\n" for sentence in exported.limits)),
        ("Versions", _versions(exported.versions)),
        ("Licence", _licence(exported)),
    )
    family = FAMILIES[str(exported.model["family"])]
    heading = f"# {exported.name}\n\n{family} weights for {FORMATS[exported.format]}, exported by pi05_train.\n"
    body = "".join(f"\n## {title}\n\n{text}" for title, text in sections if text)
    return f"---\n{_front_matter(exported)}---\n\n{heading}{body}"


def _front_matter(exported: Exported) -> str:
    library = {"lerobot": "lerobot", "paligemma": "transformers"}.get(exported.format, "openpi")
    answers = "image-text-to-text" if exported.format == "paligemma" else "robotics"
    fields: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": answers,
        "tags": ["robotics", "vision-language-action", str(exported.model["family"]), "pi05_train"],
    }
    if exported.gemma:
        fields["license"] = "gemma"
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)


def _recipe(config: Json) -> str:
    if not config:
        return ""
    run, objective = config["run"], config["stage"]["objective"]
    optimizer, data = config["optimizer"], config["data"]
    lora = config.get("adaptation", {}).get("lora") or []
    rows = {
        "stage": config["stage"]["name"],
        "flow loss, alpha": objective["alpha"] if objective["expert"] else "none: no action expert",
        "text and FAST loss": _yes(objective.get("text", True)),
        "knowledge insulation": _yes(objective["insulation"] and objective["expert"]),
        "flow draws per sample": objective.get("flow_draws", 1),
        "flow loss over padded dimensions": _yes(objective.get("openpi_exact", False)),
        "low-level prompt": f"`{_prompt(config)!r}`",
        "started from": run.get("start_from") or "random weights",
        "steps planned": run["steps"],
        "samples per step": data["global_batch_samples"],
        "optimizer": f"{optimizer['name']}, learning rate {optimizer['learning_rate']}, {config['schedule']['name']}",
        "precision": config["engine"].get("precision", "unknown"),
        "LoRA": f"{len(lora)} rules" if lora else "no",
        "seed": run["seed"],
    }
    return _table(("setting", "value"), rows.items())


def _mixture(config: Json) -> str:
    sources = {
        name: source
        for name, source in config.get("mixture", {}).get("sources", {}).items()
        if source.get("enabled", True)
    }
    if not sources:
        return ""
    total = sum(source["weight"] for source in sources.values())
    rows = []
    for name, source in sources.items():
        card = source["card"]
        share = f"{100.0 * source['weight'] / total:.1f} %" if total else "0 %"
        cameras, licence = ", ".join(card.get("cameras", [])), card.get("licence", "")
        rows.append((name, card["kind"], share, card.get("embodiment", ""), cameras, licence))
    filters = {key: value for key, value in config["mixture"].get("filters", {}).items() if value is not None}
    filtered = ", ".join(f"{key} {value}" for key, value in filters.items())
    table = _table(("source", "kind", "share", "embodiment", "cameras", "licence"), rows)
    return table + (f"\nFilters: {filtered}.\n" if filtered else "")


def _weights(exported: Exported) -> str:
    model, ema = exported.model, exported.config.get("optimizer", {}).get("ema_decay")
    kind = f"averaged over the steps, decay {ema}" if exported.weights == "averaged" and ema else exported.weights
    vision, backbone, expert = model["vision"], model["backbone"], model["expert"]
    rows = {
        "weights": kind,
        "step": exported.step,
        "stored as": exported.dtype,
        "network": f"{model['name']}, {FAMILIES[str(model['family'])]}",
        "layers, heads": f"{model['depth']}, {model['heads']} of {model['head_dim']}",
        "backbone, expert width": f"{backbone['width']}, {expert['width']}",
        "pictures": f"{vision['image_size']}x{vision['image_size']}, vision width {vision['width']}",
        "action chunk": f"{model['action_horizon']} steps of {model['action_dim']} padded dimensions",
        **{f"origin: {key}": value for key, value in exported.origin.items()},
    }
    return _table(("", "value"), ((key, value) for key, value in rows.items() if value is not None))


def _normalisation(exported: Exported) -> str:
    configured = exported.config["data"].get("normalisation", "quantile") if exported.config else ""
    kind = exported.normalisation or configured
    if exported.format == "paligemma" or not kind:
        return ""
    of = f" with the statistics of source `{exported.source}`" if exported.source else ""
    text = f"States and actions are normalised{of}: {_FORMULAS[kind]}.\n"
    card = exported.config.get("mixture", {}).get("sources", {}).get(exported.source, {}).get("card", {})
    if any(card.get("delta_mask", [])):
        dims = [dim for dim, relative in enumerate(card["delta_mask"]) if relative]
        text += f"Action dimensions {', '.join(map(str, dims))} are relative to the state at the chunk's start.\n"
    if card:
        text += f"State {card['state_dim']} numbers, actions {card['action_dim']}, {card['rate_hz']} Hz.\n"
    return text


def _loading(exported: Exported) -> str:
    model, family = exported.model, str(exported.model["family"])
    if exported.format == "paligemma":
        return _LOAD_PALIGEMMA
    if exported.format == "lerobot":
        return _LOAD_LEROBOT.format(family=family)
    module, config = ("pi0_fast", "Pi0FASTConfig") if family == "pi0_fast" else ("pi0_config", "Pi0Config")
    arguments = {"action_dim": model["action_dim"], "action_horizon": model["action_horizon"]}
    arguments["max_token_len"] = model.get("max_prompt_tokens", 200)
    if family == "pi05":
        arguments = {"pi05": True, **arguments}
        if exported.config and "{state}" not in _prompt(exported.config):
            arguments["discrete_state_input"] = False
    written = ", ".join(f"{key}={value}" for key, value in arguments.items())
    return _LOAD_OPENPI.format(
        module=module, config=config, arguments=written, source=exported.source or "<the robot's statistics>"
    )


def _versions(versions: Sequence[Json]) -> str:
    names = list(dict.fromkeys(key for version in versions for key in version))
    return _table(names, [[version.get(name, "") for name in names] for version in versions]) if versions else ""


def _licence(exported: Exported) -> str:
    text = "The program that trained and exported these weights is under Apache-2.0; the data's licences stand above.\n"
    if not exported.config:
        text = "The program that exported these weights is under Apache-2.0.\n"
    if not exported.gemma:
        return text + "The weights were trained from random numbers: no others' weights are in them.\n"
    return text + (
        f"The weights descend from PaliGemma. {GEMMA_NOTICE}. They were modified; whoever passes them on passes on "
        "those terms, their use restrictions and a file with this notice.\n"
    )


def _prompt(config: Json) -> str:
    templates = config.get("templates", {})
    return str(templates.get("low_level", "")) + str(templates.get("low_level_separator", ""))


def _yes(value: object) -> str:
    return "yes" if value else "no"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; what a cell holds cannot end it."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = ([" ".join(str(cell).split()).replace("|", "\\|") for cell in line] for line in lines)
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)
