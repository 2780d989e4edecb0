"""Held-out metrics against baselines, closed-loop rollouts, and the files they are written to."""
