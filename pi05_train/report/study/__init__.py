"""Runs of one study beside each other: one of them is the baseline, the others are compared with it."""
