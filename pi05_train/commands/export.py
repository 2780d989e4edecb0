"""`pi05 checkpoint export`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pi05_train.checkpoint.foreign.exporting import EXPORTS, Weights, asset_path, export_checkpoint
from pi05_train.checkpoint.foreign.formats import FOREIGN
from pi05_train.checkpoint.foreign.identify import Format, identify
from pi05_train.checkpoint.foreign.lerobot_files import LerobotPolicy, limits, policy_of
from pi05_train.checkpoint.foreign.merged import ForRobot, Merged
from pi05_train.checkpoint.foreign.model_card import GEMMA_NOTICE, Exported, model_card
from pi05_train.checkpoint.storage.assets import find_assets
from pi05_train.checkpoint.storage.own import Kind, RunSource, WeightsFolder
from pi05_train.checkpoint.storage.source import TensorSource
from pi05_train.commands.progress import progress_bar
from pi05_train.config.build import enabled_cards
from pi05_train.config.compose import read_config
from pi05_train.config.convert import build
from pi05_train.config.schema import Config
from pi05_train.errors import UserError
from pi05_train.model.adaptation import AdaptationConfig
from pi05_train.model.config import ModelConfig
from pi05_train.samples.card import SourceCard

OPENPI = (Format.OPENPI_ORBAX, Format.OPENPI_TORCH)
SEVERAL_ROBOTS = (
    "These are the weights of several robots. Before one of them runs in openpi, export them for it (--source): openpi "
    "moves action dimensions beyond the robot's own by outputs that were not trained, and the network reads them."
)
KINDS: dict[str | None, Kind | None] = {"ema": "ema", "raw": "model", None: None}


@dataclass(frozen=True)
class _Export:
    """What is exported, and what its card says."""

    weights: Weights
    card: dict[str, Any]
    """Arguments of `Exported` beside the format and the dtype."""
    limits: list[str] = field(default_factory=list)


def export(where: str, folder: str, to: str, *, weights: str | None, source: str | None, dtype: str) -> None:
    """Write a run's weights ("ema", "raw", or None: averaged if it has them) or a weights folder in another format."""
    format = EXPORTS[to]
    found = identify(where)
    if found in FOREIGN:
        raise UserError(
            f"export of {where}", got=found.value, expected="a run folder or a weights folder", do="import it first"
        )
    if found is Format.RUN:
        made = _of_run(Path(where), KINDS[weights], source, format, dtype)
    else:
        made = _of_weights_folder(Path(where), format, dtype)
    exported = Exported(format=to, dtype=dtype, limits=made.limits, **made.card)
    notice = GEMMA_NOTICE if exported.gemma else ""
    with progress_bar("exporting") as report:
        count = export_checkpoint(
            made.weights, Path(folder), format, card=model_card(exported), notice=notice, dtype=dtype, report=report
        )
    print(f"{folder}: {count} arrays for {format.value}")
    for sentence in made.limits:
        print(f"note: {sentence}")


def _of_run(path: Path, kind: Kind | None, source: str | None, format: Format, dtype: str) -> _Export:
    run = path if (path / "config.yaml").is_file() else path.parent.parent
    config = read_config(run / "config.yaml")
    stored = RunSource(path, kind)
    card = _chosen(config, source, run, required=format is Format.LEROBOT)
    plain: TensorSource = Merged(stored, config.adaptation.lora)
    policy, sentences = None, []
    if config.stage.objective.expert and not config.stage.objective.openpi_exact:
        if card is not None:
            plain = ForRobot(plain, card.action_dim)
        elif format in OPENPI:
            sentences = [SEVERAL_ROBOTS]
    if format is Format.LEROBOT:
        assert card is not None
        policy = _policy(config, card, dtype)
        sentences = limits(policy)
    weights = Weights(
        plain,
        config.model,
        find_assets(str(run)).files,
        policy,
        asset_path(card.name) if card else "",
    )
    versions = run / "code_version.json"
    about = {
        "name": run.resolve().name,
        "weights": "averaged" if stored.kind == "ema" else "raw",
        "model": asdict(config.model),
        "source": card.name if card else "",
        "step": int(Path(stored.where).name.removeprefix("step-")),
        "config": asdict(config),
        "versions": json.loads(versions.read_text()) if versions.is_file() else [],
        "gemma": config.run.start_from is not None,
    }
    return _Export(weights, about, sentences)


def _policy(config: Config, card: SourceCard, dtype: str) -> LerobotPolicy:
    return policy_of(
        config.model,
        card,
        normalisation=config.data.normalisation,
        low_level=config.templates.low_level,
        separator=config.templates.low_level_separator,
        control_mode=config.templates.control_mode,
        euler_steps=config.evaluation.euler_steps,
        dtype=dtype,
    )


def _chosen(config: Config, source: str | None, run: Path, *, required: bool) -> SourceCard | None:
    """The card of the source that is meant; without a name, of the only one with actions, or None."""
    cards = {name: card for name, card in enabled_cards(config).items() if card.has_actions}
    if source is None and len(cards) == 1:
        return next(iter(cards.values()))
    if source is None and not required:
        return None
    if source not in cards:
        raise UserError(
            f"export of {run}, --source",
            got=source or f"nothing, and {len(cards)} sources with actions",
            expected=f"one of {sorted(cards)}",
            do="name the robot that the policy is for",
        )
    return cards[source]


def _of_weights_folder(path: Path, format: Format, dtype: str) -> _Export:
    opened = WeightsFolder.open(path)
    model = build(ModelConfig, opened.model["model"], "model")
    adaptation = build(AdaptationConfig, opened.model["adaptation"], "adaptation")
    policy = None
    if format is Format.LEROBOT:
        if "lerobot" not in opened.origin:
            raise UserError(
                f"LeRobot export of {path}",
                got=f"weights from {opened.origin['format']}",
                expected="a run, or weights from LeRobot: its policies name cameras, dimensions and statistics",
                do="export a run that started from these weights, or choose another format",
            )
        policy = build(LerobotPolicy, opened.origin["lerobot"] | {"dtype": dtype}, "lerobot")
    statistics = opened.assets()
    weights = Weights(Merged(opened.source, adaptation.lora), model, statistics, policy, asset_path("lerobot"))
    origin = {key: opened.origin[key] for key in ("format", "where")}
    about = {"name": path.resolve().name, "weights": "as imported", "model": asdict(model), "origin": origin}
    if policy is None:
        return _Export(weights, about)
    return _Export(weights, about | {"normalisation": policy.normalisation}, limits(policy))
