"""Weights of other programs, in and out: every format as named tensors, every network as a table of names."""
