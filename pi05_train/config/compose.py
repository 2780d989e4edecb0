"""Overrides in, one validated `Config` out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pi05_train.config.convert import build, nearest
from pi05_train.config.schema import Config
from pi05_train.config.validate import validate
from pi05_train.errors import UserError
from pi05_train.resources import resource


def compose(overrides: Sequence[str]) -> Config:
    """The validated configuration of `conf/config.yaml` with Hydra overrides (`experiment=demo_pretrain run.steps=10`).

    Raises UserError for an unknown group choice or key (naming the nearest one), a missing or wrongly typed value,
    and every combination `validate` refuses.
    """
    with initialize_config_dir(str(resource("conf")), version_base="1.3"):
        try:
            composed = hydra_compose("config", [_SEARCH.format(resource("data_mixtures")), *overrides])
            values = OmegaConf.to_container(composed, resolve=True, throw_on_missing=True)
        except MissingConfigException as error:
            raise _unknown_choice(error) from None
        except (HydraException, OmegaConfBaseException) as error:
            raise _unknown_key(error, overrides) from None
    config = build(Config, values)
    validate(config)
    return config


_SEARCH = "hydra.searchpath=[file://{}]"


def read_config(path: Path) -> Config:
    """The resolved configuration a run folder keeps."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise UserError(
            f"run folder {path.parent}", got="no config.yaml", expected="a folder that `pi05 train` wrote", do="check the path"
        ) from None
    return build(Config, yaml.safe_load(text))


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `read_config` reads it back to an equal value."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def _unknown_choice(error: MissingConfigException) -> UserError:
    wanted = (error.missing_cfg_file or "?").removesuffix(".yaml")
    options = [str(option) for option in error.options or []]
    group, _, choice = wanted.rpartition("/")
    return UserError(
        group or "config group", got=repr(choice), expected=f"one of {options}", do=nearest(choice, options)
    )


def _unknown_key(error: Exception, overrides: Sequence[str]) -> UserError:
    """Which override is at fault, and the nearest key that exists without it."""
    known = [*_leaf_keys(hydra_compose("config", [_SEARCH.format(resource("data_mixtures")), *_groups(overrides)]))]
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if "." in key and key not in known and not any(k.startswith(f"{key}.") for k in known):
            return UserError(key, got="an unknown key", expected="a key of the configuration", do=nearest(key, known))
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        groups = [path.name for path in resource("conf").iterdir() if path.is_dir()] + ["mixture"]
        if "." not in key and key not in groups:
            return UserError(key, got="an unknown group", expected=f"one of {sorted(groups)}", do=nearest(key, groups))
    return UserError("config", got=" ".join(str(error).split()), expected="a composable configuration", do="correct the overrides")


def _groups(overrides: Sequence[str]) -> list[str]:
    groups = {path.name for path in resource("conf").iterdir() if path.is_dir()} | {"mixture"}
    return [o for o in overrides if o.partition("=")[0] in groups]


def _leaf_keys(node: DictConfig, prefix: str = "") -> list[str]:
    keys: list[str] = []
    for key in node:
        full = f"{prefix}{key}"
        child = None if OmegaConf.is_missing(node, key) else node._get_node(key)
        keys += _leaf_keys(child, f"{full}.") if isinstance(child, DictConfig) else [full]
    return keys
