"""The package finds its data folders in a checkout and in a wheel, and what it pins can be installed together."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def resolver_at(package: Path) -> object:
    """The module `resources.py` as if the package stood in another place."""
    package.mkdir(parents=True)
    (package / "resources.py").write_text((ROOT / "pi05_train" / "resources.py").read_text())
    spec = importlib.util.spec_from_file_location("resources_elsewhere", package / "resources.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_checkout_uses_the_folders_beside_the_package(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "pyproject.toml").touch()
    module = resolver_at(tmp_path / "pi05_train")
    assert module.resource("conf") == tmp_path / "conf"  # type: ignore[attr-defined]


def test_a_wheel_uses_its_own_copies_and_never_a_neighbour_of_the_same_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizers").mkdir()  # Hugging Face's package stands there in site-packages
    (tmp_path / "pi05_train" / "_shipped" / "tokenizers").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    module = resolver_at(tmp_path / "pi05_train" / "x")
    shipped = tmp_path / "pi05_train" / "x" / "_shipped" / "tokenizers"
    shipped.mkdir(parents=True)
    assert module.resource("tokenizers") == shipped  # type: ignore[attr-defined]


def test_missing_folders_are_named(tmp_path: Path) -> None:
    module = resolver_at(tmp_path / "pi05_train")
    with pytest.raises(FileNotFoundError, match="conf"):
        module.resource("conf")  # type: ignore[attr-defined]


def test_every_data_folder_goes_into_the_wheel() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    assert included == {name: f"pi05_train/_shipped/{name}" for name in ("conf", "data_mixtures", "tokenizers")}


def test_every_constraint_lies_in_the_declared_range() -> None:
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if re.match(r"\w", line))
    pinned = {Requirement(line).name.lower().replace("_", "-"): line.split("==")[1] for line in lines}
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in map(Requirement, chain(PROJECT["project"]["dependencies"], *extras)):
        assert requirement.specifier.contains(pinned[requirement.name.lower().replace("_", "-")]), requirement
