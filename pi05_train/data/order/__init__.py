"""Which samples form the batch of a step: weights, phases, the schedule, the opened mixture."""
