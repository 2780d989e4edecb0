"""Thin verbs of the one console command `pi05`."""
