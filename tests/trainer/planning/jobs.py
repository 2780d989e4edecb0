"""Jobs and loads for the tests of planning."""

from __future__ import annotations

from functools import cache

from pi05_train.config.cluster import ClusterConfig
from pi05_train.config.compose import compose_plan
from pi05_train.config.schema import Config
from pi05_train.trainer.flops import Load
from pi05_train.trainer.planning.network import Network


@cache
def job(*overrides: str) -> tuple[Config, ClusterConfig]:
    """The full-size second stage, or what the overrides make of it."""
    return compose_plan(["experiment=pi05_posttrain", "run.start_from=null", *overrides])


@cache
def network(*overrides: str) -> Network:
    return Network.of(job(*overrides)[0])


def segment(*, images: int, prompt: int, target: int, acting: bool = True) -> Load:
    """One sample at full size, one flow draw."""
    prefix = images * 256 + prompt
    pairs = prefix**2 + target * (prefix + target)
    return Load(images, prefix, target, pairs, target, int(acting), prefix * acting)


FLOW_ONLY = segment(images=3, prompt=200, target=0)
CO_TRAINING = segment(images=3, prompt=200, target=100)
"""Cases A and B of the project's roofline."""
