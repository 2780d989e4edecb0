"""Where `conf/`, `data_mixtures/` and `tokenizers/` are: beside the package in a checkout, inside it in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def resource(name: str) -> Path:
    """The absolute folder `name` (conf, data_mixtures or tokenizers).

    The checkout counts only when `pyproject.toml` stands beside the package: `site-packages/tokenizers` is
    Hugging Face's code, not ours.
    """
    checkout, shipped = PACKAGE.parent / name, PACKAGE / "_shipped" / name
    folder = checkout if (PACKAGE.parent / "pyproject.toml").is_file() else shipped
    if not folder.is_dir():
        raise FileNotFoundError(f"{name}: neither {checkout} nor {shipped} exists; reinstall pi05_train.")
    return folder
