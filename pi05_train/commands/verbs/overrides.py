"""The arguments of every verb that takes a configuration."""

from __future__ import annotations

import argparse

OVERRIDES_HELP = "Hydra overrides, e.g. experiment=demo_pretrain run.steps=10 mixture.sources.sim_web.enabled=false"


def add_overrides(verb: argparse.ArgumentParser) -> None:
    """Hydra overrides, and the folder of a user's own groups."""
    verb.add_argument("overrides", nargs="*", help=OVERRIDES_HELP)
    verb.add_argument("--config-dir", help="a folder of your own with experiment/, mixture/, source/ ...")
