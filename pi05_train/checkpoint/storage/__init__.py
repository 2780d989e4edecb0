"""Tensors by name, wherever they lie and in whatever files: one at a time, in and out."""
