"""The loop around an engine: run folder, metrics, trackers, checkpoints."""
