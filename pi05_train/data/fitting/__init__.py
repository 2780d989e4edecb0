"""Tokenizers fitted and measured on a mixture."""
