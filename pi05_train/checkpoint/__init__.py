"""Run state on disk: saved atomically, found again, refused when it does not fit."""
