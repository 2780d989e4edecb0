"""The arguments of every verb that asks a policy."""

from __future__ import annotations

import argparse


def add_computing(parser: argparse.ArgumentParser) -> None:
    """Add which weights answer, where they compute and how finely."""
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="which weights (default: %(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: a GPU where there is one")
    parser.add_argument("--precision", choices=("bf16", "fp32"), help="default: bf16 on a GPU, fp32 elsewhere")
