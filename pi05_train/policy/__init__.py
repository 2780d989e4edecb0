"""Weights to actions: the flow sampler on a prefix cache, greedy decoding, the policy a robot calls."""
