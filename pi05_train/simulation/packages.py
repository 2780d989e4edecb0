"""The one place that imports the simulators: off-screen rendering is chosen before mujoco is loaded."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import os
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

from pi05_train.errors import UserError


def load(module: str) -> ModuleType:
    """Import a module of the `sim` extra.

    mujoco reads `MUJOCO_GL` when it is first imported, so it is set here, before; a person's own choice stands.
    Notes that the simulators print about themselves while being imported are not ours to mend and are silenced.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    if importlib.util.find_spec("triton") is not None:
        # Mesa's renderer and torch's compiler each bring an LLVM; the process dies unless torch's comes first.
        importlib.import_module("triton")
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise _missing(str(error.name)) from error
    except (ImportError, AttributeError, RuntimeError) as error:
        raise graphics_error(error) from error


def folder_of(package: str) -> Path:
    """Where a package of the `sim` extra is installed; it is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise _missing(package)
    return Path(found.origin).parent


def _missing(module: str) -> UserError:
    return UserError(
        "simulation",
        got=f"no module named {module}",
        expected="the simulators",
        do="install them with `pip install 'pi05_train[sim]'`",
    )


def graphics_error(error: Exception) -> UserError:
    """What to tell a person whose machine cannot render off-screen."""
    return UserError(
        f"off-screen rendering with MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}",
        got=f"'{error}'",
        expected="a working OpenGL library",
        do="install one (Debian: `apt-get install libegl1 libosmesa6`) or choose another with `MUJOCO_GL=osmesa`",
    )


def mujoco() -> Any:
    """The mujoco module, with off-screen rendering chosen."""
    return load("mujoco")
