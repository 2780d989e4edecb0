"""How much to simulate; no simulator is imported here."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from pi05_train.errors import UserError

SOURCES = ("sim_fetch", "sim_metaworld", "sim_aloha", "sim_subtasks", "sim_verbal", "sim_web")
"""The sources `simulate` writes, one folder each."""


@dataclass(frozen=True)
class SimulationSettings:
    """Amounts of simulated data. The same settings give the same bytes, whatever `workers` is."""

    seed: int = 0
    image_size: int = 64
    """Pixels; images are square."""
    fetch_episodes: int = 300
    metaworld_episodes: int = 144
    aloha_episodes: int = 24
    web_samples: int = 480
    anchor_stride: int = 2
    """Control steps between two recorded anchors of an episode (ALOHA, at 50 Hz, uses three times this)."""
    samples_per_shard: int = 500
    workers: int = 2
    """Processes; 1 runs everything in the calling process."""


def enlarged(settings: SimulationSettings, times: int) -> SimulationSettings:
    """So many times the episodes and pictures."""
    amounts = ("fetch_episodes", "metaworld_episodes", "aloha_episodes", "web_samples")
    return replace(settings, **{name: times * getattr(settings, name) for name in amounts})


def check_settings(settings: SimulationSettings) -> None:
    """Refuse amounts that cannot give a source."""
    for field in fields(settings):
        value, least = getattr(settings, field.name), 0 if field.name == "seed" else 1
        if value < least:
            raise UserError(f"simulation, {field.name}", got=value, expected=f"at least {least}", do="raise it")
    if settings.image_size < 16:
        raise UserError("simulation, image_size", got=settings.image_size, expected="at least 16", do="raise it")
