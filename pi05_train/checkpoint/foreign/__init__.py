"""Checkpoints of other programs under our names, and ours under theirs."""
